"""The methods of the study `search_at_equal_cost`: each names a design, and says what finding it took.

Budgets are counted in epochs; a training has `Config.epochs`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.methods.stretched import stretched_design
from benchmarks.studies.equal_cost_training import Case, Design, SearchConfig, Training, design_of
from rfnext import OneShotConfig, OneShotSearch, Structure, powers_of_two
from tasks.load_forecasting.models import searched

LONGEST = 512
"""Largest dilation that a search may choose, on every data set: ten days of half hours."""

ENDS = powers_of_two(LONGEST + 1)[::2]
"""First and last dilations of the tuned design: 1, 4, 16, 64, 256."""

RUNGS = (2, 5)
"""Epochs of every candidate, and in all of the best of them."""

FINALISTS = 2
"""Candidates that are trained to the second rung. With the 15 tuned designs: 30 + 2 * 3 = 36 epochs, 3 trainings."""

READ_OUTS = 9
"""Candidates that are read out of a one-shot search and ranked: 18 + 2 * 3 = 24 epochs, with the search 3 trainings."""


class Found(NamedTuple):
    """A design, the epochs that were trained to find it, and the CPU seconds of a step of the search within a training,
    if it is one."""

    design: Design
    epochs: int = 0
    step: float | None = None


class Methods:
    """The methods on one case. What several of them train is trained once; each counts it in full."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._trainings: dict[Design, Training] = {}
        self._one_shot: Training | None = None

    def trained(self, design: Design, epochs: int | None = None) -> Training:
        """The training of a design, after that many epochs of its schedule or more; by default to the end."""
        if design not in self._trainings:
            self._trainings[design] = Training(self.case, design)
        return self._trainings[design].to((epochs or self.case.config.epochs) * self.case.config.steps)

    def hand(self) -> Found:
        """1, 2, 4, ..."""
        return Found(design_of(Structure.read(self.case.network(), searched)))

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
        return Found((round(LONGEST**0.5),) * self.case.config.layers)

    def tuned(self) -> Found:
        """A geometric design, its first and last dilation chosen on validation."""
        network = self.case.network()
        pairs = [(first, last) for first in ENDS for last in ENDS if first <= last]
        return self._best([design_of(stretched_design(network, searched, *pair)) for pair in pairs])

    def random(self) -> Found:
        """The best of as many random designs as `tuned` has; every layer has a power of two."""
        rng = np.random.default_rng([self.case.seed, self.case.fold])
        count, choices = len(ENDS) * (len(ENDS) + 1) // 2, powers_of_two(LONGEST + 1)
        drawn: dict[Design, None] = {}
        while len(drawn) < count:
            drawn[tuple(int(d) for d in rng.choice(choices, self.case.config.layers))] = None
        return self._best(list(drawn))

    def local(self) -> Found:
        """The local search from the hand design, as in the preset."""
        return self._searched(None, self.case.config.search)

    def one_shot(self) -> Found:
        """The one-shot search, as in the suite: all powers of two, read out by the expectation of log2."""
        return self._read_out(self._all_candidates(), "log2")

    def one_shot_argmax(self) -> Found:
        """The same search, read out by the most probable candidate."""
        return self._read_out(self._all_candidates(), "argmax")

    def one_shot_ranked(self) -> Found:
        """Both read-outs and samples of the same search, ranked on validation by short trainings."""
        training = self._all_candidates()
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

    def one_shot_to_local(self) -> Found:
        """The local search from what the one-shot search has found."""
        start = self.one_shot()
        found = self._searched(start.design, self.case.config.search)
        return Found(found.design, start.epochs + found.epochs, found.step)

    def _all_candidates(self) -> Training:
        if self._one_shot is None:
            config = OneShotConfig(powers_of_two(LONGEST + 1), interval=self.case.config.epochs)
            self._one_shot = Training(self.case, None, config).to(self.case.steps)
        return self._one_shot

    def _searched(self, start: Design | None, config: SearchConfig) -> Found:
        training = Training(self.case, start, config).to(self.case.steps)
        return self._read_out(training, None)

    def _read_out(self, training: Training, readout: str | None) -> Found:
        search = training.search
        assert search is not None
        structure = search.structure(readout) if isinstance(search, OneShotSearch) else search.structure()  # type: ignore[arg-type]
        return Found(design_of(structure), self.case.config.epochs, training.seconds / training.step)

    def _best(self, designs: Sequence[Design]) -> Found:
        """Successive halving: the design with the lowest error on validation among the finalists."""
        short, long = RUNGS
        scored = sorted((self.trained(design, short).best_until(short), design) for design in designs)
        finalists = [design for _, design in scored[:FINALISTS]]
        best = min((self.trained(design, long).best_until(long), design) for design in finalists)
        return Found(best[1], short * len(designs) + (long - short) * len(finalists))


METHODS: dict[str, Callable[[Methods], Found | None]] = {
    "hand": Methods.hand,
    "expert": Methods.expert,
    "middle": Methods.middle,
    "tuned": Methods.tuned,
    "random": Methods.random,
    "local": Methods.local,
    "one_shot": Methods.one_shot,
    "one_shot_argmax": Methods.one_shot_argmax,
    "one_shot_ranked": Methods.one_shot_ranked,
    "one_shot_to_local": Methods.one_shot_to_local,
}
"""Rows of the tables."""
