"""Training and scoring of a cell's networks: `fit` trains and measures, `score` evaluates on the test part.

`score` is called once per scored network and never to decide anything.
"""

import dataclasses
import json
import logging
import math
import random
import shutil
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import receptive_fields
from benchmarks.cell import Cell
from benchmarks.methods.method import Found, Outcome, Settings, Trained
from benchmarks.records.identity import identify
from benchmarks.records.machine import PeakMemory, code, implementation, versions
from benchmarks.records.places import work_folder
from benchmarks.records.protocol import fingerprint
from benchmarks.records.record import Cost
from benchmarks.running import live
from rfnext import Search, Structure, tensor_files
from rfnext.files import read_text, write_bytes, write_text
from tasks import checkpoint
from tasks.spec import SELECTED, Run, Split, device_of

log = logging.getLogger(__name__)

LAST = "last.pt"
"""A search's network as its last epoch left it, in the search's folder."""


@dataclass(frozen=True)
class Training:
    """One training of a cell.

    folder: for its files. epochs: None: those of the cell's config.
    settings: what else decides the result.
    beginning: it is the beginning of the cell's own training, whose epochs the schedules span, or goes on with it.
    """

    folder: Path
    epochs: int | None = None
    settings: Settings = field(default_factory=dict)
    beginning: bool = False


def own_training(cell: Cell) -> Training:
    """The training of the network that the cell scores."""
    return Training(cell.work / "train", settings=cell.method.settings)


def build(cell: Cell) -> nn.Module:
    """The task's network with the initial weights of the cell's seed: the same for every method."""
    seed_everything(cell.seed)
    return cell.task.build(cell.config)


def fit(cell: Cell, model: nn.Module, training: Training, search: Search | None = None) -> Trained:
    """Train `model` in place with the cell's seed and measure what it costs.

    A half-finished training is continued if `cell.resume` is set and the folder belongs to the very same training by
    the same code and kernels; otherwise the folder is emptied first.
    """
    folder = training.folder
    config = cell.config if training.epochs is None else dataclasses.replace(cell.config, epochs=training.epochs)
    resume = _claim_folder(cell, model, training, config)
    seed_everything(cell.seed)
    memory = PeakMemory(cell.device)
    start = time.perf_counter()
    run = Run(
        seed=cell.seed,
        fold=cell.fold,
        folder=folder,
        search=search,
        logger=cell.logger,
        resume=resume,
        device=cell.device,
        name=" ".join(folder.relative_to(work_folder(cell.results)).parts),
        group=f"{cell.task.name} {cell.preset}",
        schedule_epochs=cell.config.epochs if training.beginning else None,
        progress=live.follow(cell, config.epochs, folder.name if folder.name.startswith("candidate") else ""),
    )
    cell.task.fit(model, config, run)
    seconds = time.perf_counter() - start
    refuse_other_data(cell, folder)
    cost = Cost(epochs=config.epochs, seconds=seconds, peak_memory_mb=memory.read(), memory_measure=memory.measure)
    return Trained(folder, cost, resume)


class OtherData(RuntimeError):
    """The data is not what a cell was planned for."""


def refuse_other_data(cell: Cell, trained: Path | None = None) -> None:
    """Raise OtherData if the data is not what the cell was planned for: it was changed, or is another machine's.

    trained: folder of a training that has just ended. It may have seen both, and is not continued then.
    """
    planned, here = (one.fingerprint if one else "missing" for one in (cell.identity, identify(cell.task, cell.config)))
    if planned == here:
        return
    if trained is not None:
        _marker(trained).unlink(missing_ok=True)
    what = f"the data is not what it was when the cell was planned (files {planned}, now {here})"
    raise OtherData(f"{what}; run it again while nothing changes them")


def _claim_folder(cell: Cell, model: nn.Module, training: Training, config: Any) -> bool:
    """Prepare the folder of a training; returns whether it holds the beginning of this very one."""
    # A training for fewer epochs is the beginning of one for more.
    known = dataclasses.replace(config, epochs=1) if training.beginning else config
    purpose = json.dumps(
        {
            "protocol": fingerprint(cell.protocol(known, training.settings)),
            "structure": as_lists(Structure.read(model, cell.task.where)),
            "code": code(),
            "versions": versions(),
            **implementation(device_of(cell.device)),
        }
    )
    folder = training.folder
    marker = _marker(folder)
    same = read_purpose(marker) == purpose
    if cell.resume and same and folder.is_dir() and any(folder.iterdir()):
        if not (broken := _broken(folder)):
            log.info("continuing the training in %s; --fresh starts it anew", folder)
            return True
        log.warning("%s is broken; its training starts anew", broken)
    elif cell.resume and marker.exists():
        log.info("%s holds a training of other data, settings, code or kernels; this one starts anew", folder)
    marker.unlink(missing_ok=True)  # first: a folder that is half deleted belongs to no training
    shutil.rmtree(folder, ignore_errors=True)
    write_text(marker, purpose)
    folder.mkdir(parents=True)
    return False


def _marker(folder: Path) -> Path:
    """File that says which training a folder belongs to."""
    return folder.with_name(f"{folder.name}.json")  # not inside: some training engines require an empty folder


def read_purpose(marker: Path) -> str | None:
    """What a marker says, which is compared and no more; None if it is missing or no text."""
    try:
        return read_text(marker)
    except (OSError, ValueError):
        return None


def _broken(folder: Path) -> Path | None:
    """The first checkpoint that is not whole, of those that torch has written as archives."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".ckpt", ".pth", ".pt"):
            try:
                with zipfile.ZipFile(path) as archive:
                    whole = archive.testzip() is None
            except (OSError, zipfile.BadZipFile):
                whole = False
            if not whole:
                return path
    return None


def forget(work: Path) -> None:
    """Let the trainings of a cell that is done not be continued: they are whole."""
    for folder in work.iterdir():
        if folder.is_dir():
            _marker(folder).unlink(missing_ok=True)


def score(cell: Cell, model: nn.Module, *, found: Found | None = None, trained: Trained | None = None) -> Outcome:
    """Score a network as its last epoch left it, then at the epoch chosen on the validation part.

    Args:
        cell: the cell.
        model: at its last epoch; at the chosen epoch afterwards.
        found: the search, if there was one.
        trained: the network's own training; None if it is the network of the search.

    Raises ValueError if a metric is not finite.
    """
    stages = [stage for stage in (trained, found) if stage is not None]
    test, validation = Split("test", cell.fold), Split("validation", cell.fold)
    start = time.perf_counter()
    metrics = metrics_last = cell.task.evaluate(model, cell.config, test)
    if load_selected(model, stages[0].folder):
        metrics = cell.task.evaluate(model, cell.config, test)
    of_validation = cell.task.evaluate(model, cell.config, validation)
    if not all(map(math.isfinite, (*metrics_last.values(), *metrics.values(), *of_validation.values()))):
        raise ValueError("a metric is not a finite number: the training diverged; give a lower learning rate (--lr)")
    seconds = time.perf_counter() - start
    return Outcome(
        model=model,
        metrics=metrics,
        metrics_last=metrics_last,
        validation=of_validation,
        structure=Structure.read(model, cell.task.where),
        evaluation_seconds=seconds,
        search=found.cost if found else Cost(),
        training=trained.cost if trained else Cost(),
        history=found.history if found else [],
        resumed=any(stage.resumed for stage in stages),
        receptive_field=receptive_fields.measure(cell.task, model, cell.config, validation),
    )


def load_selected(model: nn.Module, folder: Path) -> bool:
    """Load the weights of the epoch that was best on the validation part, if the task has selected one."""
    path = folder / SELECTED
    if not path.exists():
        return False
    checkpoint.load_weights(model, path)
    return True


def save_network(model: nn.Module, folder: Path) -> None:
    """Keep a search's network as its last epoch left it."""
    write_bytes(folder / LAST, tensor_files.serialised(model.state_dict()))


def load_network(model: nn.Module, folder: Path) -> None:
    """Load what `save_network` has kept."""
    model.load_state_dict(tensor_files.read(folder / LAST))


def seed_everything(seed: int) -> None:
    """Seed every random generator that a network or its training may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what libraries still draw from)
    torch.manual_seed(seed)


def as_lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """A structure as JSON values."""
    return {name: list(dilation) for name, dilation in structure.items()}
