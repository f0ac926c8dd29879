"""Genetic search over structures (Global2Local, arXiv 2101.00910).

It uses no model. `ask()` returns structures, the caller scores them, on any machine, and `tell()` takes the scores:

    template = Structure.read(model)
    evolution = Evolution(template, EvolutionConfig(population=10, generations=5), np.random.default_rng(0))
    while structures := evolution.ask():
        evolution.tell([Scored(structure, evaluate(structure)) for structure in structures])
    evolution.best.structure.save("structure.json")

A genome has one gene per conv, its dilation on every axis, one of the config's candidates. Unlike in the published
code, selection uses a single fitness and is exactly proportional to it, every pair is crossed, genes are uniform over
the candidates, nothing is evaluated twice, only evaluated structures are results, and a saved state resumes exactly.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

from rfnext.dilation import as_integer
from rfnext.structure import Structure

if TYPE_CHECKING:  # the library itself needs torch alone
    import numpy as np

Genome = tuple[int, ...]


@dataclass(frozen=True)
class EvolutionConfig:
    """Settings of the genetic search; all but the size are the published ones by default.

    Raises:
        ValueError: naming the field that is out of its range.
    """

    population: int
    """Structures that survive a generation, at most."""
    generations: int
    """Generations bred after the first, random one."""
    candidates: tuple[int, ...] = tuple(2**exponent for exponent in range(11))
    """Dilations that a gene can take. One longer than the longest input reads nothing but padding."""
    mutation: float = 0.2
    """Probability that a child gets a mutated copy in addition."""
    gene_mutation: float = 0.2
    """Probability of each gene of such a copy to be drawn anew."""
    drop_below: float = 10.0
    """A structure whose fitness is lower than the best by more than this is replaced by a random one. In units of the
    fitness; the published one is in points of accuracy."""

    def __post_init__(self) -> None:
        for name in ("population", "generations"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        if self.population < 2:
            raise ValueError(f"population is {self.population}; crossing takes at least 2")
        if self.generations < 0:
            raise ValueError(f"generations is {self.generations}; it cannot be negative")
        object.__setattr__(self, "candidates", _checked_candidates(self.candidates))
        for name in ("mutation", "gene_mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability lies in [0, 1]")
        if not self.drop_below >= 0:
            raise ValueError(f"drop_below is {self.drop_below}; it cannot be negative")

    @classmethod
    def published(cls) -> Self:
        """The settings of Global2Local: some 6,600 evaluations."""
        return cls(population=50, generations=100)


@dataclass(frozen=True)
class Scored:
    """A structure and its fitness: higher is better, not negative; None if the evaluation failed."""

    structure: Structure
    fitness: float | None


def random_structure(template: Structure, candidates: Sequence[int], rng: "np.random.Generator") -> Structure:
    """A structure with the template's layers, the dilation of each drawn uniformly from the candidates.

    All axes of a layer get the same dilation. A structure has no kernel sizes, so that includes axes whose
    kernel is 1 (where it has no effect) or even (where `Structure.apply` may refuse it): leave convs with an
    even axis out of the template.

    Args:
        template: its layers, their numbers of axes and their anchors are taken; its dilations do not matter.
        candidates: what the dilations are drawn from.
        rng: all randomness comes from here.

    Raises:
        ValueError: if the template has no entries, or the candidates are not distinct positive integers.
    """
    candidates = _checked_candidates(candidates)
    _check_template(template)
    return _structure(template, _random_genome(template, candidates, rng))


def roulette(fitness: Sequence[float], count: int, rng: "np.random.Generator") -> list[int]:
    """Draw `count` indices, with replacement, each with probability fitness[i] / sum(fitness).

    Fitnesses are finite and not negative; where all are zero, all are equally likely.
    """
    total = sum(fitness)
    shares = [f / total for f in fitness] if total > 0 else None
    return rng.choice(len(fitness), size=count, p=shares).tolist()


class Evolution:
    """A genetic search; `ask` returns structures to evaluate, `tell` takes their fitness.

    Global2Local, arXiv 2101.00910. The first generation is random. Each further one is bred from the survivors of the
    last: parents are drawn by roulette, in proportion to fitness; every pair is crossed between two points; some
    children get a mutated copy in addition. Parents and children together are ranked, and the best `population`
    survive, without those that are more than `drop_below` worse than the best. Random structures replace these in the
    next generation. A structure that was evaluated before is not returned again.

    Args:
        template: the layers to search, their numbers of axes and anchors, e.g. `Structure.read(model)`. Its dilations
            do not matter.
        config: settings.
        rng: all randomness comes from here; its state is saved and restored with the search's.

    Raises:
        ValueError: if the template has no entries.
    """

    def __init__(self, template: Structure, config: EvolutionConfig, rng: "np.random.Generator") -> None:
        _check_template(template)
        self.template = template
        self.config = config
        self.rng = rng
        self.generation = 0
        self._fitness: dict[Genome, float | None] = {}  # every evaluation so far; None: failed
        self._survivors: dict[Genome, float] = {}  # best first
        self._bred = self._unknown(self._random(config.population))  # this generation's new genomes

    @property
    def population(self) -> list[Scored]:
        """The survivors of the last finished generation, best first; all of them evaluated."""
        return [self._scored(genome) for genome in self._survivors]

    @property
    def scored(self) -> list[Scored]:
        """Every evaluation so far in the order of the calls of `tell`, failed ones included."""
        return [self._scored(genome) for genome in self._fitness]

    @property
    def best(self) -> Scored:
        """The fittest structure evaluated so far, the first one given to `tell` among equals.

        Raises ValueError if no evaluation has succeeded yet.
        """
        ranked = self._ranked(self._fitness)
        if not ranked:
            raise ValueError("no structure has been evaluated yet")
        return self._scored(next(iter(ranked)))

    def ask(self) -> list[Structure]:
        """The structures to evaluate next, none of which has been before; empty when the search is over.

        What was returned before and has no result yet is returned again: a partly evaluated generation can be resumed.

        Raises:
            RuntimeError: if every evaluation of a generation failed. The failures are forgotten, and the next
                call returns the same structures again.
        """
        while not (pending := self._pending()):
            self._select()
            if self.generation == self.config.generations:
                return []
            self.generation += 1
            self._breed()
        return [_structure(self.template, genome) for genome in pending]

    def tell(self, scored: Iterable[Scored]) -> None:
        """Take the results of all or some of the structures that `ask` returned.

        Raises:
            ValueError: for a structure that is not awaited, or a fitness that is negative (roulette draws in
                proportion to it) or not finite. All other results of the call are kept.
        """
        awaited = {_structure(self.template, genome): genome for genome in self._pending()}
        errors = []
        for result in scored:
            fitness = result.fitness
            if result.structure not in awaited:
                errors.append(f"not asked for, or told before: {result.structure}")
            elif fitness is not None and not _is_amount(fitness):
                errors.append(
                    f"fitness {fitness} of {result.structure} is not a finite number >= 0; "
                    "shift the scale, or tell None for an evaluation that failed"
                )
            else:
                genome = awaited.pop(result.structure)
                self._fitness[genome] = None if fitness is None else float(fitness)
        if errors:
            raise ValueError("; ".join(errors))

    def state_dict(self) -> dict[str, Any]:
        """What the search needs to go on exactly, the random generator's state included; ready for JSON."""
        return {
            "version": 3,
            "config": _plain(asdict(self.config)),
            "layers": self._layers(),
            "anchors": _plain(self.template.anchors),
            "generation": self.generation,
            "fitness": [[list(genome), fitness] for genome, fitness in self._fitness.items()],
            "survivors": _plain(list(self._survivors)),
            "bred": _plain(self._bred),
            "rng": _plain(self.rng.bit_generator.state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`. The config must be the saved one, but for the number of generations.

        Raises:
            ValueError: if the state is damaged, or of another version, template, config or kind of random
                generator; nothing is changed then.
        """
        try:
            self._check_origin(state)
            generation = state["generation"]
            fitness = {self._read(genome): value for genome, value in state["fitness"]}
            survivors = {(g := self._read(genome)): fitness[g] for genome in state["survivors"]}
            bred = [self._read(genome) for genome in state["bred"]]
            if not isinstance(generation, int) or not 0 <= generation <= self.config.generations:
                raise ValueError(f"generation {generation!r} is not in 0 .. {self.config.generations}")
            if not all(value is None or _is_amount(value) for value in fitness.values()):
                raise ValueError("a fitness is not a finite number >= 0")
            if None in survivors.values() or (not survivors and (generation > 0 or not bred)):
                raise ValueError("a survivor has no fitness, or nothing survives")
            # Setting a state checks it; on a trial, since the search's own must not change if that fails.
            trial = type(self.rng.bit_generator)()
            trial.state = state["rng"]
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"no entry {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"not a state of this search: {reason}") from error
        self.rng.bit_generator.state = trial.state
        self.generation, self._fitness, self._survivors, self._bred = generation, fitness, survivors, bred

    def _check_origin(self, state: Mapping[str, Any]) -> None:
        if state["version"] != 3:
            raise ValueError(f"version {state['version']!r}, but this rfnext reads version 3")
        layers, saved = self._layers(), state["layers"]
        if different := [name for name in {**layers, **saved} if layers.get(name) != saved.get(name)]:
            raise ValueError(f"another template; {len(different)} layers differ, {different[0]!r} first")
        if list(layers) != list(saved):
            raise ValueError("another template; its layers come in another order")
        if (anchors := state.get("anchors", {})) != _plain(self.template.anchors):
            raise ValueError(f"another template; its anchors are {anchors}, here {self.template.anchors}")
        config = state["config"]
        for name, wanted in _plain(asdict(self.config)).items():
            if name != "generations" and config[name] != wanted:
                raise ValueError(f"another config; {name} was {config[name]!r}, not {wanted!r}")

    def _layers(self) -> dict[str, int]:
        return {name: len(dilation) for name, dilation in self.template.items()}

    def _read(self, genome: Sequence[int]) -> Genome:
        if len(genome) != len(self.template):
            raise ValueError(f"a genome of {len(genome)} genes for {len(self.template)} layers")
        candidates = self.config.candidates
        return tuple(candidates[candidates.index(gene)] for gene in genome)

    def _scored(self, genome: Genome) -> Scored:
        return Scored(_structure(self.template, genome), self._fitness[genome])

    def _pending(self) -> list[Genome]:
        return [genome for genome in self._bred if genome not in self._fitness]

    def _unknown(self, genomes: Iterable[Genome]) -> list[Genome]:
        return [genome for genome in dict.fromkeys(genomes) if genome not in self._fitness]

    def _random(self, count: int) -> list[Genome]:
        return [_random_genome(self.template, self.config.candidates, self.rng) for _ in range(count)]

    def _ranked(self, genomes: Iterable[Genome]) -> dict[Genome, float]:
        """Those whose evaluation succeeded with their fitness, best first; equals in the order given."""
        fitness = {genome: f for genome in genomes if (f := self._fitness[genome]) is not None}
        return dict(sorted(fitness.items(), key=itemgetter(1), reverse=True))

    def _select(self) -> None:
        """Let the best of the last survivors and this generation's evaluated genomes survive."""
        if self._bred and all(self._fitness[genome] is None for genome in self._bred):
            for genome in self._bred:
                del self._fitness[genome]
            raise RuntimeError(
                f"all {len(self._bred)} evaluations of generation {self.generation} failed; fix what made "
                "them fail (see their own errors) and continue: the same structures are asked for again"
            )
        ranked = self._ranked([*self._survivors, *self._bred])
        best = next(iter(ranked.values()))
        fit = [genome for genome, fitness in ranked.items() if fitness >= best - self.config.drop_below]
        self._survivors = {genome: ranked[genome] for genome in fit[: self.config.population]}
        self._bred = []  # selected from; with others gone, to select again could end differently

    def _breed(self) -> None:
        size = self.config.population
        survivors = list(self._survivors)
        count = size + size % 2  # an odd population needs one pair more, of which one child is left out
        drawn = roulette(list(self._survivors.values()), count, self.rng)
        pairs = [(survivors[i], survivors[j]) for i, j in zip(drawn[::2], drawn[1::2], strict=True)]
        children = [child for pair in pairs for child in _crossed(*pair, self.rng)][:size]
        mutants = [self._mutated(child) for child in children if self.rng.random() < self.config.mutation]
        self._bred = self._unknown([*children, *mutants, *self._random(size - len(survivors))])

    def _mutated(self, genome: Genome) -> Genome:
        fresh = _random_genome(self.template, self.config.candidates, self.rng)
        redrawn = self.rng.random(len(genome)) < self.config.gene_mutation
        return tuple(new if r else old for old, new, r in zip(genome, fresh, redrawn, strict=True))


def _random_genome(template: Structure, candidates: Sequence[int], rng: "np.random.Generator") -> Genome:
    return tuple(candidates[index] for index in rng.integers(len(candidates), size=len(template)))


def _crossed(first: Genome, second: Genome, rng: "np.random.Generator") -> tuple[Genome, Genome]:
    """Swap the genes between two random points, both included."""
    start, last = sorted(rng.integers(len(first), size=2).tolist())
    inner = slice(start, last + 1)
    return (
        first[:start] + second[inner] + first[last + 1 :],
        second[:start] + first[inner] + second[last + 1 :],
    )


def _structure(template: Structure, genome: Genome) -> Structure:
    pairs = zip(template.items(), genome, strict=True)
    # EveryAxis, the type of an integer in the template, stays that.
    genes = {name: type(dilation)((gene,) * len(dilation)) for (name, dilation), gene in pairs}
    return Structure(genes, template.anchors)


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _plain(value: Any) -> Any:
    """The value with tuples and NumPy arrays as lists, as JSON would give it back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _check_template(template: Structure) -> None:
    if not template:
        raise ValueError("the template has no entries: the model has no conv to search, or `where` picks none")


def _checked_candidates(candidates: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(as_integer("one of the candidates", d) for d in candidates)
    if len(set(checked)) < max(2, len(checked)) or min(checked) < 1:
        raise ValueError(f"candidates {candidates!r} are not two or more distinct positive integers")
    return checked
