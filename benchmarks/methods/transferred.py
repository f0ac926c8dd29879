"""A structure that was searched on another network of the task: Global2Local (CVPR 2021) searches on MS-TCN and gives
what it finds to the networks that are made of MS-TCN's stages."""

import dataclasses

from benchmarks.methods.method import Found
from benchmarks.methods.searches import local
from benchmarks.methods.searching import Searching
from benchmarks.methods.training import LAST, as_lists, build
from rfnext import Structure
from tasks.spec import SELECTED


def transferred(job: Searching) -> Found:
    """The local search on the donor, from its hand design: one training of the donor.

    A layer gets the dilation of the donor's layer of the same role (`Task.roles`), and keeps its own where there is
    none. Each round of the history is what the network would have had after it.

    Raises:
        ValueError: if no layer has a role of the donor's.
    """
    task = job.cell.task
    config = task.donor(job.cell.config) if task.donor else None
    assert config is not None  # `Method.unfit`
    assert task.roles is not None
    donor = dataclasses.replace(job.cell, config=config)
    model = build(job.cell)
    designed, roles = Structure.read(model, task.where), task.roles(model)
    source = {role: name for name, role in task.roles(build(donor)).items()}
    pairs = {name: source[role] for name, role in roles.items() if role in source}
    if not pairs:
        raise ValueError(f"no searched layer of {job.cell.preset} has the role of one of the donor's")
    found = local(dataclasses.replace(job, cell=donor))
    for name in (LAST, SELECTED):  # the donor's network is not this one
        (found.folder / name).unlink(missing_ok=True)

    def given(searched: Structure) -> Structure:
        return Structure({name: searched[pairs[name]] if name in pairs else own for name, own in designed.items()})

    rounds = (entry | {"structure": Structure(entry["structure"])} for entry in found.history)
    history = [{"step": entry["step"], "structure": as_lists(given(entry["structure"]))} for entry in rounds]
    return dataclasses.replace(found, structure=given(found.structure), history=history)
