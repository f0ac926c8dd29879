"""Methods: every recipe trains real networks of the toy task and reports what it did."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.methods import FOUND, METHODS, Job, Outcome, build, draw_structure, fit, local_search
from rfnext import Bounds, LocalConfig, LocalSearch, SearchConv, Structure
from tasks.spec import Run, Split


def run(job: Job) -> Outcome:
    method = METHODS[job.cell.method]
    return method.run(job, **method.settings)


def lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(dilation) for name, dilation in structure.items()}


def convs(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv1d) and module.kernel_size == (3,)]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_a_network_and_counts_its_cost(name: str, job: Callable[..., Job]) -> None:
    here = job(name)
    outcome = run(here)
    for values in (outcome.metrics, outcome.metrics_last, outcome.validation):
        assert set(values) == {"accuracy", "loss"}
        assert values["accuracy"] > 60
    # What is reported is the score of the returned network, on the test part.
    assert outcome.metrics == here.task.evaluate(outcome.model, here.config, Split("test", 1))
    assert set(outcome.structure) == {"0", "2"}
    searches, trains = name != "baseline", name != "local_search_run"
    assert outcome.search.epochs == (here.config.epochs if searches else 0)
    assert outcome.training.epochs == (here.config.epochs if trains else 0)
    assert (outcome.search.seconds > 0) == searches
    assert (outcome.training.seconds > 0) == trains
    assert outcome.evaluation_seconds > 0
    for cost, used in ((outcome.search, searches), (outcome.training, trains)):
        assert (cost.peak_memory_mb is not None) == used
    assert not outcome.resumed


@pytest.mark.parametrize("name", ["random_search", "local_search_run", "local_multi"])
def test_a_cell_is_reproduced_by_its_seed(name: str, job: Callable[..., Job], tmp_path: Path) -> None:
    one = run(job(name))
    two = run(dataclasses.replace(job(name), results=tmp_path / "again"))
    assert (one.metrics, one.validation, one.history) == (two.metrics, two.validation, two.history)


def test_seeds_and_folds_are_different_cells(job: Callable[..., Job]) -> None:
    found = [run(job(seed=seed, fold=fold)).metrics["loss"] for seed, fold in ((0, 1), (1, 1), (0, 2))]
    assert len(set(found)) == 3


def test_the_baseline_is_a_plain_training(job: Callable[..., Job], toy: ModuleType, tmp_path: Path) -> None:
    here = job()
    torch.manual_seed(0)
    model = toy.build(here.config)
    toy.fit(model, here.config, Run(seed=0, fold=1, folder=tmp_path))
    outcome = run(here)
    assert outcome.metrics_last == toy.evaluate(model, here.config, Split("test", 1))
    assert outcome.structure == Structure({"0": (2,), "2": (4,)})


def test_local_methods_share_one_search(job: Callable[..., Job]) -> None:
    names = [name for name, method in METHODS.items() if method.shares_search]
    assert names == ["local_search_run", "local_single", "local_multi"]
    outcomes = {}
    written = set()
    for name in names:
        outcomes[name] = run(job(name))
        (found,) = job().results.rglob(FOUND)
        written.add(found.stat().st_mtime_ns)
    assert len(written) == 1
    searched = outcomes["local_search_run"]
    for name in names[1:]:
        assert outcomes[name].search == searched.search
        assert outcomes[name].history == searched.history
        assert dict(outcomes[name].structure) == {k: tuple(d) for k, d in searched.history[-1]["structure"].items()}


def test_single_is_plain_and_multi_keeps_branches(job: Callable[..., Job]) -> None:
    single, multi = run(job("local_single")).model, run(job("local_multi")).model
    assert not any(isinstance(conv, SearchConv) for conv in single.modules())
    for conv in convs(multi):
        assert isinstance(conv, SearchConv)
        assert len(conv.dilations) == 3
        assert conv.dilations[1] == conv.dilation
        # The probabilities are trained along.
        assert conv.probability.detach().std() > 1e-3


def test_the_search_run_is_scored_as_it_ended(job: Callable[..., Job], toy: ModuleType, tmp_path: Path) -> None:
    here = job("local_search_run")
    torch.manual_seed(0)
    model = toy.build(here.config)
    search = LocalSearch(model, here.config.search)
    toy.fit(model, here.config, Run(seed=0, fold=1, folder=tmp_path, search=search))
    outcome = run(here)
    assert outcome.metrics_last == toy.evaluate(model, here.config, Split("test", 1))
    for ours, theirs in zip(convs(outcome.model), convs(model), strict=True):
        assert isinstance(ours, SearchConv)
        assert isinstance(theirs, SearchConv)
        assert ours.dilations == theirs.dilations
    rounds = [entry for entry in outcome.history if "branches" in entry]
    assert [entry["step"] for entry in rounds] == [1, 2, 3]
    assert [entry["structure"] for entry in rounds] == [lists(r.structure) for r in search.history]
    for entry, seen in zip(rounds, search.history, strict=True):
        for name, branches in entry["branches"].items():
            assert [tuple(dilation) for dilation, _ in branches] == seen.dilations[name]
            assert [share for _, share in branches] == pytest.approx(seen.probability[name], abs=1e-4)
    assert outcome.history[0] == {"step": 0, "structure": {"0": [2], "2": [4]}}


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / FOUND).write_text("{"),
        lambda folder: (folder / FOUND).write_text("[]"),
        lambda folder: (folder / FOUND).write_text((folder / FOUND).read_text().replace('"structure"', '"x"')),
        lambda folder: (folder / "last.pt").unlink(),
    ],
)
def test_a_damaged_search_is_done_again(job: Callable[..., Job], damage: Callable[[Path], Any]) -> None:
    first = local_search(job("local_single"))
    damage(first.folder)
    again = local_search(job("local_single"))
    assert again.cost.seconds != first.cost.seconds
    assert again.structure == first.structure
    json.loads((first.folder / FOUND).read_text())


def test_a_search_of_another_protocol_is_not_taken_over(job: Callable[..., Job], toy: ModuleType) -> None:
    run(job("local_single"))
    longer = run(job("local_single", config=toy.Config(epochs=6)))
    assert longer.search.epochs == 6
    assert longer.history[-1]["step"] == 6


def test_random_search_stays_within_the_budget_and_takes_the_best(job: Callable[..., Job], toy: ModuleType) -> None:
    outcome = run(job("random_search", config=toy.Config(epochs=12)))
    assert outcome.search.epochs == 5 * (12 // 5)
    assert len(outcome.history) == 5
    best = max(outcome.history, key=lambda entry: entry["validation"]["accuracy"])
    assert lists(outcome.structure) == best["structure"]
    assert run(job("random_search", config=toy.Config(epochs=3))).search.epochs == 3


def test_random_structures_are_uniform_over_powers_of_two(toy: ModuleType) -> None:
    rng = np.random.default_rng(0)
    draws = [draw_structure(toy.build(toy.Config()), toy.TASK, toy.Config().search, rng) for _ in range(600)]
    for name in ("0", "2"):
        counts = Counter(draw[name] for draw in draws)
        # The largest hand-designed dilation is 4. Each is expected 200 times; 60 is five standard deviations.
        assert set(counts) == {(1,), (2,), (4,)}
        assert all(abs(count - 200) < 60 for count in counts.values())


def test_random_structures_keep_to_bounds_and_to_axes_that_have_a_dilation(toy: ModuleType) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, (3, 2)), nn.Conv2d(1, 1, (1, 3)), nn.Conv2d(1, 1, 1))
    rng = np.random.default_rng(0)
    config = LocalConfig(bounds=Bounds(2, 9))
    draws = [draw_structure(network, toy.TASK, config, rng) for _ in range(50)]
    # Nothing is dilated by hand here, so the search's bound takes the place of the largest dilation.
    assert {draw["0"] for draw in draws} == {(2, 1), (4, 1), (8, 1)}
    assert {draw["1"] for draw in draws} == {(1, 2), (1, 4), (1, 8)}
    assert all(set(draw) == {"0", "1"} for draw in draws)
    with pytest.raises(ValueError, match="no power of two up to 7"):
        draw_structure(network, toy.TASK, LocalConfig(bounds=Bounds(5, 7)), rng)


@pytest.mark.parametrize("name", ["baseline", "local_single", "random_search"])
def test_an_interrupted_cell_resumes_to_the_same_result(name: str, job: Callable[..., Job], tmp_path: Path) -> None:
    here = job(name, preset="interrupt", fold=2)
    if name == "random_search":  # its candidates take one epoch each; the full training is what is interrupted
        assert here.config.epochs // 5 == 1
    while True:
        try:
            outcome = run(here)
            break
        except KeyboardInterrupt:
            here = dataclasses.replace(here, resume=True)
    assert outcome.resumed
    straight = run(dataclasses.replace(job(name, preset="tiny", fold=2), results=tmp_path / "straight"))
    assert outcome.metrics == straight.metrics
    assert outcome.structure == straight.structure
    assert outcome.history == straight.history


def test_a_training_never_resumes_from_another_one(job: Callable[..., Job], toy: ModuleType) -> None:
    here = job()
    folder = here.folder("train")
    fit(here, build(here), folder)
    (folder / "stray").touch()
    resuming = dataclasses.replace(here, resume=True)
    dilated = build(here)
    Structure({"0": 3}).apply(dilated)
    assert not fit(resuming, dilated, folder).resumed
    assert not (folder / "stray").exists()
    assert fit(resuming, dilated, folder).resumed
    assert not fit(resuming, dilated, folder, config=toy.Config(epochs=6)).resumed
    assert not fit(here, dilated, folder).resumed
