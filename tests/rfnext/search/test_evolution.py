"""The global search: every draw has the stated odds; nothing is evaluated twice, lost or reported untried."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from torch import nn

from rfnext import Structure
from rfnext.search.evolution import Evolution, EvolutionConfig, Scored, random_structure, roulette

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


@pytest.mark.defect(4)
def test_roulette_draws_in_proportion_to_fitness():
    fitness = [10.0, 0.0, 60.0, 30.0]
    drawn = roulette(fitness, 20_000, np.random.default_rng(0))
    assert within_sampling_error(drawn, {i: f / 100 for i, f in enumerate(fitness)})
    assert set(drawn) == {0, 2, 3}  # the last index is drawn, an individual without fitness is not


def test_roulette_without_any_fitness_is_fair():
    drawn = roulette([0.0, 0.0, 0.0], 6_000, np.random.default_rng(0))
    assert within_sampling_error(drawn, {0: 1 / 3, 1: 1 / 3, 2: 1 / 3})


@pytest.mark.defect(6)
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


@pytest.mark.defect(5)
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


@pytest.mark.defect(7)
def test_those_far_below_the_best_are_replaced_by_random_ones():
    search = evolution(EvolutionConfig(population=4, generations=1))
    structures = search.ask()
    search.tell([Scored(s, f) for s, f in zip(structures, [39.9, 50.0, 40.0, 10.0], strict=True)])
    bred = search.ask()
    assert [result.fitness for result in search.population] == [50.0, 40.0]
    genes = {gene for i in (1, 2) for gene in enumerate(values(structures[i]))}
    refills = [s for s in bred if sum(gene in genes for gene in enumerate(values(s))) < 4]
    assert len(refills) == 2
    assert {result.structure for result in search.scored} == set(structures)  # what is not evaluated is no result


@pytest.mark.defect(9)
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
@pytest.mark.defect(9)
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
        (damaged("version", 4), "version 4"),
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


@pytest.mark.parametrize("seed", range(10))
def test_survivors_are_in_order_and_stay_when_more_generations_follow(seed: int):
    def small(generations: int, seed: int) -> Evolution:
        return evolution(EvolutionConfig(4, generations, candidates=(1, 2, 4), drop_below=100), seed=seed)

    short, long, more = small(4, seed), small(8, seed), small(8, 99)
    asked = run(short)
    population = short.population
    assert short.ask() == []
    assert short.population == population
    more.load_state_dict(short.state_dict())
    assert run(long) == asked + run(more)
    assert more.population == long.population
    fitness = [result.fitness or 0 for result in long.population]
    assert fitness == sorted(fitness, reverse=True)


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
