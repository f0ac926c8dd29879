"""The arithmetic of dilations: those around a centre, and the one that follows from probabilities.

All rounding of dilations is here. Plain Python on integers and floats; no tensors. The local search has two rules for
both directions:

`"paper"`
    exactly the arithmetic of the published code (RF-Next, arXiv 2206.06637, section 3.3, as mmcv 2.x ships it).
`"default"`
    the same idea without its faults: every branch lies at least one step from the next, so no dilation is frozen;
    half steps round the same way on both sides; and probabilities that were never touched leave the centre where it
    is, also at the bounds.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Dilation = tuple[int, ...]
"""Dilation of a convolution, one positive integer per spatial axis."""

LARGEST = 2**20
"""Largest dilation; no input is as long, and code in C counts in 32 bits."""

MOST_BRANCHES = 1024
"""Most branches of a conv. Each is computed; a mistyped number would fill the memory."""

Rule = Literal["default", "paper"]
"""How branch weights become probabilities, and probabilities the next dilation: "paper" is the published arithmetic
(RF-Next, arXiv 2206.06637, section 3.3) to the last digit, "default" the same idea without its faults."""


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest dilation that the search may choose, both included; `max=None` is unbounded.

    Raises:
        ValueError: if they are no integers, `min` is below 1, or `max` below `min`.
    """

    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "min", as_integer("Bounds.min", self.min))
        if self.max is not None:
            object.__setattr__(self, "max", as_integer("Bounds.max", self.max))
        if self.min < 1:
            raise ValueError(f"Bounds.min is {self.min}; a dilation is at least 1")
        if self.max is not None and self.max < self.min:
            raise ValueError(f"Bounds.max is {self.max}, below Bounds.min = {self.min}")

    def clip(self, dilation: int) -> int:
        """The nearest dilation within the bounds."""
        dilation = max(dilation, self.min)
        return dilation if self.max is None else min(dilation, self.max)

    def clip_searched(self, dilation: Dilation, kernel: Sequence[int]) -> Dilation:
        """The nearest dilation within the bounds on those axes that are searched; see `searched_axis`."""
        return tuple(self.clip(d) if searched_axis(k) else d for d, k in zip(dilation, kernel, strict=True))


def searched_axis(kernel: int) -> bool:
    """Whether an axis of that kernel size is searched: at 1 a dilation has no effect, and an even kernel has no centre
    to keep in place (`rfnext.convs.padding.kernel_to_search` is for those that keep another tap there)."""
    return kernel > 1 and kernel % 2 == 1


def brief(values: Sequence[int]) -> str:
    """A dilation, or another tuple with an entry per axis, as people write it: "4", or "1x4" if its axes differ."""
    return "x".join(map(str, values if len(set(values)) > 1 else values[:1]))


def as_integer(name: str, value: Any) -> int:
    """The value, of int's own type if it was one of NumPy's; raises ValueError by that name if it is no integer."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}, not an integer") from None


def check_rule(rule: str) -> None:
    """Raise ValueError unless `rule` is one of `Rule`."""
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(get_args(Rule))}")


def neighbours(
    centre: Dilation, kernel: Sequence[int], *, spread: float, branches: int, bounds: Bounds, rule: Rule
) -> list[Dilation]:
    """Dilations of the branches around `centre`, evenly spaced from (1 - spread) to (1 + spread) times the centre.

    An even number of branches leaves the centre itself out. Axes whose kernel is 1 or even keep their dilation
    (see `searched_axis`). Duplicates are dropped, the order kept.

    Args:
        centre: dilation per axis.
        kernel: kernel size per axis.
        spread: distance of the outermost branch as a share of the centre (the papers' exp_rate).
        branches: how many are wanted, at least 2 and at most `MOST_BRANCHES`; fewer are returned where the bounds
            allow fewer (or, by rule "paper", where rounding makes some equal).
        bounds: applied to every searched axis. Rule "paper" does not clip the centre's own branch.
        rule: of the rounding; see `Rule`.

    Raises:
        ValueError: for an unknown rule, too few or too many branches, a spread outside (0, 1], or a centre whose
            length is not the kernel's.
    """
    check_rule(rule)
    if not 2 <= branches <= MOST_BRANCHES:
        raise ValueError(f"a search needs at least 2 branches and at most {MOST_BRANCHES}, got {branches}")
    if not 0 < spread <= 1:
        raise ValueError(f"spread must be in (0, 1], got {spread}")
    if len(centre) != len(kernel):
        raise ValueError(f"centre {centre} and kernel {tuple(kernel)} have different numbers of axes")
    expand = _expand_paper if rule == "paper" else _expand_default
    axes = [
        expand(c, spread, branches, bounds) if searched_axis(k) else [c] * branches
        for c, k in zip(centre, kernel, strict=True)
    ]
    return list(dict.fromkeys(zip(*axes, strict=True)))


def _positions(branches: int) -> list[float]:
    """Where the branches lie, evenly spaced over [-1, 1]; exactly symmetric, and exactly 0 in the middle."""
    return [(2 * i - (branches - 1)) / (branches - 1) for i in range(branches)]


def _expand_paper(centre: int, spread: float, branches: int, bounds: Bounds) -> list[int]:
    # Python's round() goes half to even, as the published code does.
    return [
        centre if position == 0 else bounds.clip(round((1 + position * spread) * centre))
        for position in _positions(branches)
    ]


def _expand_default(centre: int, spread: float, branches: int, bounds: Bounds) -> list[int]:
    centre = bounds.clip(centre)
    outwards = [p for p in _positions(branches) if p > 0]
    # The j-th branch outwards is at least j steps away: all branches differ, whatever the centre.
    offsets = [max(j, math.floor(p * spread * centre + 0.5)) for j, p in enumerate(outwards, start=1)]
    middle = [centre] if branches % 2 else []
    return [bounds.clip(d) for d in [*(centre - o for o in reversed(offsets)), *middle, *(centre + o for o in offsets)]]


def expectation(
    probability: Sequence[float],
    dilations: Sequence[Dilation],
    bounds: Bounds,
    rule: Rule,
    centre: Dilation | None = None,
) -> Dilation:
    """The expected dilation: per axis round(sum_i p_i d_i / sum_i p_i), clipped to the bounds.

    Rule "paper" is just that, rounding half to even. Where the bounds (or rounding) cut the branches off on one side,
    it moves even if nothing was learnt: equal probabilities on [1, 2] give 1.5, hence 2.

    Rule "default" counts what was learnt, not where the branches lie. The share that all branches have in
    common was not learnt and stays at the centre c; only what a branch has beyond it counts: with m = min p,
    branches * m * c + sum_i (p_i - m) d_i. So equal probabilities give c, a single branch with all of it gives d_i,
    and for branches that are symmetric about the centre it is the expectation.
    A tie between two integers goes to the one nearer to the centre.

    Args:
        probability: one non-negative number per branch, not all zero.
        dilations: the branches.
        bounds: applied to the result on every axis; by rule "default" only where the branches differ.
        rule: of the rounding; see `Rule`.
        centre: what the branches surround; used by rule "default", which takes the mean of the branches without it.

    Raises:
        ValueError: for lengths that differ, no branch, an unknown rule, or probabilities that are negative, not
            finite, or all zero.
    """
    check_rule(rule)
    if len(probability) != len(dilations) or not dilations:
        raise ValueError(f"{len(probability)} probabilities for {len(dilations)} branches")
    total, common = sum(probability), min(probability)
    if not (math.isfinite(total) and total > 0 and common >= 0):
        raise ValueError(f"probabilities must be finite, not negative and not all zero, got {list(probability)}")
    result = []
    for axis, branch in enumerate(zip(*dilations, strict=True)):
        if rule == "paper":
            mean = sum(p * d for p, d in zip(probability, branch, strict=True)) / total
            result.append(bounds.clip(round(mean)))
            continue
        if min(branch) == max(branch):  # an axis that is not searched keeps its dilation, whatever the bounds
            result.append(branch[0])
            continue
        middle = sum(branch) / len(branch) if centre is None else centre[axis]
        learnt = sum((p - common) * d for p, d in zip(probability, branch, strict=True))
        value = (len(branch) * common * middle + learnt) / total
        result.append(bounds.clip(math.ceil(value - 0.5) if value > middle else math.floor(value + 0.5)))
    return tuple(result)


def log2_expectation(probability: Sequence[float], dilations: Sequence[Dilation]) -> Dilation:
    """The expected dilation on a logarithmic scale: per axis round(2 ** (sum_i p_i log2 d_i / sum_i p_i)), at least 1.

    The one-shot search, whose candidates are powers of two, is read out by it. Halves round up.

    Args:
        probability: one non-negative number per branch, not all zero.
        dilations: the branches.
    """
    total = sum(probability)
    return tuple(
        max(1, math.floor(2 ** (sum(p * math.log2(d) for p, d in zip(probability, axis, strict=True)) / total) + 0.5))
        for axis in zip(*dilations, strict=True)
    )
