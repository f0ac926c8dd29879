"""The arguments of the published search hook of mmcv, checked."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from rfnext.convs.conv import INITIAL_WEIGHT
from rfnext.dilation import Bounds, Rule
from rfnext.search.local_config import LocalConfig


@dataclass(frozen=True)
class SearchSettings:
    """`config.search` of the published hook; the defaults are those of the published 1x detection runs.

    `RFSearchHook` says what each of them means.
    """

    step: int = 0
    max_step: int = 11
    search_interval: int = 1
    exp_rate: float = 0.5
    init_alphas: float = INITIAL_WEIGHT
    mmin: int = 1
    mmax: int = 24
    num_branches: int = 2
    skip_layer: tuple[str, ...] = ()

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """The settings of a config; raises ValueError, naming the argument, for one that is unknown or out of range."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise ValueError(
                    f"RFSearchHook: config.search has no argument {name!r}"
                    + (f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known)}")
                )
        skip_layer = given.get("skip_layer") or ()
        if not isinstance(skip_layer, (list, tuple)) or not all(isinstance(name, str) for name in skip_layer):
            raise ValueError(f"RFSearchHook: skip_layer is a list of names, got {skip_layer!r}")
        for field in fields(cls):
            value = given.get(field.name, field.default)
            if field.name != "skip_layer" and (
                isinstance(value, bool) or not isinstance(value, (int, float) if field.type is float else int)
            ):
                kind = "number" if field.type is float else "integer"
                raise ValueError(f"RFSearchHook: {field.name} is one {kind}, got {value!r}")
        if (interval := given.get("search_interval", cls.search_interval)) < 1:
            raise ValueError(f"RFSearchHook: search_interval is at least 1, got {interval}")
        settings = cls(**{**given, "skip_layer": tuple(skip_layer)})
        if settings.init_alphas != INITIAL_WEIGHT:
            raise ValueError(f"RFSearchHook: init_alphas is always {INITIAL_WEIGHT}, got {settings.init_alphas}")
        return settings

    def local_config(self, rule: Rule) -> LocalConfig:
        """The same as a config of ours. max_step is exclusive, and rounds before `step` are not run again."""
        return LocalConfig(
            interval=self.search_interval,
            rounds=max((self.max_step - 1) // self.search_interval - self.step // self.search_interval, 0),
            spread=self.exp_rate,
            branches=self.num_branches,
            bounds=Bounds(self.mmin, self.mmax),
            rule=rule,
        )


def has_components(name: str, part: str) -> bool:
    """Whether the dotted name contains all components of `part` in a row; "module." in front, as under DDP, counts."""
    return f".{part}." in f".module.{name}."
