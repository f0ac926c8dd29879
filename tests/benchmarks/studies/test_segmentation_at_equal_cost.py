"""The study of action segmentation at equal cost: its trainings are the task's, its tables are right."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.records.places import ROOT
from benchmarks.records.protocol import fingerprint
from benchmarks.studies import equal_cost_comparisons, measurements, segmentation_at_equal_cost
from benchmarks.studies.equal_cost_searches import METHODS, Methods
from benchmarks.studies.measurements import MeasurementError
from benchmarks.studies.segmentation_at_equal_cost import (
    LINE,
    METRICS,
    SEEDS,
    Name,
    case_of,
    draw,
    main,
    rounded,
    settings,
    table,
)
from tasks.action_segmentation.config import TINY
from tasks.action_segmentation.evaluation import evaluate
from tasks.action_segmentation.training import fit
from tasks.spec import SELECTED, Run, Split


def case(**changed: Any) -> Any:
    one = case_of(Name(3, 2, 1))
    return replace(one, config=replace(one.config, maps=4, **changed), rungs=(2, 4))


def test_a_training_has_the_weights_and_the_scores_that_the_task_gives(tmp_path: Path) -> None:
    one = case(epochs=4, lr_drop_epoch=3)
    trained = one.training((1, 16, 5)).to(7).to(one.steps)
    network = one.network((1, 16, 5))
    fit(network, one.config, Run(seed=one.seed, fold=one.fold, folder=tmp_path, device="cpu"))
    for ours, theirs in zip(trained.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (tmp_path / SELECTED).exists()
    last = evaluate(network, one.config, Split("validation", one.fold))
    assert trained.measure("validation") == pytest.approx(last)
    assert trained.best_until(4) <= 100 - sum(last.values()) / 5 + 1e-9
    assert trained.best_until(2) == pytest.approx(100 - sum(selected(one, 2).values()) / 5)


def selected(one: Any, epochs: int) -> dict[str, float]:
    """Scores of the validation part after the first epochs of the schedule."""
    return one.training((1, 16, 5)).to(epochs * one.batches).measure("validation")


def test_budgets_are_what_the_protocol_says() -> None:
    one = case_of(Name(3, 1, 0))
    short, long = one.rungs
    assert (one.config.epochs, one.batches, one.longest) == (24, 9, 128)
    assert 15 * short + 2 * (long - short) == 3 * 24
    assert 24 + 9 * short + 2 * (long - short) == 3 * 24
    tiny = case(epochs=4, lr_drop_epoch=3)
    found = METHODS["tuned"](Methods(tiny))
    assert found is not None
    assert {found.design[0], found.design[2]} <= {1, 3, 11, 38, 128}


def line(fold: int, **scores: float) -> dict[str, Any]:
    entry = {"dilations": [1, 2, 4], "epochs": 0, "validation": 50.0, "step_ms": 1.0, "search_step_ms": None}
    methods = {name: entry | {"scores": dict.fromkeys(METRICS, value)} for name, value in scores.items()}
    return {"layers": 3, "fold": fold, "seed": 0, "methods": methods}


def test_differences_are_of_the_same_fold_in_points() -> None:
    lines = [line(fold, hand=10.0 * fold, tuned=12.0 * fold, one_shot=10.0 * fold + 5) for fold in (1, 2, 3)]
    text = table(lines)
    against_hand = text.partition("Points against hand")[2].partition("Points against tuned")[0]
    (row,) = [row for row in against_hand.splitlines() if row.startswith("| one_shot")]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["+5.0 ± 0.0"] * 5
    # tuned: +2, +4, +6; t(2) = 4.30, so 4 ± 5.0.
    assert "+4.0 ± 5.0" in against_hand
    assert "5 of 10 are decided for the method, 0 against it" in against_hand
    # one_shot: +3, +1, -1.
    assert "+1.0 ± 5.0" in text.partition("Points against tuned")[2]


def test_a_searched_design_is_compared_with_the_hand_design_of_every_number_of_layers() -> None:
    lines = [line(fold, hand=10.0 * fold, tuned=12.0 * fold) for fold in (1, 2, 3)]
    lines += [line(fold, hand=20.0 * fold) | {"layers": 4} for fold in (1, 2, 3)]
    (row,) = [row for row in table(lines).splitlines() if row.startswith("| tuned, 3 layers")]
    # +2, +4, +6 against 3 layers; -8, -16, -24 against 4; t(2) = 4.30, so half widths of 5.0 and 19.9.
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["+4.0 ± 5.0", "-16.0 ± 19.9"]
    assert "tuned, 4 layers" not in table(lines)


def test_the_figure_names_what_was_measured_alone() -> None:
    drawn = draw([line(fold, hand=10.0, one_shot=12.0) for fold in (1, 2, 3)])
    assert [name in drawn for name in (b">hand<", b">one_shot<", b">tuned<", b">random<")] == [True, True, False, False]
    assert b">hand<" not in draw([])


def test_scores_are_stored_in_percent() -> None:
    assert rounded(dict.fromkeys(METRICS, 12.3456)) == {"scores": dict.fromkeys(METRICS, 12.35)}


def test_what_is_committed_is_current() -> None:
    for one in measurements.read(ROOT / "results/segmentation_at_equal_cost", LINE):
        name = Name(one["layers"], one["fold"], one["seed"])
        assert one["settings"] == fingerprint(settings(case_of(name)))


def test_what_is_measured_is_kept_and_the_rest_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def compare(case: Any, wanted: set[str], known: dict[str, Any], rounded: Any) -> dict[str, Any]:
        ran.append((case.fold, sorted(wanted - known.keys())))
        found = line(1, **dict.fromkeys(wanted, 50.0))["methods"]
        return {name: known.get(name, entry | {"commit": None}) for name, entry in found.items()}

    monkeypatch.setattr(segmentation_at_equal_cost, "compare", compare)
    arguments = ["--results", str(tmp_path), "--layers", "3", "--seeds", "0"]
    assert main([*arguments, "--methods", "hand"]) == 0
    assert ran == [(fold, ["hand"]) for fold in range(1, 6)]
    ran.clear()
    assert main([*arguments, "--methods", "hand", "tuned"]) == 0
    assert ran == [(fold, ["tuned"]) for fold in range(1, 6)]
    assert main([*arguments, "--methods", "hand", "tuned"]) == 0
    assert len(ran) == 5
    assert "| tuned" in (tmp_path / "table.md").read_text()


def test_a_training_that_diverged_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    one = case(epochs=2, lr_drop_epoch=1)
    diverging, sound = one.training((1, 1, 1)), one.training((1, 2, 3)).to(one.steps)
    with torch.no_grad():
        next(diverging.network.parameters()).fill_(math.nan)
    diverging.to(one.steps)
    assert all(math.isnan(value) for value in diverging.measure("test").values())
    assert diverging.best_until(2) == math.inf > sound.best_until(2)
    methods = Methods(one)
    methods._trainings = {(1, 2, 4): diverging}
    monkeypatch.setattr(equal_cost_comparisons, "Methods", lambda case: methods)
    with pytest.raises(MeasurementError, match=r"hand with dilations \(1, 2, 4\): the training diverged"):
        equal_cost_comparisons.compare(one, {"hand"}, {}, rounded)


def test_the_answer_comes_first_and_counts_whole_rows_alone() -> None:
    pairs = [(fold, seed) for fold in TINY.folds for seed in SEEDS]
    lines = [
        line(fold, tuned=10.0 * fold, random=9.0 * fold, one_shot_or_local=10.0 * fold + 5) | {"seed": seed}
        for fold, seed in pairs
    ]
    del lines[-1]["methods"]["random"]
    answer = table(lines).partition("Made by")[0]
    assert "- Against tuned: +5.0 ± 0.0 with 3 layers. 1 decided for it, 0 against it." in answer
    assert "- Against random: – with 3 layers. 0 decided for it, 0 against it." in answer
    assert "decide nothing: random with 3 layers (14 of 15)" in answer
