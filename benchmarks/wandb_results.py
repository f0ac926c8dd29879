"""Results on Weights & Biases: a cell's record added to the run of its training."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rfnext
from benchmarks.cell import Cell
from benchmarks.records.places import work_folder
from benchmarks.records.protocol import fingerprint
from benchmarks.records.record import Record
from rfnext.dilation import Dilation
from rfnext.integrations.wandb import RUN_FILE, init_arguments, log_structure, offline_runs


def log_to_wandb(cell: Cell, record: Record) -> None:
    """Add a cell's result to the run of its final training, or to one of its own if there was none.

    Config and cost go to the run's config and summary, pictures and sounds and a table of the metrics to its media, the
    structure to an artifact.
    """
    import wandb

    folder = cell.work / "train"
    if not (folder / RUN_FILE).exists():
        folder = cell.work
        folder.mkdir(parents=True, exist_ok=True)
    name = " ".join(folder.relative_to(work_folder(cell.results)).parts)
    with wandb.init(**init_arguments(folder, name=name, group=f"{record.task} {record.preset}")) as run:
        about = record.key._asdict() | {"data": record.data, "protocol": fingerprint(record.protocol)}
        run.config.update(record.protocol["config"] | about, allow_val_change=True)
        run.summary["status"] = record.status
        if record.metrics is None:
            run.summary["reason"] = record.reason
            return
        _log_numbers(run, record)
        media = {".png": wandb.Image, ".jpg": wandb.Image, ".wav": wandb.Audio, ".svg": wandb.Html}
        for picture in map(Path, record.pictures):
            if kind := media.get(picture.suffix):
                run.log({picture.stem: kind(str(cell.results / picture))})
        if record.structure is not None:
            designed = next((_tuples(seen["structure"]) for seen in record.history if seen["step"] == 0), None)
            log_structure(run, rfnext.Structure(_tuples(record.structure)), designed)


def _tuples(structure: Mapping[str, Sequence[int]]) -> dict[str, Dilation]:
    return {name: tuple(dilation) for name, dilation in structure.items()}


def _log_numbers(run: Any, record: Record) -> None:
    import wandb

    assert record.metrics is not None
    assert record.metrics_last is not None
    assert record.validation is not None
    kinds = {"test": record.metrics, "test_last_epoch": record.metrics_last, "validation": record.validation}
    run.summary.update({f"{kind}/{name}": value for kind, found in kinds.items() for name, value in found.items()})
    for stage, cost in (("search", record.search), ("training", record.training)):
        run.summary.update({f"cost/{stage}_{part}": value for part, value in cost.model_dump().items()})
    rows = ([kind, *(found[spec.name] for spec in record.metric_specs)] for kind, found in kinds.items())
    columns: list[str | int] = [
        "part",
        *(f"{spec.name} ({spec.unit})" if spec.unit else spec.name for spec in record.metric_specs),
    ]
    run.log({"metrics": wandb.Table(columns=columns, data=[*rows])})


def sync_command(folder: Path) -> str:
    """The one command that uploads all offline runs below a folder."""
    return f"find {shlex.quote(str(folder))} -type d -name 'offline-run-*' -exec wandb sync {{}} +"


def offline_folders(cell: Cell) -> list[Path]:
    """What `wandb sync` uploads of a cell: the runs of its trainings and of the searches that it starts from."""
    searches = [cell.search_folder(search.name) for search in cell.method.searches if search.shared]
    return [path for folder in (*searches, cell.work) for path in offline_runs(folder)]
