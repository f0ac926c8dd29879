"""Trainings of a cell: what is trained, with which initial weights, and what an interrupted one continues."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.cell import Cell
from benchmarks.methods.method import Outcome
from benchmarks.methods.training import Training, build, fit, load_network, load_selected, own_training, save_network
from rfnext import Structure
from rfnext.ops import native_build
from tasks.spec import SELECTED, Run, Split

Make = Callable[..., Cell]


def test_the_baseline_is_a_plain_training(
    cell: Make, run: Callable[..., Outcome], toy: ModuleType, tmp_path: Path
) -> None:
    here = cell()
    torch.manual_seed(0)
    model = toy.build(here.config)
    toy.fit(model, here.config, Run(seed=0, fold=1, folder=tmp_path))
    outcome = run(here)
    assert outcome.metrics_last == toy.evaluate(model, here.config, Split("test", 1))
    model.load_state_dict(torch.load(tmp_path / SELECTED, weights_only=True)["state_dict"])
    assert outcome.metrics == toy.evaluate(model, here.config, Split("test", 1))
    assert outcome.validation == toy.evaluate(model, here.config, Split("validation", 1))
    assert outcome.structure == Structure({"0": (2,), "2": (4,)})


def test_every_method_starts_from_the_same_weights(cell: Make) -> None:
    one, two, other = (build(here) for here in (cell(), cell("local_multi"), cell(seed=1)))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_training_never_resumes_from_another_one(cell: Make, toy: ModuleType) -> None:
    here = cell()
    fresh = dataclasses.replace(here, resume=False)
    training = own_training(here)
    fit(here, build(here), training)
    (training.folder / "stray").touch()
    dilated = build(here)
    Structure({"0": 3}).apply(dilated)
    assert not fit(here, dilated, training).resumed
    assert not (training.folder / "stray").exists()
    assert fit(here, dilated, training).resumed
    assert not fit(here, dilated, dataclasses.replace(training, epochs=6)).resumed
    assert not fit(here, dilated, dataclasses.replace(training, settings={"groups": 2})).resumed
    assert not fit(fresh, dilated, training).resumed


def test_a_training_never_resumes_with_other_kernels(cell: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """They round otherwise, so that it would be neither of two trainings."""
    here = cell()

    def train() -> bool:
        return fit(here, build(here), own_training(here)).resumed

    assert not train()
    monkeypatch.setenv("RFNEXT_IMPLEMENTATION", "branches")
    assert not train()
    assert train()
    monkeypatch.delenv("RFNEXT_IMPLEMENTATION")
    monkeypatch.setattr(native_build, "failure", lambda: "there is no compiler any more")
    assert not train()
    assert train()


def test_the_beginning_of_a_training_is_continued(cell: Make, toy: ModuleType) -> None:
    runs: list[tuple[int, int | None, bool]] = []

    def spying(model: Any, config: Any, run: Run) -> None:
        runs.append((config.epochs, run.schedule_epochs, run.resume))
        toy.fit(model, config, run)

    here = cell(task=dataclasses.replace(toy.TASK, fit=spying))
    first = Training(here.work / "candidate", 2, beginning=True)
    model = build(here)
    assert not fit(here, model, first).resumed
    longer = fit(here, model, dataclasses.replace(first, epochs=4))
    assert longer.resumed
    assert longer.cost.epochs == 4
    assert runs == [(2, 5, False), (4, 5, True)]  # schedules span the cell's own training
    fit(here, model, own_training(here))
    assert runs[-1] == (5, None, False)


def test_a_run_is_told_what_a_logger_calls_it(cell: Make, toy: ModuleType) -> None:
    told: list[Run] = []

    def spying(model: Any, config: Any, run: Run) -> None:
        told.append(run)
        toy.fit(model, config, run)

    here = cell(task=dataclasses.replace(toy.TASK, fit=spying), logger="csv", seed=3, fold=2)
    fit(here, build(here), own_training(here))
    (run,) = told
    assert (run.name, run.group) == ("toy tiny baseline fold2-seed3 train", "toy tiny")
    assert (run.seed, run.fold, run.logger, run.device) == (3, 2, "csv", "cpu")
    assert run.folder == here.work / "train"


def test_networks_are_kept_as_they_ended(cell: Make) -> None:
    here = cell()
    model = build(here)
    here.work.mkdir(parents=True)
    save_network(model, here.work)
    again = build(cell(seed=1))
    assert not load_selected(again, here.work)  # none was selected
    load_network(again, here.work)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("method", ["baseline", "local_single", "random_single"])
def test_what_was_trained_while_the_data_changed_is_never_used(
    own: Make, run: Callable[..., Outcome], mine: list[Path], toy: ModuleType, method: str
) -> None:
    """Not even once the data is what it was: the checkpoints may have seen both."""
    right = run(own(mine[0], method, preset="right")).metrics
    label = mine[0] / "labels.txt"

    def fit(model: Any, config: Any, run: Any) -> None:
        torch.nn.init.zeros_(model[3].weight)  # what changed data does to a training
        toy.fit(model, config, run)
        label.write_text("background")

    here = own(mine[0], method)
    with pytest.raises(RuntimeError, match="the data is not what it was when the cell was planned"):
        run(dataclasses.replace(here, task=dataclasses.replace(toy.TASK, fit=fit)))
    label.write_text("cut")
    again = run(here)
    assert again.metrics == right
    assert not again.resumed


def test_a_training_never_resumes_on_other_data(own: Make, mine: list[Path]) -> None:
    def train(root: Path) -> bool:
        here = own(root, preset="ours", resume=True)
        return fit(here, build(here), own_training(here)).resumed

    assert not train(mine[0])
    assert train(mine[0])
    assert not train(mine[1])
    (mine[1] / "labels.txt").write_text("background")
    assert not train(mine[1])
    assert train(mine[1])
