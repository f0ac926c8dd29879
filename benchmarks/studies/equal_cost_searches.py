"""The methods of the study `search_at_equal_cost`: each names a design, and says what finding it took.

Budgets are counted in epochs; a training has `Config.epochs`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.methods.candidates import as_fitness
from benchmarks.methods.stretched import stretched_design
from benchmarks.studies.equal_cost_training import Design, SearchConfig, Training, design_of
from rfnext import Evolution, EvolutionConfig, OneShotConfig, OneShotSearch, Scored, Structure, powers_of_two
from tasks.load_forecasting.task import TASK

DESIGNS = 15
"""Short trainings of `tuned`, which has one for each pair of five ends, and of the searches beside it."""

FINALISTS = 2
"""Candidates that are trained to the second rung. Of 15 designs: 30 + 2 * 3 = 36 epochs, 3 trainings."""

READ_OUTS = 9
"""Candidates that are read out of a one-shot search and ranked: 18 + 2 * 3 = 24 epochs, with the search 3 trainings."""

POPULATION, GENERATIONS = 5, 15
"""Of the genetic search, which ends when it has evaluated as many designs as `tuned`."""

PERIODS = 2
"""Periods of the series that the searches with periods add to the candidates, each alone and doubled."""

SETTINGS = {
    "finalists": FINALISTS,
    "read_outs": READ_OUTS,
    "designs": DESIGNS,
    "genetic": [POPULATION, GENERATIONS],
    "periods": PERIODS,
}
"""What decides what the methods find, of all this. EXHAUSTED only says where two of them run."""

EXHAUSTED = 2
"""Layers with which all designs are trained; with 3 there are 1,000."""


class Found(NamedTuple):
    """A design, the epochs that were trained to find it, and the CPU seconds of a step of the search within a training,
    if it is one."""

    design: Design
    epochs: int = 0
    step: float | None = None


class Methods:
    """The methods on one case. What several of them train is trained once; each counts it in full."""

    def __init__(self, case: Any) -> None:
        self.case = case
        self._trainings: dict[Design, Training] = {}
        self._one_shot: Training | None = None
        self._periods: Training | None = None

    def trained(self, design: Design, epochs: int | None = None) -> Training:
        """The training of a design, after that many epochs of its schedule or more; by default to the end."""
        if design not in self._trainings:
            self._trainings[design] = self.case.training(design)
        return self._trainings[design].to((epochs or self.case.config.epochs) * self.case.batches)

    def hand(self) -> Found:
        """1, 2, 4, ..."""
        return Found(design_of(Structure.read(self.case.network(), self.case.where)))

    def expert(self) -> Found | None:
        """What somebody would write who knows the seasons: a day, two days, a week; layers before them double.

        None if there are no seasons.
        """
        if not self.case.config.seasons:
            return None
        day, week = self.case.config.seasons
        layers = self.case.config.layers
        long = (day, week) if layers == 2 else (day, 2 * day, week)
        return Found((*(2**layer for layer in range(layers - len(long))), *long))

    def middle(self) -> Found:
        """23 in every layer: the geometric middle of the candidates, what `one_shot` gives if it learns nothing."""
        return Found((round(self.case.longest**0.5),) * self.case.config.layers)

    def tuned(self) -> Found:
        """A geometric design, its first and last dilation chosen on validation."""
        return self._tuned(self.case.ends)

    def tuned_fine(self) -> Found:
        """The same with every power of two that a search may choose as an end: three times as many trainings."""
        return self._tuned(self._powers())

    def tuned_periods(self) -> Found:
        """The same with the periods of the training part in the place of the two longest ends."""
        return self._tuned(sorted({*self.case.ends[:-PERIODS], *self._found_periods()}))

    def random(self) -> Found:
        """The best of as many random designs as `tuned` has; every layer has a power of two."""
        rng = np.random.default_rng([self.case.seed, self.case.fold])
        drawn: dict[Design, None] = {}
        while len(drawn) < DESIGNS:
            drawn[tuple(int(d) for d in rng.choice(self._powers(), self.case.config.layers))] = None
        return self._best(list(drawn))

    def genetic(self) -> Found:
        """The genetic search over powers of two, until it has had as many short trainings as `tuned`; then as there."""
        template, rng = (
            Structure.read(self.case.network(), self.case.where),
            np.random.default_rng([self.case.seed, self.case.fold]),
        )
        config = EvolutionConfig(POPULATION, GENERATIONS, candidates=self._powers())
        evolution = Evolution(template, config, rng)
        designs = list[Design]()
        while (asked := evolution.ask()) and len(designs) < DESIGNS:
            asked = asked[: DESIGNS - len(designs)]
            errors = [self.trained(design_of(one), self.case.rungs[0]).best_until(self.case.rungs[0]) for one in asked]
            evolution.tell(Scored(one, as_fitness(e, TASK.metrics[0])) for one, e in zip(asked, errors, strict=True))
            designs += [design_of(one) for one in asked]
        return self._best(designs)

    def local(self) -> Found:
        """The local search from the hand design, as in the preset."""
        return self._searched(None, self.case.config.search)

    def one_shot(self) -> Found:
        """The one-shot search, as in the suite: all powers of two, read out by the expectation of log2."""
        return self._read_out(self._all_candidates(), "log2")

    def one_shot_argmax(self) -> Found:
        """The same search, read out by the most probable candidate."""
        return self._read_out(self._all_candidates(), "argmax")

    def one_shot_periods(self) -> Found:
        """The one-shot search with the periods of the training part among its candidates, the most probable one."""
        return self._read_out(self._with_periods(), "argmax")

    def one_shot_ranked(self) -> Found:
        """Both read-outs and samples of the one-shot search, ranked on validation by short trainings."""
        return self._ranked(self._all_candidates())

    def periods_ranked(self) -> Found:
        """The same with the periods among the candidates."""
        return self._ranked(self._with_periods())

    def one_shot_to_local(self) -> Found:
        """The local search from what the one-shot search has found."""
        return self._to_local(self.one_shot())

    def periods_to_local(self) -> Found:
        """The local search from what the one-shot search with periods has found."""
        return self._to_local(self.one_shot_periods())

    def exhaustive(self) -> Found | None:
        """The best on validation of all designs of powers of two, each trained to the end. None with more layers."""
        if (designs := self._all_designs()) is None:
            return None
        best = min(designs, key=lambda design: self.trained(design).best_until(self.case.config.epochs))
        return Found(best, self.case.config.epochs * len(designs))

    def oracle(self) -> Found | None:
        """The best on the test part of all these: no method, but what none that chooses among them can exceed."""
        if (designs := self._all_designs()) is None:
            return None
        best = min(designs, key=lambda design: self.trained(design).scores("test")["mse"])
        return Found(best, self.case.config.epochs * len(designs))

    def _all_designs(self) -> list[Design] | None:
        layers = self.case.config.layers
        return list(product(self._powers(), repeat=layers)) if layers <= EXHAUSTED else None

    def _all_candidates(self) -> Training:
        if self._one_shot is None:
            self._one_shot = self._one_shot_over(self._powers())
        return self._one_shot

    def _with_periods(self) -> Training:
        if self._periods is None:
            longest, found = self.case.longest, self._found_periods()
            longer = {multiple * period for period in found for multiple in (1, 2) if multiple * period <= longest}
            self._periods = self._one_shot_over(tuple(sorted({*self._powers(), *longer})))
        return self._periods

    def _found_periods(self) -> list[int]:
        fold = self.case.open()
        return periods(fold.inputs[0, : fold.ends[0]], self.case.longest, PERIODS)

    def _powers(self) -> tuple[int, ...]:
        return powers_of_two(self.case.longest + 1)

    def _tuned(self, ends: Sequence[int]) -> Found:
        network = self.case.network()
        pairs = [(first, last) for first in ends for last in ends if first <= last]
        return self._best([design_of(stretched_design(network, self.case.where, *pair)) for pair in pairs])

    def _one_shot_over(self, candidates: tuple[int, ...]) -> Training:
        config = OneShotConfig(candidates, interval=self.case.config.epochs)
        return self.case.training(None, config).to(self.case.steps)

    def _ranked(self, training: Training) -> Found:
        search = training.search
        assert isinstance(search, OneShotSearch)
        rng = np.random.default_rng([self.case.seed, self.case.fold])
        drawn = dict.fromkeys((design_of(search.structure("log2")), design_of(search.structure("argmax"))))
        for _ in range(100 * READ_OUTS):  # probabilities near 0 and 1 give the same design again and again
            if len(drawn) >= READ_OUTS:
                break
            drawn[design_of(search.sample(rng))] = None
        best = self._best(list(drawn))
        return Found(best.design, self.case.config.epochs + best.epochs, training.seconds / training.step)

    def _to_local(self, start: Found) -> Found:
        found = self._searched(start.design, self.case.config.search)
        return Found(found.design, start.epochs + found.epochs, found.step)

    def _searched(self, start: Design | None, config: SearchConfig) -> Found:
        training = self.case.training(start, config).to(self.case.steps)
        return self._read_out(training, None)

    def _read_out(self, training: Training, readout: str | None) -> Found:
        search = training.search
        assert search is not None
        structure = search.structure(readout) if isinstance(search, OneShotSearch) else search.structure()  # type: ignore[arg-type]
        return Found(design_of(structure), self.case.config.epochs, training.seconds / training.step)

    def _best(self, designs: Sequence[Design]) -> Found:
        """Successive halving: the design with the lowest error on validation among the finalists."""
        short, long = self.case.rungs
        scored = sorted((self.trained(design, short).best_until(short), design) for design in designs)
        finalists = [design for _, design in scored[:FINALISTS]]
        best = min((self.trained(design, long).best_until(long), design) for design in finalists)
        return Found(best[1], short * len(designs) + (long - short) * len(finalists))


def periods(series: NDArray[np.float64], longest: int, count: int) -> list[int]:
    """Lags at which the autocorrelation of a series is highest: its peaks of 2 to `longest` steps, the highest first.

    Only those above the autocorrelation that white noise exceeds in 5 % of all series, 1.96 / sqrt(steps).
    """
    centred = series - series.mean()
    size = 2 ** int(np.ceil(np.log2(len(series) + longest + 2)))  # else the ends of the series meet
    power = np.abs(np.fft.rfft(centred, size)) ** 2
    correlation = np.fft.irfft(power, size)[: longest + 2]
    correlation = correlation / correlation[0]
    inner = correlation[1:-1]
    peaks = np.flatnonzero((inner > correlation[:-2]) & (inner >= correlation[2:])) + 1
    peaks = peaks[correlation[peaks] > 1.96 / np.sqrt(len(series))]
    return [int(lag) for lag in peaks[np.argsort(-correlation[peaks], kind="stable")] if lag > 1][:count]


METHODS: dict[str, Callable[[Methods], Found | None]] = {
    "hand": Methods.hand,
    "expert": Methods.expert,
    "middle": Methods.middle,
    "tuned": Methods.tuned,
    "tuned_fine": Methods.tuned_fine,
    "tuned_periods": Methods.tuned_periods,
    "random": Methods.random,
    "genetic": Methods.genetic,
    "local": Methods.local,
    "one_shot": Methods.one_shot,
    "one_shot_argmax": Methods.one_shot_argmax,
    "one_shot_periods": Methods.one_shot_periods,
    "one_shot_ranked": Methods.one_shot_ranked,
    "periods_ranked": Methods.periods_ranked,
    "one_shot_to_local": Methods.one_shot_to_local,
    "periods_to_local": Methods.periods_to_local,
    "exhaustive": Methods.exhaustive,
    "oracle": Methods.oracle,
}
"""What is measured and stored, in the order of the tables."""

RULES = {
    "one_shot_or_local": ("one_shot", "one_shot_to_local"),
    "periods_or_local": ("one_shot_periods", "periods_to_local"),
}
"""Rows that keep the first of two structures unless the second has a lower error on validation."""

ROWS = (*METHODS, *RULES)
"""Rows of the tables, in their order."""


def ruled(entries: Mapping[str, Mapping[str, Any]], rule: str) -> dict[str, Any] | None:
    """The row of a rule, from those of its two methods; None where one of them is missing.

    Both structures have been trained to the end. One of these trainings is that which every design gets, and the other
    is counted: as many epochs as the first search, which is one training.
    """
    first, then = (entries.get(name) for name in RULES[rule])
    if first is None or then is None:
        return None
    kept = then if then["validation"] < first["validation"] else first
    more = first["epochs"] if first["dilations"] != then["dilations"] else 0
    return {**kept, "epochs": then["epochs"] + more, "search_step_ms": then["search_step_ms"]}


def with_rules(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of methods, and those of all rules that follow from them."""
    found = {**entries, **{rule: ruled(entries, rule) for rule in RULES}}
    return {label: found[label] for label in ROWS if found.get(label) is not None}
