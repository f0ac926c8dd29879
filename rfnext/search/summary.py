"""What a running search has come to, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from rfnext.dilation import Dilation, brief
from rfnext.table import aligned


@dataclass(frozen=True)
class LayerSummary:
    """One searched conv. before, now: its dilation before the search, and the one found so far.

    branches, probability: the dilations that are compared now, and the share of each.
    """

    layer: str
    kernel: tuple[int, ...]
    before: Dilation
    branches: Sequence[Dilation]
    probability: Sequence[float]
    now: Dilation


@dataclass(frozen=True)
class Summary:
    """A search after so many steps and rounds; its `str` is a table.

    search: the name of its class.
    """

    search: str
    step: int
    round: int
    layers: Sequence[LayerSummary]

    def __str__(self) -> str:
        """The table."""
        rows = [
            [
                layer.layer or "(the model)",
                brief(layer.kernel),
                brief(layer.before),
                brief(layer.now),
                "  ".join(f"{brief(d)}: {p:.2f}" for d, p in zip(layer.branches, layer.probability, strict=True)),
            ]
            for layer in self.layers
        ]
        moved = sum(layer.now != layer.before for layer in self.layers)
        head = f"{self.search} at step {self.step}, round {self.round}: {moved} of {len(rows)} dilations moved"
        return f"{head}\n{aligned(['layer', 'kernel', 'before', 'now', 'branches: probability'], rows)}"
