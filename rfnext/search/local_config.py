"""Settings of the local search, plain values: command lines read and check them without torch."""

from dataclasses import dataclass, field

from rfnext.dilation import Bounds, Dilation, Rule, as_integer, check_rule, neighbours


@dataclass(frozen=True)
class LocalConfig:
    """Settings of the local search. The defaults are those of the published detection runs.

    Raises:
        ValueError: naming the field that is out of its range.
        TypeError: if `bounds` is no `Bounds`.
    """

    interval: int = 1
    """Steps between two rounds: calls of `after_step`, after every epoch or every iteration."""
    rounds: int = 10
    """How many rounds are run; after the last one the probabilities are still trained until training ends.
    To copy a published max_step: rounds = (max_step - 1) // interval."""
    spread: float = 0.5
    """Distance of the outermost branches from the centre, as a share of the centre. In (0, 1]. With rule "default"
    every branch lies at least one step from the next, so with a spread well below 0.5 a round changes small dilations
    by a larger share than large ones."""
    branches: int = 2
    """Dilations per conv."""
    bounds: Bounds = field(default_factory=lambda: Bounds(1, 24))
    """Smallest and largest dilation. Designed dilations outside are brought inside, which is logged."""
    rule: Rule = "default"
    """"default", or "paper" for exactly the published arithmetic. By either, a layer that has learnt nothing since the
    last round keeps its dilation."""

    def __post_init__(self) -> None:
        check_rule(self.rule)
        for name in ("interval", "rounds", "branches"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        if not isinstance(self.bounds, Bounds):
            given = ", ".join(map(str, self.bounds)) if isinstance(self.bounds, (tuple, list)) else "1, 24"
            raise TypeError(f"bounds is {self.bounds!r}; give Bounds({given})")
        if self.interval < 1 or self.rounds < 0:
            raise ValueError(f"interval must be >= 1 and rounds >= 0, got {self.interval} and {self.rounds}")
        # neighbours() validates the rest; better here than at the first conv.
        neighbours((1,), (3,), spread=self.spread, branches=self.branches, bounds=self.bounds, rule=self.rule)

    def dilations_of(self, centre: Dilation, kernel: tuple[int, ...]) -> list[Dilation]:
        """The branches that a conv gets around its own dilation; its kernel as `kernel_to_search` counts it."""
        spread, branches, bounds, rule = self.spread, self.branches, self.bounds, self.rule
        return neighbours(centre, kernel, spread=spread, branches=branches, bounds=bounds, rule=rule)
