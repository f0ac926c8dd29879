"""Method: a row of the tables, made of a search (or none) and a finish; and the results of the two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.records.protocol import overrides
from benchmarks.records.record import Cost
from tasks.spec import Task

if TYPE_CHECKING:  # the table of methods is read without torch
    from torch import nn

    from rfnext import Structure

Settings = Mapping[str, Any]

Kind = Literal["hand design", "tuning", "control", "search", "other network"]
"""What a row says: of the hand design, of tuning it, of chance, of a search, of a network that searches nothing."""


@dataclass(frozen=True)
class Trained:
    """A finished training: its folder, what it cost, and whether it was continued after an interruption."""

    folder: Path
    cost: Cost
    resumed: bool


@dataclass(frozen=True)
class Found(Trained):
    """What a search found. The folder of one that ends in a network holds it (`training.LAST`, `SELECTED`).

    history: one entry per round as JSON values, of the searches before it, too.
    """

    structure: Structure
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """The result of a method. model: the scored network. The other fields are those of `Record`."""

    model: nn.Module
    metrics: dict[str, float]
    metrics_last: dict[str, float]
    validation: dict[str, float]
    structure: Structure
    evaluation_seconds: float
    search: Cost
    training: Cost
    history: list[dict[str, Any]]
    resumed: bool
    receptive_field: dict[str, Any] | None = None


@dataclass(frozen=True)
class SearchStage:
    """How a structure is found, judged by the validation part alone.

    name: the first part of the names of its rows.
    run: finds the structure; takes a `searching.Searching`.
    settings: arguments of `run`; part of the protocol.
    start: the search from whose result it continues.
    trainings: what it costs, in full trainings, without `start`.
    shared: nothing in it depends on the method, so it is done once per task, preset, fold and seed.
    ranks: it trains candidates, side by side if there are workers.
    powers: it chooses from the powers of two below the longest input.
    rounds: it ends in a local search with the config's own settings (`TaskConfig.search`).
    donor: it searches on another network, the task's donor for the config (`Task.donor`).
    kind: tuning changes one or two dilations of the hand design, a control draws them at random.
    """

    name: str
    description: str
    run: Callable[[Any], Found]
    settings: Settings = field(default_factory=dict)
    start: SearchStage | None = None
    trainings: float = 1
    shared: bool = True
    ranks: bool = False
    powers: bool = False
    rounds: bool = False
    donor: bool = False
    kind: Kind = "search"

    @property
    def chain(self) -> tuple[SearchStage, ...]:
        """The searches before it and itself, in their order."""
        return (*(self.start.chain if self.start else ()), self)

    @property
    def all_settings(self) -> dict[str, Any]:
        """Its settings and those of the searches before it."""
        return {name: value for search in self.chain for name, value in search.settings.items()}

    def settings_of(self, task: Task[Any], config: Any) -> dict[str, Any]:
        """`all_settings`, and as "donor" the fields in which the donor of a task's config differs from the config."""
        donor = task.donor(config) if task.donor and any(search.donor for search in self.chain) else None
        return self.all_settings | ({} if donor is None else {"donor": overrides(config, donor)})


@dataclass(frozen=True)
class Finish:
    """The second half of a method: what is trained from the structure that was found, and scored.

    name: the last part of the names of its rows. alone: what the row without a search is called.
    run: trains and scores; takes the `Cell`, the `Pool` and what was found (None without a search).
    settings: arguments of `run`; part of the protocol.
    trains: whether the network is trained after the search.
    """

    name: str
    description: str
    run: Callable[[Any, Any, Found | None], Outcome]
    alone: str = ""
    settings: Settings = field(default_factory=dict)
    trains: bool = True
    ranks: bool = False


@dataclass(frozen=True)
class Method:
    """A row of the tables: a search, or None for the hand design, and a finish.

    standard: run by the suite unless --method names others.
    """

    search: SearchStage | None
    finish: Finish
    standard: bool = False

    @property
    def name(self) -> str:
        """The row's name, made of those of the search and the finish."""
        return f"{self.search.name}_{self.finish.name}" if self.search else self.finish.alone

    @property
    def description(self) -> str:
        """What it is, in a few words."""
        if self.search is None:
            return f"no search: {self.finish.description}"
        return f"{self.search.description}; {self.finish.description}"

    @property
    def kind(self) -> Kind:
        """What its row says."""
        if self.search is not None:
            return self.search.kind
        return "hand design" if self.standard else "other network"

    @property
    def searches(self) -> tuple[SearchStage, ...]:
        """The searches that it runs, each going on from the one before."""
        return self.search.chain if self.search else ()

    @property
    def settings(self) -> dict[str, Any]:
        """All settings of its searches and its finish that are the same for every config."""
        return {**(self.search.all_settings if self.search else {}), **self.finish.settings}

    def settings_of(self, task: Task[Any], config: Any) -> dict[str, Any]:
        """All settings of its searches and its finish for a task's config; see `SearchStage.settings_of`."""
        return {**(self.search.settings_of(task, config) if self.search else {}), **self.finish.settings}

    @property
    def ranks(self) -> bool:
        """Whether it trains candidates that workers could train side by side."""
        return self.finish.ranks or any(search.ranks for search in self.searches)

    def unfit(self, task: Task[Any], config: Any) -> str | None:
        """Why a task leaves it out for a config; None if it does not."""
        if any(search.donor for search in self.searches) and (task.donor is None or task.donor(config) is None):
            return "no other network of the task has layers of the same roles"
        return task.leaves_out.get(self.name)
