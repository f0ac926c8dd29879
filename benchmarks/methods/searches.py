"""The searches that take one or two trainings: local, one-shot, random, and the tuned hand design."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from benchmarks.cell import Cell
from benchmarks.methods.candidates import best_structure, powers, redesigned
from benchmarks.methods.method import Found
from benchmarks.methods.searching import Searching
from benchmarks.methods.training import Training, as_lists, build, fit, load_network, save_network
from rfnext import (
    LocalSearch,
    OneShotConfig,
    OneShotSearch,
    Round,
    Structure,
    Where,
    powers_of_two,
)


def local(job: Searching) -> Found:
    """The local search, from the hand design or from what was found before: one training."""
    cell, start = job.cell, job.start
    model = build(cell)
    if start is not None:
        start.structure.apply(model)
    search = LocalSearch(model, cell.config.search, cell.task.where)
    trained = fit(cell, model, Training(job.folder), search)
    structure = search.structure()
    history = [
        *(start.history if start else []),
        {"step": 0, "structure": as_lists(search.initial)},
        *map(_round, search.history),
        {"step": search.step, "structure": as_lists(structure)},
    ]
    save_network(model, job.folder)
    cost = trained.cost if start is None else start.cost + trained.cost
    resumed = trained.resumed or (start is not None and start.resumed)
    return Found(job.folder, cost, resumed, structure, history)


def searched_network(cell: Cell, found: Found) -> nn.Module:
    """The network of a local search as its last epoch left it, on the CPU."""
    model = build(cell)
    LocalSearch(model, cell.config.search, cell.task.where)
    load_network(model, found.folder)
    return model


def one_shot(job: Searching) -> Found:
    """The one-shot search: one training with all candidate dilations in every conv."""
    model = build(job.cell)
    search = OneShotSearch(model, _one_shot_config(job), job.cell.task.where)
    trained = fit(job.cell, model, Training(job.folder, settings=job.settings), search)
    structure = search.structure()
    history: list[dict[str, Any]] = [
        {"step": seen.step, "structure": as_lists(seen.structure)} for seen in search.history
    ]
    shares = {name: [round(p, 4) for p in share] for name, share in search.probability().items()}
    history.append({"step": search.step, "structure": as_lists(structure), "probability": shares})
    save_network(model, job.folder)
    return Found(job.folder, trained.cost, trained.resumed, structure, history)


def _one_shot_config(job: Searching) -> OneShotConfig:
    """Counted in epochs; the setting "warmup" is a share of them."""
    epochs, settings = job.cell.config.epochs, job.settings
    return OneShotConfig(
        candidates=powers(job.cell),
        readout=settings["readout"],
        learning_rate=settings["learning_rate"],
        sharpen=settings["sharpen"],
        warmup=round(settings["warmup"] * epochs),
        interval=max(1, epochs // 8),
    )


def one_shot_ranked(job: Searching) -> Found:
    """A one-shot search read out by ranking: its structure by either readout, and structures drawn from it.

    "candidates" different ones (fewer if the probabilities leave fewer) are trained for an equal share of the config's
    epochs and judged on the validation part.
    """
    cell, start = job.cell, job.start
    assert start is not None
    model = build(cell)
    search = OneShotSearch(model, _one_shot_config(job), cell.task.where)
    load_network(model, start.folder)
    rng = np.random.default_rng([cell.seed, cell.fold])
    count = min(job.settings["candidates"], cell.config.epochs)
    distinct = dict.fromkeys((search.structure("log2"), search.structure("argmax")))
    for _ in range(100 * count):  # probabilities near 0 and 1 give the same structure again and again
        if len(distinct) >= count:
            break
        distinct.setdefault(search.sample(rng))
    ranked = best_structure(job, list(distinct)[:count], cell.config.epochs)
    cost, history = start.cost + ranked.cost, [*start.history, *ranked.history]
    return Found(ranked.folder, cost, start.resumed or ranked.resumed, ranked.structure, history)


def tuned(job: Searching) -> Found:
    """The hand design, its largest dilation chosen on validation within "trainings" full trainings."""
    cell = job.cell
    model = build(cell)
    largest = max(max(dilation) for dilation in Structure.read(model, cell.task.where).values())
    limits = powers_of_two(largest + 1)[1:] if largest > 1 else powers(cell)
    limits = limits if len(limits) < 6 else limits[::2]  # few enough to be trained for long enough
    designs = [capped_design(model, cell.task.where, limit) for limit in limits]
    return best_structure(job, designs, cell.config.epochs * job.settings["trainings"])


def capped_design(model: nn.Module, where: Where, limit: int) -> Structure:
    """The hand design with dilations up to `limit`: 1, 2, 4, ... `limit`, 1, 2, ... instead of ever longer ones.

    A network whose dilations are all 1, as in most 2-d ones, gets `limit` in every conv. Axes whose kernel is 1 or even
    keep their dilation.
    """
    designed = Structure.read(model, where)
    grows = any(d > 1 for dilation in designed.values() for d in dilation)
    powers = limit.bit_length()

    def capped(d: int) -> int:
        return 2 ** ((d.bit_length() - 1) % powers) if grows else limit

    return redesigned(model, where, capped)


def random(job: Searching) -> Found:
    """Random structures, trained briefly; the best on the validation part. The budget is that of a local search."""
    cell = job.cell
    rng = np.random.default_rng([cell.seed, cell.fold])
    model = build(cell)
    count = min(job.settings["candidates"], cell.config.epochs)
    candidates = powers(cell)
    structures = [draw_structure(model, cell.task.where, candidates, rng) for _ in range(count)]
    return best_structure(job, structures, cell.config.epochs)


def draw_structure(model: nn.Module, where: Where, candidates: Sequence[int], rng: np.random.Generator) -> Structure:
    """A structure with every searched axis drawn uniformly from the candidates.

    Axes whose kernel is 1 or even keep their dilation.

    Raises:
        ValueError: if there is no candidate.
    """
    if not candidates:
        raise ValueError(
            "no power of two lies within --search.bounds and is shorter than the longest input; give wider bounds"
        )
    return redesigned(model, where, lambda d: int(rng.choice(candidates)))


def _round(seen: Round) -> dict[str, Any]:
    """A round as JSON values; branches: layer -> (dilation, share) of each, before the round."""
    branches = {
        name: [[list(dilation), round(share, 4)] for dilation, share in zip(dilations, shares, strict=True)]
        for (name, dilations), shares in zip(seen.dilations.items(), seen.probability.values(), strict=True)
    }
    return {"step": seen.step, "structure": as_lists(seen.structure), "branches": branches}
