"""What networks of the study `search_at_equal_cost` are compared with besides: forecasts without a network, and the
network of another library.

    python -m benchmarks.studies.search_at_equal_cost --only-table --references

Written before any result of it. On every series: the persistence forecasts and the ridge regression of
`tasks.load_forecasting.baselines`, which no seed changes. On elecdemand also the temporal convolutional network of
Darts, made of its own residual blocks: `darts`, with 3 of them, seeds 0, 1, 2; and `darts_own`, seed 0, with as many as
its formula takes to see `Config.burn_in` steps, two weeks. Dilations double, as they always do there; width, kernel,
normalisation, loss, epochs and the choice of the epoch are those of the study. Its blocks have two convs of kernel 3
and ours have one and a conv of kernel 1.

The package `darts` is needed for these two rows alone (`pip install darts`); they were measured with 0.48.1.
"""

import importlib.metadata
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from benchmarks.records.machine import commit
from benchmarks.records.schema import STRICT, Amount, Label, Real, Seed, Whole
from benchmarks.records.statistics import Values, estimate, number, paired
from benchmarks.report.markdown import pipe
from benchmarks.studies import measurements
from benchmarks.studies.equal_cost_forecasting import ForecastingCase
from rfnext.receptive_field import multiply_adds
from tasks.load_forecasting import metrics
from tasks.load_forecasting.baselines import ridge
from tasks.load_forecasting.models import KERNEL, Forecaster, values

log = logging.getLogger(__name__)

FOLDER = "references"
"""In the study's folder."""

PEERED = "elecdemand"
"""The series that the other library's network is trained on."""

DARTS, DARTS_OWN = "darts", "darts_own"

LAYERS = 3
"""Of `darts`, and of the networks beside it."""

BESIDE = ("hand", "tuned", "periods_or_local")
"""Rows of the study that the table shows too."""

KEY = ("data", "fold", "seed", "method")


@with_config(STRICT)
class Line(TypedDict):
    """One method on one fold."""

    data: Label
    fold: Whole
    seed: Seed
    method: Label
    mse: Amount
    mae: Amount
    skill: Real
    multiply_adds: Whole | None
    darts: Label | None
    commit: Label | None


def _finite(line: Line) -> Line:
    if not all(math.isfinite(line[name]) for name in ("mse", "mae", "skill")):
        raise ValueError("has a score that is no finite number")
    return line


LINE = Annotated[Line, AfterValidator(_finite)]


@dataclass(frozen=True)
class PeerCase(ForecastingCase):
    """A series, a fold and a seed, with the network of Darts."""

    def untrained(self) -> nn.Module:
        """Darts' blocks between our normalisation and our units."""
        return Peer(self.open().inputs.shape[0], self.config)


class Peer(Forecaster):
    """`darts.models.forecasting.tcn_model._TCNModule`, which is these blocks one after another."""

    def __init__(self, columns: int, config: Any) -> None:
        try:
            from darts.models.forecasting.tcn_model import _ResidualBlock  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            what = f"Darts' network cannot be built ({error}); pip install darts, or leave out {PEERED}"
            raise measurements.MeasurementError(what) from error

        super().__init__(columns, config)
        del self.first, self.last
        shared = {"num_filters": config.width, "kernel_size": KERNEL, "dilation_base": 2, "dropout": config.dropout}
        shared |= {"weight_norm": False, "num_layers": config.layers, "input_size": columns, "target_size": 1}
        self.blocks = nn.ModuleList(_ResidualBlock(nr_blocks_below=index, **shared) for index in range(config.layers))

    def normalised(self, x: Tensor) -> Tensor:
        """As its base, on the device of the blocks."""
        return ((self._level(x)[0] - self.centre) / self.scale).float().to(next(self.blocks.parameters()).device)

    def forecast(self, x: Tensor) -> Tensor:
        """(B, columns, T) normalised -> (B, 1, T) normalised."""
        for block in self.blocks:
            x = block(x)
        return x


def layers_of_darts(length: int) -> int:
    """Layers that Darts takes to see so many steps, with kernels of 3 and dilations that double."""
    return math.ceil(math.log2((length - 1) / (KERNEL - 1) / 2 + 1))


def without_network(case: ForecastingCase) -> dict[str, dict[str, Any]]:
    """The persistence forecasts and the ridge regression, scored on the test part."""
    fold, config = case.open(), case.config
    found = {f"{n} steps before": metrics.persistence(fold, n) for n in metrics.lags(fold.horizon, config.seasons)}
    found["ridge"] = ridge(fold, config)
    test = fold.positions("test")
    scores = {name: metrics.score(forecast[test], fold, "test", config.seasons) for name, forecast in found.items()}
    return {name: {**_rounded(one), "multiply_adds": None, "darts": None} for name, one in scores.items()}


def with_darts(case: ForecastingCase, name: str) -> dict[str, Any]:
    """Scores of a network of Darts on the test part, and its multiply-adds per forecast.

    Raises:
        MeasurementError: if the training diverged before its first epoch was scored, so that it has no scores.
    """
    layers = LAYERS if name == DARTS else layers_of_darts(case.config.burn_in)
    peer, length = PeerCase(replace(case.config, layers=layers), case.fold, case.seed), 1024
    training = peer.training().to(peer.steps)
    if training.best_until(case.config.epochs) == math.inf:
        where = f"{name} on fold {case.fold}, seed {case.seed}"
        raise measurements.MeasurementError(f"{where}: the training diverged before it was scored")
    counted = round(multiply_adds(training.network, values(case.open().inputs[:, :length])) / length)
    version = importlib.metadata.version("darts")
    return {**_rounded(training.scores("test")), "multiply_adds": counted, "darts": version}


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {metric: round(scores[metric], 2 if metric == "skill" else 5) for metric in ("mse", "mae", "skill")}


def measure(cases: Mapping[tuple[str, int, int], ForecastingCase], results: Path) -> None:
    """Measure what is not known on these (data, fold, seed); written after each.

    Raises:
        MeasurementError: if what is known cannot be read.
    """
    known = {tuple(line[name] for name in KEY): line for line in read(results)}
    for (data, fold, seed), case in cases.items():
        new = [name for name in _wanted(data, seed) if (data, fold, seed, name) not in known]
        found = without_network(case) if "ridge" in new else {}
        found |= {name: with_darts(case, name) for name in new if name in (DARTS, DARTS_OWN)}
        for name, scores in found.items():
            about = {"data": data, "fold": fold, "seed": seed, "method": name, "commit": commit()}
            known[data, fold, seed, name] = {**about, **scores}
        if found:
            measurements.write(results / FOLDER, known.values())
            log.info("%s, fold %d, seed %d: %s", data, fold, seed, ", ".join(found))


def _wanted(data: str, seed: int) -> list[str]:
    first = ["ridge"] if seed == 0 else []
    darts = [DARTS, *([DARTS_OWN] if seed == 0 else [])] if data == PEERED else []
    return first + darts


def read(results: Path) -> list[dict[str, Any]]:
    """All measurements of it in a study's folder.

    Raises:
        MeasurementError: if one cannot be read.
    """
    return measurements.read(results / FOLDER, LINE, KEY)


def table(lines: Sequence[Mapping[str, Any]], study: Mapping[str, Any]) -> list[str]:
    """Mean squared errors of forecasts without a network, a row for each series, and of Darts'.

    study: the `equal_cost_tables.Measured` of each series.
    """
    if not lines:
        return []
    rows, sets = [], dict.fromkeys(one["data"] for one in lines)
    for data in sets:
        of = _by_method([one for one in lines if one["data"] == data])
        persistence = {name: mse for name, mse in of.items() if name.endswith("before")}
        best = min(persistence, key=lambda name: np.mean(list(persistence[name].values())))
        ours = [study[data].values(LAYERS, name) if data in study else {} for name in BESIDE]
        rows.append([data, f"{_text(of[best])} ({best})", _text(of["ridge"]), *map(_text, ours)])
    header = ["series", "best persistence", "ridge on lags", *(f"{name}, {LAYERS} layers" for name in BESIDE)]
    said = "Mean squared errors on the test part. The best persistence is the one with the lowest mean here."
    heading = "## Forecasts without a network, and another library's network"
    return [heading, "", said, "", pipe(header, rows), "", *_peer(lines, study)]


def _peer(lines: Sequence[Mapping[str, Any]], study: Mapping[str, Any]) -> list[str]:
    rows, of = [], _by_method([one for one in lines if one["data"] == PEERED])
    for name in (name for name in of if name in (DARTS, DARTS_OWN)):
        adds = next(one["multiply_adds"] for one in lines if one["method"] == name)
        changes = [_change(of[name], study[PEERED].values(LAYERS, ours)) for ours in BESIDE if PEERED in study]
        shown = [_text(one, 1, signed=True) for one in changes]
        rows.append([name, f"{adds:,}", _text(of[name]), *shown, str(len(of[name]))])
    if not rows:
        return []
    said = f"The network of Darts on {PEERED}, trained as ours; change of its mse in percent against ours."
    header = ["network", "multiply-adds", "mse", *(f"against {name} (%)" for name in BESIDE), "n"]
    return [said, "", pipe(header, rows), ""]


def _by_method(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[tuple[int, int], float]]:
    found = dict[str, dict[tuple[int, int], float]]()
    for one in lines:
        found.setdefault(one["method"], {})[one["fold"], one["seed"]] = one["mse"]
    return found


def _change(ours: Values, theirs: Values) -> Values:
    return {key: 100 * (ours[key] / theirs[key] - 1) for key in paired(ours, theirs)}


def _text(found: Values, decimals: int = 3, *, signed: bool = False) -> str:
    one = estimate(found)
    return "–" if one is None else number(one, decimals, signed=signed)
