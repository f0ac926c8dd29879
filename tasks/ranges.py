"""Ranges of settings: a value outside, or one that is no number, is one line of error that names the setting."""

import argparse
import contextlib
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True)
class Range:
    """The numbers from `least`, or above `above`, to `most`, or below `below`. None of them is infinite."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = 1e9
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        low = f"at least {self.least:g}" if math.isfinite(self.least) else f"above {self.above:g}"
        return f"{low} and " + (f"below {self.below:g}" if math.isfinite(self.below) else f"at most {self.most:g}")


COUNT = Range(least=1)
NOT_NEGATIVE = Range(least=0)
POSITIVE = Range(above=0)
SHARE = Range(above=0, below=1)
DROPOUT = Range(least=0, below=1)
THREADS = Range(least=1, most=1024)
"""Of torch, or processes side by side."""

GPUS = Range(least=0, most=1024)
"""Of one process; 0 is none."""


def check_ranges(config: Any, ranges: Mapping[str, Range]) -> None:
    """Raise ValueError naming the first of the fields of which a value lies outside; None and words are fine."""
    for name, allowed in ranges.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else () if value is None or isinstance(value, str) else (value,)
        if not all(each in allowed for each in values):
            is_, it = ("are", "each") if isinstance(value, tuple) else ("is", "it")
            raise ValueError(f"{name} {is_} {reprlib.repr(value)}; {it} must be {allowed}")


def check_names(config: Any, known: Mapping[str, Iterable[Any]]) -> None:
    """Raise ValueError naming the first value in the fields, each a tuple, that is none of the known ones."""
    for name, allowed in known.items():
        allowed = list(allowed)
        if unknown := [one for one in getattr(config, name) if one not in allowed]:
            raise ValueError(f"unknown {name} {reprlib.repr(unknown[0])}; known: {', '.join(map(str, allowed))}")


Number = TypeVar("Number", int, float)


def number_in(allowed: Range, kind: Callable[[str], Number] = float) -> Callable[[str], Number]:
    """A `type` for argparse: a number of a range; argparse names the option of one that is none, in one line.

    kind: float, or int for whole numbers.
    """

    def number(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if value in allowed:
                return value
        what = "whole number" if kind is int else "number"
        raise argparse.ArgumentTypeError(f"{reprlib.repr(text)} is no {what} that is {allowed}")

    return number
