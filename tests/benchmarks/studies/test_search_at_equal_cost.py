"""The study of searches at equal cost: its trainings are the task's, its budgets are kept, its tables are right."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.records.places import ROOT
from benchmarks.records.protocol import fingerprint
from benchmarks.studies import equal_cost_comparisons, measurements, search_at_equal_cost
from benchmarks.studies.equal_cost_forecasting import ForecastingCase
from benchmarks.studies.equal_cost_searches import METHODS, Methods, periods, ruled, with_rules
from benchmarks.studies.equal_cost_tables import Measured, table
from benchmarks.studies.search_at_equal_cost import (
    DATA,
    LAYERS,
    SEEDS,
    Name,
    case_of,
    config_of,
    folder_of,
    main,
    order,
    settings,
)
from rfnext import Bounds
from rfnext.receptive_field import theoretical_receptive_field
from tasks.load_forecasting.evaluation import evaluate
from tasks.load_forecasting.training import fit
from tasks.spec import SELECTED, Run, Split


def case(layers: int = 3, epochs: int = 2, **changed: Any) -> ForecastingCase:
    config = replace(config_of("taylor", layers), epochs=epochs, steps=2, width=4, **changed)
    return ForecastingCase(config, fold=2, seed=1)


def test_a_training_has_the_weights_that_the_task_gives(tmp_path: Path) -> None:
    one = case(epochs=3)
    trained = one.training((2, 16, 48)).to(2).to(one.steps)
    network = one.network((2, 16, 48))
    fit(network, one.config, Run(seed=one.seed, fold=one.fold, folder=tmp_path, device="cpu"))
    for ours, theirs in zip(trained.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (tmp_path / SELECTED).exists()
    last = evaluate(network, one.config, Split("validation", one.fold))["mse"]
    assert trained.best_until(3) <= last * (1 + 1e-6)


def test_scores_are_of_the_best_epoch() -> None:
    one = case(epochs=4)
    trained = one.training().to(one.steps)
    assert trained.scores("validation")["mse"] == pytest.approx(trained.best_until(4))
    assert trained.best_until(1) >= trained.best_until(4)


def test_the_look_back_is_twice_the_sum_of_dilations_and_nothing_later_is_read() -> None:
    network = case().network((5, 1, 20))
    length = 101

    def forecast(x: Tensor) -> Tensor:
        return network.forecast(x)

    ((first, last),) = theoretical_receptive_field(forecast, torch.randn(1, 1, length), (length - 1,))
    assert (first, last) == (length - 1 - 2 * (5 + 1 + 20), length - 1)


def test_budgets_are_what_the_protocol_says() -> None:
    one = case(epochs=12)
    methods = Methods(one)
    found = {name: method(methods) for name, method in METHODS.items() if name != "tuned_fine"}
    for name in ("exhaustive", "oracle"):
        assert found.pop(name) is None, "there are 1,000 designs of three layers"
    epochs = {name: cast(Any, one).epochs / 12 for name, one in found.items()}
    for name in ("one_shot_ranked", "periods_ranked"):
        assert epochs.pop(name) <= 3, "fewer where the samples repeat"
    assert epochs == {
        "hand": 0,
        "expert": 0,
        "middle": 0,
        "tuned": 3,
        "tuned_periods": 3,
        "random": 3,
        "genetic": 3,
        "local": 1,
        "one_shot": 1,
        "one_shot_argmax": 1,
        "one_shot_periods": 1,
        "one_shot_to_local": 2,
        "periods_to_local": 2,
    }
    designs = {name: cast(Any, one).design for name, one in found.items()}
    assert designs["hand"] == (1, 2, 4)
    assert designs["expert"] == (48, 96, 336)
    # 2 ** mean(0, 1, ..., 9) = 22.6
    assert designs["middle"] == (23, 23, 23)
    assert all(
        d in [2**k for k in range(10)] for d in (*designs["random"], *designs["genetic"], *designs["one_shot_argmax"])
    )
    # Geometric: the middle is the mean of the ends' logarithms.
    low, middle, high = designs["tuned"]
    assert middle == round(math.sqrt(low * high))
    # The halving, anew: every design by a training of its own.
    assert designs["tuned"] == halved(one, [1, 4, 16, 64, 256])
    low, _, high = designs["tuned_periods"]
    allowed = {1, 4, 16, *periods(one.open().inputs[0, : one.open().ends[0]], 512, 2)}
    assert len(allowed) == 5
    assert {low, high} <= allowed


@pytest.mark.parametrize("after", [0.3, 0.2, 0.1])
def test_a_rule_keeps_the_first_structure_unless_validation_prefers_the_other(after: float) -> None:
    first, then = (line("taylor", 3, 1, {"one_shot": mse, "hand": 1.0})["methods"]["one_shot"] for mse in (0.5, 0.9))
    first |= {"validation": 0.2, "dilations": [1, 8, 64], "epochs": 12}
    then |= {"validation": after, "dilations": [1, 9, 80], "epochs": 24, "search_step_ms": 4.0}
    kept = cast(Any, ruled({"one_shot": first, "one_shot_to_local": then}, "one_shot_or_local"))
    # The test part, 0.5 and 0.9, decides nothing.
    assert (kept["dilations"], kept["mse"]) == (([1, 9, 80], 0.9) if after == 0.1 else ([1, 8, 64], 0.5))
    assert kept["epochs"] == 36
    same = cast(
        Any, ruled({"one_shot": first, "one_shot_to_local": then | {"dilations": [1, 8, 64]}}, "one_shot_or_local")
    )
    assert same["epochs"] == 24, "one structure, one training"
    assert ruled({"one_shot": first}, "one_shot_or_local") is None


def test_the_parts_of_a_rule_are_run_with_it(tmp_path: Path) -> None:
    name = Name("births", 3, 1, 0)
    measured = search_at_equal_cost.measure(name, ["periods_or_local"], {})["methods"]
    assert list(measured) == ["one_shot_periods", "periods_to_local"], "what follows from others is not stored"
    found = with_rules(measured)
    assert list(found) == ["one_shot_periods", "periods_to_local", "periods_or_local"]
    assert found["periods_or_local"]["validation"] == min(one["validation"] for one in found.values())


def halved(one: ForecastingCase, ends: list[int]) -> tuple[int, ...]:
    """The best geometric design by successive halving."""
    every = [(a, round(math.sqrt(a * b)), b) for a in ends for b in ends if a <= b]
    two = sorted(every, key=lambda design: error(one, design, 2))[:2]
    return min(two, key=lambda design: error(one, design, 5))


def error(one: ForecastingCase, design: tuple[int, ...], epochs: int) -> float:
    """Lowest error on validation in the first epochs."""
    return one.training(design).to(epochs * one.config.steps).best_until(epochs)


def test_the_fine_tuning_has_all_powers_of_two_as_ends() -> None:
    one = case(search=replace(config_of("taylor", 3).search, bounds=Bounds(1, 4)))
    found = Methods(one).tuned_fine()
    assert found.design == halved(one, [1, 2, 4])
    assert found.epochs == 6 * 2 + 2 * 3


def test_with_two_layers_all_designs_are_trained_and_the_best_is_chosen() -> None:
    one = case(layers=2, search=replace(config_of("taylor", 2).search, bounds=Bounds(1, 4)))
    every = [(a, b) for a in (1, 2, 4) for b in (1, 2, 4)]
    trained = {design: one.training(design).to(one.steps) for design in every}
    exhaustive, oracle = Methods(one).exhaustive(), Methods(one).oracle()
    assert exhaustive is not None
    assert oracle is not None
    assert exhaustive.design == min(every, key=lambda design: trained[design].best_until(2))
    assert oracle.design == min(every, key=lambda design: trained[design].scores("test")["mse"])
    assert exhaustive.epochs == oracle.epochs == 2 * 9


def test_periods_are_the_peaks_of_the_autocorrelation() -> None:
    steps = np.arange(2000)
    day, week = np.sin(2 * np.pi * steps / 24), np.sin(2 * np.pi * steps / 168)
    noise = np.random.default_rng(0).normal(size=2000)
    assert periods(5.0 + day + 0.2 * noise, 40, 2) == [24]
    series = 5.0 + day + 0.8 * week + 0.1 * noise
    found = periods(series, 200, 1)
    # Slowly, by the definition.
    centred = series - series.mean()
    correlation = {lag: float((centred[lag:] * centred[:-lag]).sum()) for lag in range(100, 201)}
    assert found == [max(correlation, key=correlation.__getitem__)]
    assert periods(np.cumsum(np.ones(50)), 20, 2) == [], "a trend has no period"


def test_the_bound_by_length_is_an_eighth_of_the_training_part_and_tuning_reaches_as_far() -> None:
    cases = [case_of(Name("calls-eighth", 3, fold, 0)) for fold in range(1, 6)]
    # 27,716 steps; 4 to 8 tenths of them, by 8: 1385, 1732, 2078, 2425, 2771.
    assert [one.longest for one in cases] == [1024, 1024, 2048, 2048, 2048]
    # 1024 ** (1 / 4) = 5.66
    assert cases[0].ends == (1, 6, 32, 181, 1024)
    assert cases[4].ends[-1] == 2048


@pytest.mark.parametrize("data", DATA)
def test_what_is_committed_is_not_run_again(data: str) -> None:
    found = measurements.read(ROOT / "results/search_at_equal_cost" / folder_of(data))
    lines = [line for line in found if line["data"] == data]
    assert lines
    for line in lines:
        one = case_of(Name(data, line["layers"], line["fold"], line["seed"]))
        assert line["settings"] == fingerprint(settings(one))


def test_a_set_without_seasons_has_no_expert() -> None:
    one = ForecastingCase(config_of("treering", 3), 1, 0)
    assert Methods(one).expert() is None


def test_the_order_has_every_comparison_once() -> None:
    names = list(order())
    assert len(names) == len(set(names)) == len(DATA) * len(LAYERS) * len(SEEDS) * 5
    assert names[:15] == [Name("elecdemand", 3, fold, seed) for seed in SEEDS for fold in range(1, 6)]


def line(data: str, layers: int, fold: int, mse: dict[str, float]) -> dict[str, Any]:
    entry = {
        "dilations": [1] * layers,
        "epochs": 0,
        "validation": 1.0,
        "mae": 1.0,
        "skill": 5.0,
        "step_ms": 1.0,
        "search_step_ms": None,
    }
    methods = {name: entry | {"mse": value} for name, value in mse.items()}
    return {
        "data": data,
        "layers": layers,
        "fold": fold,
        "seed": 0,
        "multiply_adds": 100 * layers,
        "cpu_seconds": 1.0,
        "methods": methods,
    }


LINES = [
    line("taylor", layers, fold, {"hand": 0.2 * fold, "tuned": 0.1 * fold, "one_shot": factor * 0.2 * fold})
    for layers, factor in ((3, 0.5), (6, 0.9))
    for fold in (1, 2, 3)
]


def test_changes_are_of_the_same_fold_in_percent() -> None:
    measured = Measured(LINES)
    change = measured.change((3, "one_shot"), (6, "hand"))
    assert change == {(fold, 0): pytest.approx(-50.0) for fold in (1, 2, 3)}
    text = table({"taylor": measured})
    (row,) = [row for row in text.splitlines() if row.startswith("| one_shot, 6 layers")]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["-10.0 ± 0.0", "-10.0 ± 0.0"]
    # With three layers, one_shot and tuned are equal.
    assert "5 of 6 differences" in text


def test_searches_come_first_and_are_counted() -> None:
    text = table({"taylor": Measured(LINES)})
    head = text.partition("## taylor")[0]
    # With three layers, one_shot has the error of tuned; there is no other search, and no other opponent.
    assert "0 of 1 are decided for the search, 0 against it" in head
    (row,) = [row for row in head.splitlines() if row.startswith("| one_shot ")]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["+0.00 ± 0.00"]
    assert head.count("## Searches") == 1


def confirming(data: str, tuned: float, expert: float, skill: float, folds: int = 5) -> Measured:
    """The rule has an mse of 1; that of the others differs a little between folds."""
    lines = list[dict[str, Any]]()
    for fold in range(1, folds + 1):
        for seed in SEEDS:
            shift = 0.001 * fold
            rest = {"tuned": tuned + shift, "expert": expert + shift, "hand": 2.0, "periods_to_local": 1.0}
            one: dict[str, Any] = line(data, 3, fold, {**rest, "periods_or_local": 1.0}) | {"seed": seed}
            one["methods"]["periods_or_local"] |= {"skill": skill}
            lines.append(one)
    return Measured(lines)


def test_a_set_confirms_the_rule_only_under_all_conditions_and_sets_are_the_units_of_the_mean() -> None:
    sets = {
        "taylor": confirming("taylor", 2.0, 1.0, 5.0),
        "sunspots": confirming("sunspots", 1.25, 1.25, 5.0),
        "ridership": confirming("ridership", 1.25, 0.8, 5.0),
        "temperature": confirming("temperature", 1.25, 1.25, -5.0),
        "tweets": confirming("tweets", 0.8, 1.25, 5.0),
    }
    part = table(sets).partition("## The confirmation")[2].partition("\n## ")[0]
    rows = {row[0]: row for row in ([cell.strip() for cell in one.strip("|").split("|")] for one in part.splitlines())}
    ends = {data: rows[data][-1] for data in sets if data in rows}
    # Worse than the expert, than persistence, than tuning.
    assert ends == {"sunspots": "yes", "ridership": "no", "temperature": "no", "tweets": "no"}
    means = [100 * np.mean([1 / (mse + 0.001 * fold) - 1 for fold in range(1, 6)]) for mse in (1.25, 1.25, 1.25, 0.8)]
    half = 3.1824463 * np.std(means, ddof=1) / 2
    assert rows["mean of 4 sets"][1] == f"{np.mean(means):+.1f} ± {half:.1f}"
    sets["tweets"] = confirming("tweets", 1.25, 1.25, 5.0, folds=4)
    assert "unfinished" in table(sets)
    assert "mean of 3 sets" in table(sets)


def test_what_is_chosen_on_the_test_part_is_in_no_count() -> None:
    lines = [
        line("taylor", 2, fold, {"hand": 0.2 * fold, "tuned": 0.1 * fold, "oracle": 0.01 * fold}) for fold in (1, 2, 3)
    ]
    text = table({"taylor": Measured(lines)})
    assert "| oracle " in text
    assert "1 of 1 differences" in text


def test_a_method_has_a_row_where_another_line_has_more_methods() -> None:
    lines = [
        line("taylor", 2, 1, {"hand": 0.2, "tuned": 0.1, "exhaustive": 0.1}),
        line("taylor", 3, 1, {"hand": 0.2, "tuned_periods": 0.1}),
    ]
    rows = [row.split()[1] for row in table({"taylor": Measured(lines)}).splitlines() if row.startswith("| ")]
    assert {"hand", "tuned", "exhaustive", "tuned_periods"} <= set(rows)


def measured(name: Name, wanted: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """A comparison without a training."""
    new = line(name.data, name.layers, name.fold, {method: 0.5 for method in METHODS if method in wanted})
    entries = {label: entry | {"commit": None} for label, entry in new["methods"].items()}
    return new | {"methods": known | entries, "settings": fingerprint(settings(case_of(name)))}


def test_what_is_measured_is_kept_and_the_rest_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def measure(name: Name, wanted: list[str], known: dict[str, Any]) -> dict[str, Any]:
        ran.append(name)
        return measured(name, wanted, known)

    monkeypatch.setattr(search_at_equal_cost, "measure", measure)
    arguments = ["--results", str(tmp_path), "--data", "taylor", "--layers", "3", "--seeds", "0"]
    assert main([*arguments, "--methods", "hand", "tuned"]) == 0
    assert len(ran) == 5
    ran.clear()
    assert main(arguments) == 0
    assert ran == [Name("taylor", 3, fold, 0) for fold in range(1, 6)]
    assert len(measurements.read(tmp_path / "taylor")) == 5
    assert main(arguments) == 0
    assert len(ran) == 5
    assert main([*arguments, "--layers", "2", "--minutes", "0"]) == 0
    assert len(ran) == 5
    assert (tmp_path / "cost.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda line: line | {"settings": "0123456789"},
            "taylor/measurements.jsonl:2: was measured under other settings",
        ),
        (lambda line: line | {"versions": line["versions"] | {"torch": "1.0"}}, "was measured with torch 1.0, numpy"),
    ],
)
@pytest.mark.parametrize("only_table", [True, False])
def test_measurements_that_differ_by_more_than_the_method_are_never_mixed(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    said: str,
    only_table: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(search_at_equal_cost, "measure", measured)
    arguments = ["--results", str(tmp_path), "--data", "taylor", "--layers", "3", "--seeds", "0", "--methods", "hand"]
    assert main(arguments) == 0
    lines = measurements.read(tmp_path / "taylor")
    measurements.write(tmp_path / "taylor", [lines[0], change(lines[1]), *lines[2:]])
    before = (tmp_path / "taylor" / measurements.NAME).read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "tuned", *(["--only-table"] if only_table else [])])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n"), said in error) == (1, 1, True), error
    assert (tmp_path / "taylor" / measurements.NAME).read_bytes() == before


def test_a_line_of_another_set_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would stand in that set's rows, and be written into neither folder."""
    monkeypatch.setattr(search_at_equal_cost, "measure", measured)
    arguments = ["--results", str(tmp_path), "--layers", "3", "--seeds", "0", "--methods", "hand"]
    assert main([*arguments, "--data", "taylor", "births"]) == 0
    births = measurements.read(tmp_path / "births")
    measurements.write(tmp_path / "taylor", [*measurements.read(tmp_path / "taylor")[:4], births[4]])
    measurements.write(tmp_path / "births", births[:4])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--only-table"])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (1, 1)
    assert "taylor/measurements.jsonl:5: is of births, whose folder is births; move the line there" in error


def test_a_line_of_other_versions_can_be_shown_but_not_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search_at_equal_cost, "measure", measured)
    arguments = ["--results", str(tmp_path), "--data", "taylor", "--layers", "3", "--seeds", "0", "--methods", "hand"]
    assert main(arguments) == 0
    lines = measurements.read(tmp_path / "taylor")
    measurements.write(
        tmp_path / "taylor", [line | {"versions": line["versions"] | {"torch": "1.0"}} for line in lines]
    )
    assert main([*arguments, "--only-table"]) == 0
    with pytest.raises(SystemExit):
        main([*arguments, "tuned"])
    assert "measured with torch 1.0" in capsys.readouterr().err


def test_adding_a_method_leaves_the_commit_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    one = case()
    known = equal_cost_comparisons.compare(one, ["hand"], {}, search_at_equal_cost.rounded)
    monkeypatch.setattr(equal_cost_comparisons, "commit", lambda: "0123456789ab")
    both = equal_cost_comparisons.compare(one, ["hand", "middle"], known, search_at_equal_cost.rounded)
    assert both["hand"] == known["hand"]
    assert both["middle"]["commit"] == "0123456789ab" != known["hand"]["commit"]


def test_all_that_decides_what_a_search_finds_is_in_its_settings() -> None:
    known = {"designs": 15, "genetic": [5, 15], "periods": 2, "finalists": 2, "read_outs": 9, "rungs": (2, 5)}
    assert settings(case())["searches"].items() >= known.items()
