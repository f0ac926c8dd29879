"""Searches that several methods share: done once per task, preset, fold and seed, and kept in the work folder."""

import json
import logging
import shutil
from pathlib import Path

from benchmarks.cell import Cell
from benchmarks.methods.candidates import powers
from benchmarks.methods.method import Found, SearchStage
from benchmarks.methods.searching import Searching
from benchmarks.methods.training import LAST, as_lists
from benchmarks.records.machine import code
from benchmarks.records.places import claim
from benchmarks.records.protocol import fingerprint
from benchmarks.records.record import Cost
from benchmarks.running import live
from benchmarks.running.pool import Pool
from rfnext import Structure
from rfnext.files import read_json, write_text

log = logging.getLogger(__name__)

FOUND = "found.json"
"""What a search found, in its folder."""


def find(cell: Cell, stage: SearchStage, pool: Pool) -> Found:
    """What a search finds for a cell, after the searches from whose results it continues.

    A shared one is done now, or taken over from the cell that did it: it is stored with its protocol, so that every
    method which starts from it has the same structure, and a second process waits instead of searching again.
    """
    start = find(cell, stage.start, pool) if stage.start else None
    if not stage.shared:
        live.begin(cell, stage)
        return stage.run(Searching(cell, pool, cell.work, start, stage.all_settings))
    folder = cell.search_folder(stage.name)
    settings = stage.settings_of(cell.task, cell.config)
    if start is not None:
        settings["start"] = as_lists(start.structure)
    if any(search.powers for search in stage.chain):
        settings["candidates"] = powers(cell)  # they follow the data, which may have grown
    key = fingerprint(cell.protocol(settings=settings))
    with claim(folder.with_suffix(".lock"), wait=True):
        if known := read_found(folder, key):
            here = f"tasks/{cell.task.name}"
            older = read_json(folder / FOUND).get("code") not in (None, code(here))
            log.log(
                logging.WARNING if older else logging.INFO,
                "%s: taking over the search in %s%s; delete that folder to search again",
                *(live.heading(cell, stage), folder, f", although {here} has changed since" if older else ""),
            )
            return known
        if not cell.resume:
            shutil.rmtree(folder, ignore_errors=True)
        live.begin(cell, stage)
        found = stage.run(Searching(cell, pool, folder, start, stage.all_settings))
        write_found(folder, key, found, code(f"tasks/{cell.task.name}"))
        return found


def forget(cell: Cell) -> None:
    """Let the stored searches of a cell be taken over by none: they are done again.

    Raises OSError if a file cannot be deleted.
    """
    for stage in cell.method.searches:
        if stage.shared:
            (cell.search_folder(stage.name) / FOUND).unlink(missing_ok=True)


def write_found(folder: Path, key: str, found: Found, made_by: str) -> None:
    """Keep what the search of a protocol has found, by which code of its task."""
    content = {
        "protocol": key,
        "code": made_by,
        "network": (folder / LAST).exists(),
        "structure": as_lists(found.structure),
        "history": found.history,
        "cost": found.cost.model_dump(),
        "resumed": found.resumed,
    }
    write_text(folder / FOUND, json.dumps(content))


def read_found(folder: Path, key: str) -> Found | None:
    """What `write_found` has kept; None, logged, if that is of another protocol or is not whole."""
    try:
        content = read_json(folder / FOUND)
        if content["protocol"] != key or (content["network"] and not (folder / LAST).exists()):
            return None
        resumed, history = content["resumed"], content["history"]
        if type(resumed) is not bool or not all(isinstance(entry, dict) for entry in history):
            raise TypeError("resumed is no truth value, or history no list of rounds")
        structure = Structure({name: tuple(dilation) for name, dilation in content["structure"].items()})
        return Found(folder, Cost(**content["cost"]), resumed, structure, history)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not a stored search (%s); searching again", folder / FOUND, error)
        return None
