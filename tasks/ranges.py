"""Ranges of settings: a value outside, or one that is no number, is one line of error that names the setting."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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


def check_ranges(config: Any, ranges: Mapping[str, Range]) -> None:
    """Raise ValueError naming the first of the fields of which a value lies outside; None is fine."""
    for name, allowed in ranges.items():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(each in allowed for each in values):
            is_, it = ("are", "each") if isinstance(value, tuple) else ("is", "it")
            raise ValueError(f"{name} {is_} {value}; {it} must be {allowed}")


def number_in(allowed: Range) -> Callable[[str], float]:
    """A `type` for argparse: a number of a range; argparse names the option of one that is none, in one line."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if value not in allowed:
            raise argparse.ArgumentTypeError(f"{text!r} is no number that is {allowed}")
        return value

    return number
