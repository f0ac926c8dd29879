"""Structure files of the published code with the settings of their search, which say what the branches are."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rfnext.dilation import LARGEST, Bounds, Dilation, neighbours, searched_axis
from rfnext.files import read_json
from rfnext.structure import Structure

MOST_BRANCHES = 1000

STEPS = "local_search_config_step<N>.json"


class StructureFile(NamedTuple):
    """path: the file. structure: its entries, but for those of skipped layers. settings: its "search", as it stands."""

    path: Path
    structure: Structure
    settings: Mapping[str, Any]

    @property
    def entries(self) -> int:
        """Branch weights of every conv; older files call it S."""
        found = self._setting("num_branches", "S")
        if not isinstance(found, int) or found > MOST_BRANCHES:
            shown = reprlib.repr(found)
            raise ValueError(f"{self.path}: num_branches is {shown}, not an integer of at most {MOST_BRANCHES}")
        return found

    @property
    def step(self) -> int | None:
        """The step after which the file was written, if it says so."""
        return self.settings.get("step")

    def skips(self, name: str) -> bool:
        """Whether the published code leaves a layer alone: a word of skip_layer occurs anywhere in its name."""
        return any(word in f"module.{name}" for word in self.settings.get("skip_layer") or ())

    def branches(self, centre: Dilation, kernel: Sequence[int]) -> list[Dilation]:
        """The branches around a centre, as mmcv's operator has them: with duplicates that only axes without a search
        would have told apart.

        Raises ValueError if the file lacks a setting, or has one out of range.
        """
        smallest, largest = self._setting("mmin"), self._setting("mmax")
        if max(smallest, largest) > LARGEST:
            raise ValueError(f"{self.path}: mmin or mmax is above {LARGEST}, more than any input is long")
        spread, entries = self._setting("exp_rate"), self.entries
        every_axis = [3] * len(centre)  # duplicates are dropped before axes that are not searched are set back
        try:
            bounds = Bounds(smallest, largest)
            found = neighbours(centre, every_axis, spread=spread, branches=entries, bounds=bounds, rule="paper")
        except ValueError as error:
            raise ValueError(f"{self.path}: {str(error)[:300]}") from None
        return [
            tuple(d if searched_axis(k) else c for d, c, k in zip(branch, centre, kernel, strict=True))
            for branch in found
        ]

    def _setting(self, *names: str) -> Any:
        for name in names:
            value = self.settings.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return value
        raise ValueError(
            f"{self.path} says no number for {names[0]!r} under 'search', without which its branches are unknown; "
            f"give the {STEPS} that the search wrote"
        )


def read_structure(path: str | Path) -> StructureFile:
    """Read a structure file; raises ValueError and OSError as `Structure.load` does."""
    structure = Structure.load(path)
    settings = read_json(path).get("search", {})
    if not isinstance(settings, Mapping):
        raise ValueError(f"{path}: 'search' is {reprlib.repr(settings)}, not the settings of a search")
    skipped = settings.get("skip_layer") or []
    if not isinstance(skipped, list) or not all(isinstance(word, str) for word in skipped):
        raise ValueError(f"{path}: skip_layer is {reprlib.repr(skipped)}, not a list of names")
    if (normalised := settings.get("normlize", "absavg")) != "absavg":
        found = reprlib.repr(normalised)
        raise ValueError(f"{path}: probabilities normalised by {found} are not known here, only by 'absavg'")
    file = StructureFile(Path(path), structure, settings)
    return file._replace(structure=Structure({name: d for name, d in structure.items() if not file.skips(name)}))
