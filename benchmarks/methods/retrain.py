"""Finishes: what is trained from a structure and scored: one dilation per conv, branches, merged, as searched."""

from benchmarks.cell import Cell
from benchmarks.methods.method import Found, Outcome
from benchmarks.methods.searches import searched_network
from benchmarks.methods.training import build, fit, own_training, score
from benchmarks.running.pool import Pool
from rfnext import Structure, keep_branches, merge
from tasks.spec import device_of


def single(cell: Cell, pool: Pool, found: Found | None) -> Outcome:
    """Train a plain network anew, at the dilations that were found or else the hand-designed ones."""
    model = build(cell)
    if found is not None:
        found.structure.apply(model)
    return score(cell, model, found=found, trained=fit(cell, model, own_training(cell)))


def multi(cell: Cell, pool: Pool, found: Found | None) -> Outcome:
    """Train anew with branches around each found dilation, their probabilities trained.

    Around the hand-designed dilations, without a search, it shows what having more branches does by itself.
    """
    model = build(cell)
    structure = found.structure if found else Structure.read(model, cell.task.where)
    keep_branches(model, structure, cell.config.search)
    return score(cell, model, found=found, trained=fit(cell, model, own_training(cell)))


def merged(cell: Cell, pool: Pool, found: Found | None) -> Outcome:
    """Merge the branches of each conv of the local search's network into a larger kernel, then fine-tune (rfmerge)."""
    assert found is not None
    model = searched_network(cell, found)
    merge(model)
    return score(cell, model, found=found, trained=fit(cell, model, own_training(cell)))


def as_searched(cell: Cell, pool: Pool, found: Found | None) -> Outcome:
    """The local search's own network, with the branches that it ended on and no further training.

    The published "multi" rows of COCO were measured this way.
    """
    assert found is not None
    model = searched_network(cell, found).to(device_of(cell.device))
    return score(cell, model, found=found)
