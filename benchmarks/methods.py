"""The rows of every table: each method is a recipe that trains networks and scores one of them.

A recipe reads from top to bottom: it takes what a search of `benchmarks.searches` found, trains by `fit` and ends in
`score`, both of `benchmarks.training`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn

from benchmarks.record import computing_device
from benchmarks.replacements import enlarge_kernels, learn_spacings, spacings
from benchmarks.searches import (
    candidates,
    capped_design,
    draw_and_rank,
    genetic_search,
    local_search,
    one_shot_search,
    rank,
    sample_and_rank,
    searched_network,
    train_and_rank,
)
from benchmarks.training import Found, Job, Outcome, as_lists, build, fit, score
from rfnext import Structure, keep_branches, merge, powers_of_two


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    settings: keyword arguments of `run`; they belong to the protocol.
    searches: names of the searches that it starts from, each going on from the one before. Those of one (task, preset,
        fold, seed) are done once for all methods.
    ranks: ranks candidates of its own by short trainings; after searches, for the epochs of one training in all.
    standard: run by the suite unless it is told which methods to run.
    """

    name: str
    description: str
    run: Callable[..., Outcome]
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    searches: tuple[str, ...] = ()
    ranks: bool = False
    standard: bool = True


def baseline(job: Job) -> Outcome:
    """The network as designed by hand."""
    model = build(job)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, trained=trained)


def random_search(job: Job, candidates: int) -> Outcome:
    """Search at random at the budget of the local search, then train the best structure anew."""
    return retrain_single(job, draw_and_rank(job, candidates))


def tuned_design(job: Job, trainings: int) -> Outcome:
    """The hand design, its largest dilation chosen on validation, at the budget of the dearest searches."""
    model = build(job)
    largest = max(max(dilation) for dilation in Structure.read(model, job.task.where).values())
    limits = powers_of_two(largest + 1)[1:] if largest > 1 else candidates(job)
    limits = limits if len(limits) < 6 else limits[::2]  # few enough to be trained for long enough
    designs = [capped_design(model, job.task, limit) for limit in limits]
    return retrain_single(job, train_and_rank(job, designs, job.config.epochs * trainings))


def multi_dilation(job: Job) -> Outcome:
    """No search: branches around the hand-designed dilations, their probabilities trained.

    What `local_multi` adds to this is due to the search, the rest to having more branches.
    """
    model = build(job)
    keep_branches(model, Structure.read(model, job.task.where), job.config.search)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, trained=trained)


def kernel_enlargement(job: Job, groups: int) -> Outcome:
    """No search: the hand-designed field at more taps, by larger kernels of grouped channels, for no more parameters.

    Is it the dilation that a search finds, or that the hand design samples its field sparsely?
    """
    model = build(job)
    enlarge_kernels(model, job.task.where, groups)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, trained=trained)


def learnable_spacings(job: Job, reach: int, factors: Sequence[float], trainings: int) -> Outcome:
    """A peer, DCLS: every tap learns its position; how fast is chosen on validation, at the budget of a search.

    The positions' learning rate is the task's times a factor. Positions lie at most `reach` from the centre, or the
    task's largest candidate dilation where that is less: what a hand design has farther out starts at that distance.
    """
    network = partial(spaced, reach=min(reach, candidates(job)[-1]))
    designed = Structure.read(build(job), job.task.where)
    tried, cost = rank(job, network, factors, job.config.epochs * trainings)
    best = max(tried, key=lambda one: one.value)
    model = network(job, factors[tried.index(best)])
    trained = fit(job, model, job.folder("train"))
    history: list[dict[str, Any]] = [{"step": 0, "structure": as_lists(designed)}]
    for factor, one in zip(factors, tried, strict=True):
        found = as_lists(designed) | one.spacings
        history.append({"step": len(history), "factor": factor, "structure": found, "validation": one.validation})
    found = Found(best.trained.folder, cost, any(one.trained.resumed for one in tried), designed, history)
    outcome = score(job, model, found=found, trained=trained)
    history.append({"step": len(history), "structure": as_lists(designed) | spacings(outcome.model)})
    return outcome


def spaced(job: Job, factor: float, *, reach: int) -> nn.Module:
    """The job's network with taps that learn their positions."""
    model = build(job)
    learn_spacings(model, job.task.where, reach=reach, factor=factor)
    return model


def local_search_run(job: Job) -> Outcome:
    """The network of the search itself, with the branches it ended on and no further training.

    The published "multi" rows of COCO were measured this way.
    """
    found = local_search(job)
    return score(job, searched_network(job, found).to(computing_device(job.device)), found=found)


def local_merge(job: Job) -> Outcome:
    """The network of the search, each conv's branches folded into one larger kernel, then fine-tuned."""
    found = local_search(job)
    model = searched_network(job, found)
    merge(model)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


def local_single(job: Job, **settings: Any) -> Outcome:
    """Search, then train the found structure anew as a plain network: one dilation per conv."""
    return retrain_single(job, local_search(job, **settings))


def local_multi(job: Job) -> Outcome:
    """Search, then train anew with branches kept around each found dilation, their probabilities trained."""
    return retrain_multi(job, local_search(job))


def one_shot(job: Job, **settings: Any) -> Outcome:
    """One training with all candidate dilations in every conv; what it means, trained anew as plain convs."""
    return retrain_single(job, one_shot_search(job, **settings))


def one_shot_ranked(job: Job, candidates: int, **settings: Any) -> Outcome:
    """One-shot search, its readouts and some structures drawn from it ranked by short trainings: three trainings."""
    return retrain_single(job, sample_and_rank(job, candidates, **settings))


def one_shot_to_local_single(job: Job, **settings: Any) -> Outcome:
    """One-shot search, local search from its structure, then trained anew as plain convs: three trainings."""
    return retrain_single(job, local_search(job, start=one_shot_search(job, **settings)))


def one_shot_to_local_multi(job: Job, **settings: Any) -> Outcome:
    """One-shot search, local search from its structure, then trained anew with branches kept: three trainings."""
    return retrain_multi(job, local_search(job, start=one_shot_search(job, **settings)))


def global_(job: Job, **settings: Any) -> Outcome:
    """Genetic search with successive halving; its best structure (with a cost among the settings: the cheapest one that
    is about as good) trained anew as plain convs."""
    return retrain_single(job, genetic_search(job, **settings))


def global_to_local_single(job: Job, **settings: Any) -> Outcome:
    """Genetic search, local search from its best structure, then trained anew as plain convs (Global2Local)."""
    return retrain_single(job, local_search(job, start=genetic_search(job, **settings)))


def global_to_local_multi(job: Job, **settings: Any) -> Outcome:
    """Genetic search, local search from its best structure, then trained anew with branches kept."""
    return retrain_multi(job, local_search(job, start=genetic_search(job, **settings)))


def retrain_single(job: Job, found: Found) -> Outcome:
    """Train what was found anew, one dilation per conv, and score it."""
    model = build(job)
    found.structure.apply(model)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


def retrain_multi(job: Job, found: Found) -> Outcome:
    """Train what was found anew with branches around each dilation, and score it."""
    model = build(job)
    keep_branches(model, found.structure, job.config.search)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


ONE_SHOT = MappingProxyType({"readout": "log2", "learning_rate": 0.1, "sharpen": 1.0, "warmup": 0.0})
"""Settings of the one-shot search, see `OneShotConfig`; warmup is a share of the training."""

GENETIC = MappingProxyType({"population": 8, "generations": 40, "rungs": (0.125, 0.375), "promoted": 0.25, "budget": 6})
"""Settings of the genetic search: rungs and budget in trainings (shares of `config.epochs`)."""

GENETIC_SHORTENED = MappingProxyType({**GENETIC, "shorten": 2})
"""Settings of the genetic search with early candidates on input half as long."""

GENETIC_PARETO = MappingProxyType({**GENETIC, "cost": "latency", "tolerance": 1.0})
"""Settings of the genetic search for fitness and latency: `tolerance` is what the fastest may be less fit, in units of
the fitness (`benchmarks.evaluations.as_fitness`)."""


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("baseline", "hand-designed dilations", baseline),
        Method(
            "tuned_design",
            "hand design, its largest dilation chosen on validation, at the budget of one_shot_to_local_single",
            tuned_design,
            settings=MappingProxyType({"trainings": 2}),
            ranks=True,
        ),
        Method(
            "random_search",
            "best of random structures, ranked on validation, at the budget of one local search; retrained",
            random_search,
            settings=MappingProxyType({"candidates": 5}),
            ranks=True,
            standard=False,
        ),
        Method(
            "multi_dilation",
            "no search: branches around the hand-designed dilations",
            multi_dilation,
            standard=False,
        ),
        Method(
            "kernel_enlargement",
            "no search: the hand-designed field at more taps, larger kernels of grouped channels at equal parameters",
            kernel_enlargement,
            settings=MappingProxyType({"groups": 4}),
            standard=False,
        ),
        Method(
            "learnable_spacings",
            "DCLS: taps learn their positions, up to 16 from the centre (larger hand-designed dilations start at 16); "
            "the positions' learning rate chosen on validation, at the budget of a search",
            learnable_spacings,
            settings=MappingProxyType({"reach": 16, "factors": (1, 10, 100), "trainings": 1}),
            ranks=True,
            standard=False,
        ),
        Method(
            "local_search_run",
            "the local search's own network, branches as they are, not retrained",
            local_search_run,
            searches=("local_search",),
        ),
        Method("local_single", "local search, retrained as plain convs", local_single, searches=("local_search",)),
        Method(
            "local_single_held_out",
            "local search, probabilities trained on held-out batches as DARTS does, retrained as plain convs",
            local_single,
            settings=MappingProxyType({"probability_batches": "held_out"}),
            searches=("local_search_held_out",),
            standard=False,
        ),
        Method(
            "local_single_annealed",
            "local search whose spread shrinks to a third, retrained as plain convs",
            local_single,
            settings=MappingProxyType({"shrink": 0.33}),
            searches=("local_search_shrink0.33",),
            standard=False,
        ),
        Method(
            "local_single_branches5",
            "local search over five branches, retrained as plain convs",
            local_single,
            settings=MappingProxyType({"branches": 5}),
            searches=("local_search_branches5",),
            standard=False,
        ),
        Method(
            "local_multi", "local search, retrained with its branches kept", local_multi, searches=("local_search",)
        ),
        Method(
            "local_merge",
            "the local search's own network, branches folded into larger kernels, fine-tuned",
            local_merge,
            searches=("local_search",),
            standard=False,
        ),
        Method(
            "one_shot",
            "one-shot search over all powers of two, retrained as plain convs",
            one_shot,
            settings=ONE_SHOT,
            searches=("one_shot",),
        ),
        Method(
            "one_shot_held_out",
            "one-shot search, probabilities trained on held-out batches as DARTS does, retrained as plain convs",
            one_shot,
            settings=MappingProxyType({**ONE_SHOT, "probability_batches": "held_out"}),
            searches=("one_shot_held_out",),
            standard=False,
        ),
        Method(
            "one_shot_ranked",
            "one-shot search, its readouts and samples ranked by short trainings on validation, the best retrained",
            one_shot_ranked,
            settings=MappingProxyType({**ONE_SHOT, "candidates": 5}),
            searches=("one_shot",),
            ranks=True,
            standard=False,
        ),
        Method(
            "one_shot_to_local_single",
            "one-shot search, then local search, retrained as plain convs",
            one_shot_to_local_single,
            settings=ONE_SHOT,
            searches=("one_shot", "one_shot_to_local"),
        ),
        Method(
            "one_shot_to_local_multi",
            "one-shot search, then local search, retrained with its branches kept",
            one_shot_to_local_multi,
            settings=ONE_SHOT,
            searches=("one_shot", "one_shot_to_local"),
            standard=False,
        ),
        Method(
            "global_",
            "genetic search with successive halving, retrained as plain convs",
            global_,
            settings=GENETIC,
            searches=("genetic",),
            standard=False,
        ),
        Method(
            "global_shortened",
            "genetic search, its early candidates trained on input half as long, retrained as plain convs",
            global_,
            settings=GENETIC_SHORTENED,
            searches=("genetic_shortened",),
            standard=False,
        ),
        Method(
            "global_pareto",
            "genetic search for fitness and latency, the fastest structure at most 1 (unit of fitness) below the best "
            "retrained",
            global_,
            settings=GENETIC_PARETO,
            searches=("genetic_pareto",),
            standard=False,
        ),
        Method(
            "global_to_local_single",
            "genetic search, then local search, retrained as plain convs",
            global_to_local_single,
            settings=GENETIC,
            searches=("genetic", "genetic_to_local"),
            standard=False,
        ),
        Method(
            "global_to_local_multi",
            "genetic search, then local search, retrained with its branches kept",
            global_to_local_multi,
            settings=GENETIC,
            searches=("genetic", "genetic_to_local"),
            standard=False,
        ),
    )
}
"""All methods by name, in the order of the tables' rows."""
