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

from benchmarks.evaluations import as_fitness
from benchmarks.methods import GENETIC, METHODS
from benchmarks.replacements import spacings
from benchmarks.searches import (
    candidates,
    capped_design,
    draw_structure,
    genetic_search,
    local_search,
    searched_network,
)
from benchmarks.training import FOUND, Job, Outcome, build, fit
from rfnext import Bounds, LocalConfig, LocalSearch, SearchConv, Structure, neighbours
from tasks.spec import Metric, Run, Split


def run(job: Job) -> Outcome:
    method = METHODS[job.cell.method]
    return method.run(job, **method.settings | TOY_SETTINGS.get(method.name, {}))


TOY_SETTINGS = {"kernel_enlargement": {"groups": 2}}  # more would not divide the two channels of the second conv


def lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(dilation) for name, dilation in structure.items()}


def convs(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv1d) and module.kernel_size == (3,)]


SEARCH_TRAININGS = {
    "baseline": (0, 0),
    "multi_dilation": (0, 0),
    "kernel_enlargement": (0, 0),
    "learnable_spacings": (0.6, 1),  # three factors share five epochs
    "tuned_design": (2, 2),
    "random_search": (1, 1),
    "local_search_run": (1, 1),
    "local_single": (1, 1),
    "local_single_annealed": (1, 1),
    "local_single_held_out": (1, 1),
    "local_single_branches5": (1, 1),
    "local_multi": (1, 1),
    "local_merge": (1, 1),
    "one_shot": (1, 1),
    "one_shot_held_out": (1, 1),
    "one_shot_ranked": (2, 2),
    "one_shot_to_local_single": (2, 2),
    "one_shot_to_local_multi": (2, 2),
    "global_": (5, 6),
    "global_shortened": (4, 6),
    "global_pareto": (5, 6),
    "global_to_local_single": (6, 7),
    "global_to_local_multi": (6, 7),
}
"""What each method may spend on searching, in trainings of the network."""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_a_network_and_counts_its_cost(name: str, job: Callable[..., Job]) -> None:
    here = job(name)
    outcome = run(here)
    for values in (outcome.metrics, outcome.metrics_last, outcome.validation):
        assert set(values) == {"accuracy", "loss"}
        # In five epochs the one-shot search has hardly begun to choose, and half a step beside the reach is no better
        # than chance here; what it finds in time is tested below.
        assert values["accuracy"] > (45 if name.startswith("one_shot") else 60)
    # What is reported is the score of the returned network, on the test part.
    assert outcome.metrics == here.task.evaluate(outcome.model, here.config, Split("test", 1))
    assert set(outcome.structure) == (set() if name == "learnable_spacings" else {"0", "2"})
    trains = name != "local_search_run"
    least, most = SEARCH_TRAININGS[name]
    searches = most > 0
    assert least * here.config.epochs <= outcome.search.epochs <= most * here.config.epochs
    assert sorted(path.parent.parent.name for path in here.results.rglob(FOUND)) == sorted(METHODS[name].searches)
    assert outcome.training.epochs == (here.config.epochs if trains else 0)
    assert (outcome.search.seconds > 0) == searches
    assert (outcome.training.seconds > 0) == trains
    assert outcome.evaluation_seconds > 0
    for cost, used in ((outcome.search, searches), (outcome.training, trains)):
        assert (cost.peak_memory_mb is not None) == used
    assert not outcome.resumed


@pytest.mark.parametrize(
    "name", ["random_search", "local_search_run", "local_multi", "one_shot_to_local_single", "global_"]
)
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
    names = ["local_search_run", "local_single", "local_multi"]
    assert all(METHODS[name].searches == ("local_search",) for name in names)
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


@pytest.mark.parametrize(
    "name",
    [
        "baseline",
        "local_single",
        "local_single_annealed",
        "local_single_held_out",
        "random_search",
        "kernel_enlargement",
        "learnable_spacings",
        "one_shot_ranked",
        "one_shot_to_local_single",
        "global_",
    ],
)
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


def test_a_search_goes_on_from_the_structure_that_another_one_found(job: Callable[..., Job]) -> None:
    refined = run(job("one_shot_to_local_single"))
    coarse = run(job("one_shot"))
    assert refined.search.epochs == 2 * coarse.search.epochs
    start = next(entry for entry in refined.history if entry["step"] == 0)
    assert start["structure"] == lists(coarse.structure) == coarse.history[-1]["structure"]
    assert len(list(job().results.rglob(FOUND))) == 2


def test_the_one_shot_search_finds_the_planted_reach(job: Callable[..., Job], toy: ModuleType) -> None:
    # The label depends on samples 6 to both sides: layers of 2 + 4 reach them, as do 4 + 2; the widest see too far.
    outcome = run(job("one_shot", config=toy.Config(epochs=20)))
    assert 4 <= sum(d for (d,) in outcome.structure.values()) <= 12
    assert outcome.metrics["accuracy"] > 85
    probability = outcome.history[-1]["probability"]
    assert all(len(share) == 5 and sum(share) == pytest.approx(1, abs=1e-3) for share in probability.values())


def test_one_shot_ranked_takes_over_the_search_and_the_best_of_its_readouts(
    job: Callable[..., Job], toy: ModuleType
) -> None:
    config = toy.Config(epochs=10)
    coarse = run(job("one_shot", config=config))
    outcome = run(job("one_shot_ranked", config=config))
    assert len(list(job().results.rglob(FOUND))) == 1
    # One training to search, five candidates that share another, one to train: three in all.
    assert (outcome.search.epochs, outcome.training.epochs) == (20, 10)
    ranked = outcome.history[len(coarse.history) :]
    assert outcome.history[: len(coarse.history)] == coarse.history
    structures = [entry["structure"] for entry in ranked]
    assert len(structures) == 5
    assert all(structures.count(one) == 1 for one in structures)
    assert structures[0] == lists(coarse.structure)
    share = coarse.history[-1]["probability"]
    assert {name: [2 ** max(range(5), key=p.__getitem__)] for name, p in share.items()} in structures[:2]
    assert all(d in (1, 2, 4, 8, 16) for one in structures[1:] for (d,) in one.values())
    best = max(ranked, key=lambda entry: entry["validation"]["accuracy"])
    assert lists(outcome.structure) == best["structure"]


def test_learnable_spacings_choose_their_rate_on_validation(job: Callable[..., Job], toy: ModuleType) -> None:
    outcome = run(job("learnable_spacings", config=toy.Config(epochs=9)))
    assert (outcome.search.epochs, outcome.training.epochs) == (9, 9)
    designed, *tried, found = outcome.history
    assert designed == {"step": 0, "structure": {"0": [2], "2": [4]}}
    assert [entry["factor"] for entry in tried] == [1, 10, 100]
    best = max(tried, key=lambda entry: entry["validation"]["accuracy"])
    assert outcome.model[0].parametrizations.P[0].factor == best["factor"]  # type: ignore[index, union-attr]
    assert found["structure"] == spacings(outcome.model)
    assert (outcome.model[0].P.abs() - 2).abs().mean() > 0.05  # type: ignore[index, union-attr, operator]


def test_variants_of_a_search_are_searches_of_their_own(job: Callable[..., Job]) -> None:
    outcomes = {}
    for name in (
        "local_single",
        "local_single_annealed",
        "local_single_branches5",
        "local_single_held_out",
        "one_shot",
        "one_shot_held_out",
    ):
        outcomes[name] = run(job(name))
        (search,) = METHODS[name].searches
        assert (job().cell.work(job().results).parents[1] / "searches" / search).is_dir()
    assert len(list(job().results.rglob(FOUND))) == len(outcomes)
    branches = {
        name: [len(entry["branches"]["2"]) for entry in outcome.history if "branches" in entry]
        for name, outcome in outcomes.items()
    }
    assert branches["local_single"] == branches["local_single_annealed"] == [3, 3, 3]
    assert branches["local_single_branches5"] == [5, 5, 5]
    for name in ("local_single", "one_shot"):
        assert outcomes[name].history != outcomes[f"{name}_held_out"].history


def test_the_annealed_search_ends_at_a_third_of_the_spread(job: Callable[..., Job]) -> None:
    here = job("local_single_annealed")
    start = here.config.search
    for found, spread in ((local_search(here, shrink=0.33), 0.33 * start.spread), (local_search(here), start.spread)):
        for conv in convs(searched_network(here, found)):
            assert isinstance(conv, SearchConv)
            around = {"spread": spread, "branches": start.branches, "bounds": start.bounds, "rule": start.rule}
            assert list(conv.dilations) == neighbours(conv.dilation, (3,), **around)  # type: ignore[arg-type]


def test_a_task_that_knows_no_held_out_batches_says_so(job: Callable[..., Job]) -> None:
    here = job("one_shot_held_out")
    plain = dataclasses.replace(here, task=dataclasses.replace(here.task, probability_batches=("train",)))
    with pytest.raises(ValueError, match="task toy cannot train probabilities on batches 'held_out', only on: train"):
        run(plain)


def test_the_genetic_search_keeps_to_its_budget_and_trains_nothing_twice(
    job: Callable[..., Job], toy: ModuleType
) -> None:
    here = job("global_", config=toy.Config(epochs=8))
    outcome = run(here)
    rungs, budget = GENETIC["rungs"], GENETIC["budget"]
    assert outcome.search.epochs <= budget * 8
    folder = next(here.results.rglob(FOUND)).parent
    first, last = (round(share * 8) for share in rungs)
    short, long = ({p.name.rsplit("-", 1)[0] for p in folder.glob(f"candidate-*-{n}.json")} for n in (first, last))
    assert long < short
    assert outcome.search.epochs == first * len(short) + (last - first) * len(long)
    fitness = [json.loads(path.read_text())["fitness"] for path in folder.glob("candidate-*-*.json")]
    assert outcome.history[-1]["fitness"] == max(fitness)


def test_an_interrupted_genetic_search_loses_no_evaluation(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = job("global_")
    straight = genetic_search(dataclasses.replace(here, results=tmp_path / "straight"), **GENETIC)
    trained: list[Path] = []

    def stopping(job: Job, model: nn.Module, folder: Path, **arguments: Any) -> Any:
        if len(trained) == 7:
            trained.append(folder)
            raise KeyboardInterrupt
        trained.append(folder)
        return fit(job, model, folder, **arguments)

    monkeypatch.setattr("benchmarks.evaluations.fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        genetic_search(here, **GENETIC)
    found = genetic_search(here, **GENETIC)
    assert found.structure == straight.structure
    assert found.history == straight.history
    assert found.cost.epochs == straight.cost.epochs
    assert found.resumed
    # Of the first eight, the one that was interrupted is begun again and no other.
    assert trained.count(trained[7]) >= 2
    assert len(set(trained[:7])) == 7


@pytest.mark.parametrize(
    ("value", "higher", "fitness"),
    [(50.0, True, 50.0), (-1.0, True, 0.0), (0.0, False, 100.0), (3.0, False, 25.0), (float("nan"), False, None)],
)
def test_fitness_is_what_evolution_takes(value: float, higher: bool, fitness: float | None) -> None:
    assert as_fitness(value, Metric("x", higher_is_better=higher)) == fitness


def test_the_design_is_capped_by_wrapping_its_exponents(toy: ModuleType) -> None:
    growing = nn.Sequential(*(nn.Conv1d(1, 1, 3, padding=2**i, dilation=2**i) for i in range(6)))
    capped = capped_design(growing, toy.TASK, 8)
    assert [d for (d,) in capped.values()] == [1, 2, 4, 8, 1, 2]
    flat = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, (1, 3), padding=(0, 1)))
    assert dict(capped_design(flat, toy.TASK, 4)) == {"0": (4, 4), "1": (1, 4)}


def test_candidates_end_at_the_longest_input_and_at_the_bounds(job: Callable[..., Job]) -> None:
    here = job()
    assert candidates(here) == (1, 2, 4, 8, 16)
    short = dataclasses.replace(here.task, longest_input=lambda config: 9)
    assert candidates(dataclasses.replace(here, task=short)) == (1, 2, 4, 8)
