"""What runs leave behind: the outcome that must be equal however they were disturbed, and files that are not whole."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.records.folder import read_all

VARYING = {"code", "commit", "started", "finished", "seconds", "evaluation_seconds", "peak_memory_mb", "resumed"}
"""Fields of a record, at any depth, that say by which code, when, how long and how often it was run."""


def outcome(results: Path) -> dict[str, Any]:
    """Every record of a results folder and every tensor of the networks that were scored, by name.

    Raises AssertionError if a record is broken.
    """
    records = read_all(results)
    assert not records.broken, records.broken
    found: dict[str, Any] = {}
    for record in records.all:
        found[str(record.key)] = _without_times(record.model_dump(mode="json"))
        network = record.key.work(results) / "model.pt"
        if network.exists():
            state = torch.load(network, map_location="cpu", weights_only=True)["state_dict"]
            found |= {f"{record.key}: {name}": value for name, value in state.items()}
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(part) for name, part in value.items() if name not in VARYING}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Where two outcomes differ in any digit; empty if they are equal."""
    return [name for name in {**expected, **found} if not _equal(expected.get(name), found.get(name))]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def half_written(folder: Path) -> list[Path]:
    """Files below a folder that are not whole. Those of an unfinished write, whose names begin with a dot, may be."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "." and not _is_whole(path)]


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".jsonl":
            _ = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        elif path.suffix in (".pt", ".pth", ".ckpt"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
    except (ValueError, zipfile.BadZipFile):
        return False
    return True
