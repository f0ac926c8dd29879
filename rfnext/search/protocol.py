"""What every search that runs inside a training offers, and the record of one of its rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from torch import nn

from rfnext.dilation import Dilation
from rfnext.structure import Structure


@dataclass(frozen=True)
class Round:
    """The record of one round, per layer name.

    step: number of `after_step` calls so far.
    dilations, probability: the branches before the round and their learnt shares.
    structure: the dilations that the round arrived at.
    """

    step: int
    dilations: dict[str, list[Dilation]]
    probability: dict[str, list[float]]
    structure: dict[str, Dilation]

    def state_dict(self) -> dict[str, Any]:
        """The round as numbers, strings, lists and dicts."""
        return {
            "step": self.step,
            "dilations": {name: [list(d) for d in ds] for name, ds in self.dilations.items()},
            "probability": self.probability,
            "structure": {name: list(d) for name, d in self.structure.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The round that `state_dict` was called on."""
        return cls(
            step=int(state["step"]),
            dilations={name: [tuple(d) for d in ds] for name, ds in state["dilations"].items()},
            probability={name: list(p) for name, p in state["probability"].items()},
            structure={name: tuple(d) for name, d in state["structure"].items()},
        )


@runtime_checkable
class Search(Protocol):
    """A search of dilations while the model is trained: `LocalSearch` and `OneShotSearch`.

    Everything that takes a search takes this.
    """

    @property
    def model(self) -> nn.Module:
        """The network whose convs are searched."""
        ...

    @property
    def initial(self) -> Structure:
        """The dilations that the searched convs had before the search."""
        ...

    @property
    def step(self) -> int:
        """Number of `after_step` calls so far."""
        ...

    @property
    def history(self) -> Sequence[Round]:
        """The rounds so far."""
        ...

    def after_step(self) -> bool:
        """Count one step (an epoch or an iteration); run a round if one is due. Returns whether one was run.

        Raises RuntimeError, naming the layer: at a round, if the search has ended, by `merge` or `Structure.apply`, or
        if ranks differ; at any step, if an average of the weights still has the branches of before the last round.
        """
        ...

    def structure(self) -> Structure:
        """The structure found so far. Raises RuntimeError if the search has ended."""
        ...

    def probability(self) -> dict[str, list[float]]:
        """Share of each branch now, per layer: numbers that sum to 1. Raises RuntimeError if the search has ended."""
        ...

    def branch_weights(self) -> list[nn.Parameter]:
        """The trainable weights of all branches."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The model's parameters as parameter groups for an optimizer.

        A group that needs a learning rate of its own has it as "lr".
        """
        ...

    def parameters_to_clip(self) -> list[nn.Parameter]:
        """The parameters to clip together: all but the branch weights, whose gradients can be most of the norm.

        By rule "paper" all, as the published searches do.
        """
        ...

    def copy_to(self, model: nn.Module) -> None:
        """Give another copy of the searched model the same branches and branch weights, as an average (EMA) needs.

        Raises ValueError, naming a layer that is not searched in the copy.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the search needs to go on; the branch weights are saved with the model's own state_dict."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. Raises ValueError if it does not fit, and changes nothing then."""
        ...
