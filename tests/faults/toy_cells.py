"""Short cells of the toy task of tests/benchmarks, in this process."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import tasks
from benchmarks.cell import Cell
from benchmarks.methods.method import Method
from benchmarks.methods.table import GENETIC, METHODS, SINGLE
from benchmarks.records.places import ROOT
from tasks.spec import Logger

TOY = ROOT / "tests/benchmarks/toy_task.py"

EPOCHS = 4
"""Of a training: enough for a genetic search to promote its best to a second rung."""

BRIEF = dataclasses.replace(GENETIC, settings={**GENETIC.settings, "population": 3, "budget": 1})
"""A genetic search of a few candidates, one of which is promoted."""


def only_toy() -> None:
    """Make the toy task the only one that this process knows."""
    spec = importlib.util.spec_from_file_location("toy_task", TOY)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["toy_task"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tasks.names = lambda: ["toy"]
    tasks.load = lambda name: module.TASK


def toy_cell(method: str, results: Path, logger: Logger = "none") -> Cell:
    """A cell of the toy task; its genetic search is a brief one."""
    task, row = tasks.load("toy"), METHODS[method]
    if row.search == GENETIC:
        row = Method(BRIEF, SINGLE)
    config = dataclasses.replace(task.presets["tiny"], epochs=EPOCHS)
    return Cell(task, "short", config, row, 1, 0, results, "tiny", device="cpu", logger=logger)
