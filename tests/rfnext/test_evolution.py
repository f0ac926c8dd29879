"""The global search: every draw has the stated odds; nothing is evaluated twice, lost or reported untried."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rfnext import Bounds, LocalConfig, Structure, keep_branches, merge
from rfnext.pareto import crowding_distance, non_dominated, non_dominated_fronts
from rfnext.receptive_field import multiply_adds, theoretical_receptive_field
from rfnext.search.evolution import Evolution, EvolutionConfig, Scored, random_structure, roulette, tournament

TEMPLATE = Structure({f"layer{i}": (1,) for i in range(8)})
TARGET = Structure({f"layer{i}": (2**i,) for i in range(8)})
SMALL = EvolutionConfig(population=6, generations=3)


def closeness(structure: Structure) -> float:
    """100 points for TARGET, fewer for every octave away from it: a fitness that a search can climb."""
    return 100 - sum(abs(np.log2(structure[name][0]) - np.log2(TARGET[name][0])) for name in TARGET)


def evolution(config: EvolutionConfig = SMALL, template: Structure = TEMPLATE, seed: int = 0) -> Evolution:
    return Evolution(template, config, np.random.default_rng(seed))


def score(structures: list[Structure], fitness: Callable[[Structure], float] = closeness) -> list[Scored]:
    return [Scored(structure, fitness(structure)) for structure in structures]


def run(search: Evolution, fitness: Callable[[Structure], float] = closeness) -> list[list[Structure]]:
    generations = []
    while structures := search.ask():
        generations.append(structures)
        search.tell(score(structures, fitness))
    return generations


def values(structure: Structure) -> list[int]:
    return [dilation[0] for dilation in structure.values()]


def within_sampling_error(drawn: list[int], shares: Mapping[int, float]) -> bool:
    """Whether each share was met within 5 standard deviations of a binomial draw."""
    n = len(drawn)
    return all(abs(drawn.count(v) - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1e-9 for v, p in shares.items())


def test_integers_of_a_template_stay_integers_and_fit_any_number_of_axes():
    search = evolution(template=Structure({"0": 1, "1": (1, 1)}))
    run(search, lambda structure: 1.0)
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3))
    (drawn,) = search.best.structure["0"]
    search.best.structure.apply(model)
    assert Structure.read(model)["0"] == (drawn, drawn)


def test_published_settings():
    config = EvolutionConfig.published()
    assert (config.population, config.generations) == (50, 100)
    assert config.candidates == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert (config.mutation, config.gene_mutation, config.drop_below) == (0.2, 0.2, 10.0)


def test_roulette_draws_in_proportion_to_fitness():
    fitness = [10.0, 0.0, 60.0, 30.0]
    drawn = roulette(fitness, 20_000, np.random.default_rng(0))
    assert within_sampling_error(drawn, {i: f / 100 for i, f in enumerate(fitness)})
    assert set(drawn) == {0, 2, 3}  # the last index is drawn, an individual without fitness is not


def test_roulette_without_any_fitness_is_fair():
    drawn = roulette([0.0, 0.0, 0.0], 6_000, np.random.default_rng(0))
    assert within_sampling_error(drawn, {0: 1 / 3, 1: 1 / 3, 2: 1 / 3})


def test_genes_are_uniform_over_the_candidates():
    """The published code draws up to 1024 and rounds to a power of two: 37.5 % are 512, 0.1 % are 1."""
    rng = np.random.default_rng(0)
    candidates = EvolutionConfig.published().candidates
    genes = [gene for _ in range(2_000) for gene in values(random_structure(TEMPLATE, candidates, rng))]
    assert within_sampling_error(genes, dict.fromkeys(candidates, 1 / 11))


def test_random_structure_keeps_layers_and_axes():
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Conv1d(3, 2, 5))
    structure = random_structure(Structure.read(model), (4, 8), np.random.default_rng(0))
    structure.apply(model)
    assert Structure.read(model) == structure
    template = Structure({"a": (1,), "b": (3, 1), "c": (1, 1, 1)})
    structure = random_structure(template, (4, 8), np.random.default_rng(0))
    assert [(name, len(d), len(set(d))) for name, d in structure.items()] == [
        ("a", 1, 1),
        ("b", 2, 1),
        ("c", 3, 1),
    ]


def bred_from(config: EvolutionConfig, parents: list[int], layers: int) -> list[list[int]]:
    """What the generation after one of constant genomes asks for, e.g. 1 1 1 ... and 2 2 2 ... for [1, 2]."""
    search = evolution(config, Structure({f"layer{i}": (1,) for i in range(layers)}))
    genomes = [[d] * layers for d in parents]
    fitness = [[genome, 50.0] for genome in genomes]
    search.load_state_dict(search.state_dict() | {"fitness": fitness, "survivors": genomes, "bred": []})
    return [values(structure) for structure in search.ask()]


def test_every_pair_is_crossed():
    config = EvolutionConfig(population=50, generations=1, candidates=tuple(range(1, 51)), mutation=0.0)
    parents = list(config.candidates)
    # Breeding begins with the roulette; an equal generator in the same state tells which pairs it drew.
    rng = evolution(config, Structure({f"layer{i}": (1,) for i in range(200)})).rng
    drawn = [parents[i] for i in roulette([50.0] * 50, 50, rng)]
    pairs = [{first, second} for first, second in zip(drawn[::2], drawn[1::2], strict=True) if first != second]
    children = [set(child) for child in bred_from(config, parents, 200)]
    assert children[::2] == pairs
    assert children[1::2] == pairs


def test_crossover_swaps_between_two_points_both_included():
    config = EvolutionConfig(population=1_000, generations=1, mutation=0.0)
    children = {tuple(genes) for genes in bred_from(config, [1, 2], 8) if set(genes) == {1, 2}}
    cuts = [(first, last) for first in range(8) for last in range(first, 8) if (first, last) != (0, 7)]
    swapped = {tuple(2 if first <= i <= last else 1 for i in range(8)) for first, last in cuts}
    assert children == swapped | {tuple(3 - gene for gene in child) for child in swapped}


def test_a_fifth_of_the_children_gets_a_mutated_copy():
    config = EvolutionConfig(population=500, generations=1, candidates=tuple(range(1, 501)))
    parents = list(config.candidates)
    without = bred_from(EvolutionConfig(500, 1, config.candidates, mutation=0.0), parents, 40)
    bred = bred_from(config, parents, 40)
    assert bred[: len(without)] == without
    assert abs(len(bred) - len(without) - 100) <= 5 * np.sqrt(500 * 0.2 * 0.8)


def test_a_fifth_of_the_genes_of_a_mutated_copy_is_drawn_anew():
    config = EvolutionConfig(population=2, generations=1, mutation=1.0)
    *_, first, second = bred_from(config, [1, 2], 10_000)
    others = config.candidates[2:]
    assert within_sampling_error(first + second, dict.fromkeys(others, 0.2 / 11))


def test_those_far_below_the_best_make_room_for_random_ones():
    search = evolution(EvolutionConfig(population=4, generations=1))
    structures = search.ask()
    search.tell([Scored(s, f) for s, f in zip(structures, [39.9, 50.0, 40.0, 10.0], strict=True)])
    bred = search.ask()
    assert [result.fitness for result in search.population] == [50.0, 40.0]
    genes = {gene for i in (1, 2) for gene in enumerate(values(structures[i]))}
    refills = [s for s in bred if sum(gene in genes for gene in enumerate(values(s))) < 4]
    assert len(refills) == 2
    assert {result.structure for result in search.scored} == set(structures)  # what is not evaluated is no result


def test_nothing_is_evaluated_twice():
    asked = [s for generation in run(evolution(EvolutionConfig(20, 20))) for s in generation]
    assert len(set(asked)) == len(asked) > 200


def test_a_small_space_is_exhausted_and_the_search_ends():
    template = Structure({"a": (1,), "b": (1, 1)})
    search = evolution(EvolutionConfig(4, 50, candidates=(1, 2)), template)
    asked = [s for generation in run(search, lambda s: s["a"][0]) for s in generation]
    assert len(asked) == len(set(asked)) == 4
    assert search.generation == 50
    assert search.ask() == []


def test_it_climbs_better_than_random_search():
    wins = 0
    for seed in range(10):
        search = evolution(EvolutionConfig(20, 20, drop_below=100.0), seed=seed)
        run(search)
        rng = np.random.default_rng(seed)
        drawn = [random_structure(TEMPLATE, search.config.candidates, rng) for _ in search.scored]
        assert search.best == max(search.scored, key=lambda result: result.fitness or 0)
        wins += (search.best.fitness or 0) > max(map(closeness, drawn))
    assert wins == 10


def test_published_settings_cost_what_is_reported():
    """METHOD: about 33,000 epochs at 5 per evaluation, repeated evaluations included; ours are cached."""
    asked = run(evolution(EvolutionConfig.published(), Structure({f"l{i}": (1,) for i in range(40)})), lambda s: 60.0)
    assert len(asked) == 101
    assert 5_000 < sum(map(len, asked)) < 6_600


@pytest.mark.parametrize("told", [0, 1, 3, None], ids=["asked", "one told", "some told", "all told"])
@pytest.mark.parametrize("bit_generator", [np.random.PCG64, np.random.MT19937])
def test_a_saved_state_resumes_exactly(told: int | None, bit_generator: type[np.random.BitGenerator]):
    config = EvolutionConfig(8, 6)
    uninterrupted = Evolution(TEMPLATE, config, np.random.Generator(bit_generator(3)))
    expected = run(uninterrupted)

    first = Evolution(TEMPLATE, config, np.random.Generator(bit_generator(3)))
    for _ in range(2):
        first.tell(score(first.ask()))
    first.tell(score(first.ask()[:told]))
    state = json.loads(json.dumps(first.state_dict()))
    del first

    second = Evolution(TEMPLATE, config, np.random.Generator(bit_generator(99)))
    second.load_state_dict(state)
    rest = run(second)
    assert rest == ([] if told is None else [expected[2][told:]]) + expected[3:]
    assert second.scored == uninterrupted.scored
    assert second.population == uninterrupted.population
    assert json.dumps(second.state_dict()) == json.dumps(uninterrupted.state_dict())


def test_a_finished_search_can_be_given_more_generations():
    short, long = evolution(EvolutionConfig(6, 2)), evolution(EvolutionConfig(6, 4))
    expected = run(long)
    asked = run(short)
    more = evolution(EvolutionConfig(6, 4), seed=5)
    more.load_state_dict(short.state_dict())
    assert asked + run(more) == expected


def test_failed_evaluations_are_left_out():
    search = evolution()
    structures = search.ask()
    search.tell([Scored(s, None if i < 4 else closeness(s)) for i, s in enumerate(structures)])
    again = search.ask()
    assert {result.structure for result in search.population} == set(structures[4:])
    assert not set(again) & set(structures)
    assert [result.fitness for result in search.scored[:4]] == [None] * 4


def test_all_evaluations_failing_is_an_error_and_loses_nothing():
    search = evolution()
    search.tell(score(search.ask()))
    structures = search.ask()
    best = search.best
    search.tell([Scored(s, None) for s in structures])
    with pytest.raises(RuntimeError, match=f"all {len(structures)} evaluations of generation 1 failed"):
        search.ask()
    assert search.best == best
    assert search.ask() == structures
    assert len(run(search)) == 3


@pytest.mark.parametrize("fitness", [float("nan"), float("inf"), -1.0])
def test_a_fitness_that_is_no_share_is_refused_and_the_others_kept(fitness: float):
    search = evolution()
    first, second, *rest = search.ask()
    with pytest.raises(ValueError, match=f"fitness {fitness} of Structure.*not a finite number >= 0"):
        search.tell([Scored(first, 50.0), Scored(second, fitness), *score(rest)])
    assert search.ask() == [second]


def test_structures_that_are_not_awaited_are_refused():
    search = evolution()
    first, *rest = search.ask()
    with pytest.raises(ValueError, match="not asked for, or told before"):
        search.tell(score([first, first]))
    with pytest.raises(ValueError, match="not asked for"):
        search.tell([Scored(Structure({"other": (1,)}), 1.0)])
    assert search.ask() == rest


def test_best_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no structure has been evaluated"):
        _ = evolution().best


def test_a_template_without_entries_is_refused():
    empty = Structure.read(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="template has no entries"):
        evolution(template=empty)
    with pytest.raises(ValueError, match="template has no entries"):
        random_structure(empty, (1, 2), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": 0}, "population is 0"),
        ({"population": 1}, "population is 1"),
        ({"generations": -1}, "generations is -1"),
        ({"candidates": ()}, "candidates"),
        ({"candidates": (4,)}, "candidates"),
        ({"candidates": (1, 2, 2)}, "candidates"),
        ({"candidates": (0, 1)}, "candidates"),
        ({"candidates": (1, 2.5)}, "candidates"),
        ({"mutation": 1.5}, "mutation is 1.5"),
        ({"gene_mutation": float("nan")}, "gene_mutation is nan"),
        ({"drop_below": float("nan")}, "drop_below is nan"),
        ({"objectives": "speed"}, "objectives is .speed., not one of fitness, pareto"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        EvolutionConfig(**{"population": 4, "generations": 2, **change})


def damaged(path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def damage(state: dict[str, Any]) -> Any:
        *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
        inner: Any = state
        for key in parents:
            inner = inner[key]
        inner[last] = value
        return state

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: None, ""),
        (lambda state: [], ""),
        (lambda state: {}, "no entry 'version'"),
        (lambda state: {k: v for k, v in state.items() if k != "rng"}, "no entry 'rng'"),
        (damaged("version", 3), "version 3"),
        (damaged("generation", "two"), "generation 'two'"),
        (damaged("generation", 7), "generation 7 is not in 0 .. 3"),
        (damaged("fitness.0.1", float("nan")), "not a finite number"),
        (damaged("fitness.0.1", "high"), "must be real number"),
        (damaged("fitness", [[[1] * 8]]), "not enough values"),
        (damaged("survivors", []), "nothing survives"),
        (damaged("survivors", [[1] * 8]), "no entry"),
        (damaged("bred", [[1] * 7]), "7 genes for 8 layers"),
        (damaged("bred", [[3] * 8]), "not in tuple"),
        (damaged("rng", "x"), ""),
        (damaged("rng.bit_generator", "MT19937"), "PCG64"),
        (damaged("rng.state", {}), "no entry 'state'"),
        (damaged("config.population", 7), "population was 7, not 6"),
        (damaged("layers.layer3", 2), "another template; 1 layers differ, 'layer3' first"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage: Callable[[dict[str, Any]], Any], message: str):
    search = evolution()
    search.tell(score(search.ask()))
    search.tell(score(search.ask()[:2]))
    before = json.dumps(search.state_dict())
    with pytest.raises(ValueError, match=f"not a state of this search.*{message}"):
        search.load_state_dict(damage(json.loads(before)))
    assert json.dumps(search.state_dict()) == before


def test_the_state_of_another_template_is_refused():
    state = evolution().state_dict()
    longer = evolution(template=Structure({**TEMPLATE, "extra": (1,)}))
    with pytest.raises(ValueError, match="another template; 1 layers differ, 'extra' first"):
        longer.load_state_dict(state)
    reverse = evolution(template=Structure(dict.fromkeys(reversed(list(TEMPLATE)), (1,))))
    with pytest.raises(ValueError, match="another order"):
        reverse.load_state_dict(state)


PARETO = EvolutionConfig(population=6, generations=3, objectives="pareto")


def price(structure: Structure) -> float:
    return float(sum(values(structure)))


def priced(structures: list[Structure], fitness: Callable[[Structure], float] = closeness) -> list[Scored]:
    return [Scored(structure, fitness(structure), price(structure)) for structure in structures]


def run_priced(search: Evolution) -> list[list[Structure]]:
    generations = []
    while structures := search.ask():
        generations.append(structures)
        search.tell(priced(structures))
    return generations


def dominates(one: Scored, other: Scored) -> bool:
    assert None not in (one.fitness, one.cost, other.fitness, other.cost)
    no_worse = one.fitness >= other.fitness and one.cost <= other.cost  # type: ignore[operator]
    return no_worse and (one.fitness, one.cost) != (other.fitness, other.cost)


def test_without_the_switch_costs_change_nothing():
    plain, costly = evolution(EvolutionConfig(8, 6)), evolution(EvolutionConfig(8, 6))
    assert run(plain) == run_priced(costly)
    assert [result.structure for result in plain.population] == [result.structure for result in costly.population]
    assert plain.rng.bit_generator.state == costly.rng.bit_generator.state
    assert plain.front == []
    assert costly.front


@pytest.mark.parametrize("config", [SMALL, PARETO], ids=["fitness", "pareto"])
def test_the_front_holds_what_nothing_dominates_of_all_evaluations(config: EvolutionConfig):
    search = evolution(config, seed=1)
    structures = search.ask()
    told = [Scored(structures[0], None), *priced(structures[1:])]
    search.tell(told)
    run_priced(search)
    known = [result for result in search.scored if result.fitness is not None]
    expected = [one for one in known if not any(dominates(other, one) for other in known)]
    assert sorted(search.front, key=repr) == sorted(expected, key=repr)
    assert [result.cost for result in search.front] == sorted(price(result.structure) for result in expected)
    assert len(expected) > 1


def test_survivors_are_the_first_fronts_and_of_the_last_one_the_least_crowded():
    search = evolution(EvolutionConfig(4, 1, mutation=1.0, gene_mutation=1.0, drop_below=100, objectives="pareto"))
    structures = search.ask()
    search.tell([Scored(s, 50.0 + i, 10.0 + i) for i, s in enumerate(structures)])
    bred = search.ask()
    # The first front keeps its ends, 1 and 100, and the point between them with the widest gap around it.
    points = {0: (60.0, 1.0), 1: (61.0, 2.0), 2: (62.0, 3.0), 3: (80.0, 40.0), 4: (90.0, 100.0), 5: (40.0, 200.0)}
    assert len(bred) >= 5
    search.tell([Scored(s, *points.get(i, (1.0, 300.0))) for i, s in enumerate(bred)])
    assert search.ask() == []
    assert [(result.fitness, result.cost) for result in search.population] == [
        *((60.0, 1.0), (90.0, 100.0)),  # infinite distances first
        *((80.0, 40.0), (62.0, 3.0)),
    ]


def test_whoever_is_far_below_the_fittest_makes_room_however_cheap():
    search = evolution(EvolutionConfig(population=4, generations=1, objectives="pareto"))
    structures = search.ask()
    search.tell([Scored(s, f, c) for s, f, c in zip(structures, [39.9, 50, 40, 45], [1, 9, 5, 9.5], strict=True)])
    search.ask()
    assert [(result.fitness, result.cost) for result in search.population] == [(40, 5), (50, 9), (45, 9.5)]


def test_parents_win_a_tournament():
    ranks = [(0, -2.0), (1, -9.0), (0, -1.0), (0, -1.0)]
    drawn = tournament(ranks, 20_000, np.random.default_rng(0))
    # Of two draws out of 4, the best takes part in 7 of 16; the equal ones share what is left over the worst.
    assert within_sampling_error(drawn, {0: 7 / 16, 1: 1 / 16, 2: 4 / 16, 3: 4 / 16})


def test_a_known_front_is_found():
    """Fitness is the number of layers with dilation 2 or more, cost the sum of dilations: the front is 1s and 2s."""
    template = Structure({f"layer{i}": (1,) for i in range(6)})
    for seed in range(3):
        search = evolution(EvolutionConfig(16, 40, candidates=(1, 2, 4), objectives="pareto"), template, seed)
        while structures := search.ask():
            search.tell([Scored(s, float(sum(d > 1 for d in values(s))), price(s)) for s in structures])
        assert len(search.scored) < 3**6
        assert sorted({(r.fitness, r.cost) for r in search.front}) == [(float(n), 6.0 + n) for n in range(7)]


def test_a_cost_is_whatever_the_caller_measures():
    """The widest field at every number of multiply-adds of networks whose branches are merged into dense kernels.

    Those numbers depend on the dilations, as those of plain convs do not.
    """
    branches = LocalConfig(interval=1, rounds=1, spread=0.5, branches=3, bounds=Bounds(1, 16))
    x = torch.zeros(1, 1, 128)

    def network(structure: Structure, merged: bool) -> nn.Module:
        convs = [nn.Conv1d(*channels, 3, padding=1) for channels in ((1, 4), (4, 2), (2, 1))]
        model = nn.Sequential(*convs)
        structure.apply(model)
        if merged:
            keep_branches(model, structure, branches)
            merge(model)
        return model

    def measured(structure: Structure) -> Scored:
        model = network(structure, merged=True)
        ((first, last),) = theoretical_receptive_field(model, x)
        return Scored(structure, last - first + 1, multiply_adds(model, x))

    template = Structure({"0": (1,), "1": (1,), "2": (1,)})
    candidates = (1, 2, 4, 8)
    search = evolution(EvolutionConfig(12, 40, candidates, drop_below=100, objectives="pareto"), template)
    while structures := search.ask():
        search.tell(map(measured, structures))
    everything = [
        Structure({name: (d,) for name, d in zip(template, genes, strict=True)})
        for genes in itertools.product(candidates, repeat=len(template))
    ]
    points = [(result.fitness or 0.0, result.cost or 0.0) for result in map(measured, everything)]
    best = {points[index] for index in non_dominated(points)}
    assert len(best) > 3
    assert {(result.fitness, result.cost) for result in search.front} == best
    assert len(search.scored) < len(everything)
    assert len({multiply_adds(network(structure, merged=False), x) for structure in everything}) == 1


@pytest.mark.parametrize("told", [0, 3, None], ids=["asked", "some told", "all told"])
def test_a_search_with_costs_resumes_exactly(told: int | None):
    config = EvolutionConfig(8, 6, objectives="pareto")
    uninterrupted = evolution(config)
    expected = run_priced(uninterrupted)
    first = evolution(config)
    for _ in range(2):
        first.tell(priced(first.ask()))
    first.tell(priced(first.ask()[:told]))
    second = evolution(config, seed=9)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.scored == first.scored
    assert run_priced(second) == ([] if told is None else [expected[2][told:]]) + expected[3:]
    assert second.front == uninterrupted.front
    assert json.dumps(second.state_dict()) == json.dumps(uninterrupted.state_dict())

    more = evolution(EvolutionConfig(8, 8, objectives="pareto"), seed=5)
    more.load_state_dict(uninterrupted.state_dict())
    longer = evolution(EvolutionConfig(8, 8, objectives="pareto"))
    assert run_priced(longer) == expected + run_priced(more)


@pytest.mark.parametrize(
    ("cost", "message"),
    [(None, "no cost of Structure"), (float("nan"), "cost nan"), (float("inf"), "cost inf"), (-1.0, "cost -1.0")],
)
def test_a_missing_or_impossible_cost_is_refused_and_the_others_kept(cost: float | None, message: str):
    search = evolution(PARETO)
    first, second, *rest = search.ask()
    with pytest.raises(ValueError, match=message):
        search.tell([Scored(first, 50.0, 1.0), Scored(second, 50.0, cost), *priced(rest)])
    assert search.ask() == [second]
    search.tell([Scored(second, None)])  # a failed one needs none
    assert second not in [result.structure for result in search.front]


def version_1(state: dict[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in state["config"].items() if name != "objectives"}
    return {k: v for k, v in state.items() if k != "cost"} | {"version": 1, "config": config}


def test_a_state_from_before_costs_is_read_for_a_search_without():
    search, later = evolution(), evolution(seed=4)
    search.tell(score(search.ask()))
    search.ask()
    later.load_state_dict(json.loads(json.dumps(version_1(search.state_dict()))))
    assert run(later) == run(search)
    with pytest.raises(ValueError, match="another config; objectives was 'fitness', not 'pareto'"):
        evolution(PARETO).load_state_dict(version_1(evolution().state_dict()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged("cost", []), "costs and evaluations do not belong together"),
        (damaged("cost.0.0", [1] * 8), "costs and evaluations do not belong together"),
        (damaged("cost.0.1", -1.0), "a cost is not a finite number"),
        (damaged("cost.0.1", "high"), "must be real number"),
        (lambda state: {k: v for k, v in state.items() if k != "cost"}, "no entry 'cost'"),
        (damaged("config.objectives", "fitness"), "objectives was 'fitness', not 'pareto'"),
    ],
)
def test_damaged_costs_are_refused(damage: Callable[[dict[str, Any]], Any], message: str):
    search = evolution(PARETO)
    search.tell(priced(search.ask()))
    before = json.dumps(search.state_dict())
    with pytest.raises(ValueError, match=f"not a state of this search.*{message}"):
        search.load_state_dict(damage(json.loads(before)))
    assert json.dumps(search.state_dict()) == before


@pytest.mark.parametrize("seed", range(10))
def test_survivors_are_in_order_and_stay_when_more_generations_follow(seed: int):
    def small(generations: int, seed: int) -> Evolution:
        config = EvolutionConfig(4, generations, candidates=(1, 2, 4), drop_below=100, objectives="pareto")
        return evolution(config, seed=seed)

    short, long, more = small(4, seed), small(8, seed), small(8, 99)
    asked = run_priced(short)
    population = short.population
    assert short.ask() == []
    assert short.population == population
    more.load_state_dict(short.state_dict())
    assert run_priced(long) == asked + run_priced(more)
    assert more.front == long.front

    points = [(result.fitness or 0.0, result.cost or 0.0) for result in long.population]
    fronts = non_dominated_fronts(points)
    rank = {index: number for number, front in enumerate(fronts) for index in front}
    lonely: dict[int, float] = {}
    for front in fronts:
        lonely |= zip(front, crowding_distance([points[index] for index in front]), strict=True)
    assert sorted(rank, key=lambda i: (rank[i], -lonely[i])) == list(range(len(points)))


def test_costs_of_a_generation_that_failed_are_forgotten_with_it():
    search = evolution(PARETO)
    structures = search.ask()
    search.tell([Scored(s, None, 1.0) for s in structures])
    with pytest.raises(RuntimeError, match="all 6 evaluations"):
        search.ask()
    evolution(PARETO, seed=1).load_state_dict(search.state_dict())
    search.tell(priced(structures[:1]))
    assert search.front == priced(structures[:1])


@pytest.mark.parametrize("seed", [15, 404])
def test_a_finished_search_keeps_its_survivors_however_often_it_is_asked(seed: int):
    """In these searches, to select again from survivors and children, without who was dropped, ends otherwise."""

    def drawn(structure: Structure) -> Scored:
        rng = np.random.default_rng(values(structure))
        return Scored(structure, float(rng.integers(50, 60)), float(rng.integers(0, 10)))

    config = EvolutionConfig(4, 2, candidates=(1, 2, 4), drop_below=100, objectives="pareto")
    search = evolution(config, seed=seed)
    while structures := search.ask():
        search.tell(map(drawn, structures))
    population = search.population
    assert search.ask() == []
    assert search.population == population


def test_integers_in_the_template_mean_every_axis():
    """As in the older published files, which do not say how many axes a conv has."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
    template = Structure({"0": 2, "1": 3, "2": (1, 1)})
    search = evolution(template=template)
    structure = search.ask()[0]
    structure.apply(model)
    found = Structure.read(model)
    assert [len(set(dilation)) for dilation in found.values()] == [1, 1, 1]
    assert [dilation[0] for dilation in found.values()] == values(structure)
    search.tell([Scored(structure, 1.0)])
    assert search.best.structure == structure
    random_structure(template, (1, 2), np.random.default_rng(0)).apply(model)


def test_numpy_integers_are_integers():
    candidates = tuple(2 ** np.arange(3))
    config = EvolutionConfig(np.int64(6), np.int64(3), candidates)
    assert config == EvolutionConfig(6, 3, (1, 2, 4))
    json.dumps(evolution(config).state_dict())
    random_structure(TEMPLATE, candidates, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [{"population": 2.5}, {"generations": 1.5}, {"candidates": (1, 2.5)}])
def test_counts_are_integers(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EvolutionConfig(**{"population": 6, "generations": 3, **wrong})
