"""A trained network in one file that says everything: task, config, convs with their branches, and weights.

Every training writes one of its best epoch (`spec.SELECTED`), and every cell of a benchmark one of the network that it
scores. They open on machines without the data. The file holds tensors and plain values only; reading it executes
nothing.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import tasks
from rfnext.description import describe, load_into, restore
from rfnext.files import serialised, write_bytes
from tasks.plain import plain, rebuild
from tasks.spec import Facts, Task

FORMAT = "rfnext checkpoint"
VERSION = 1
FIX = "give the model.pt of a cell or the selected.pt of a training, in results/work"


class Checkpoint(NamedTuple):
    """An opened file: the task's name, its config (paths have their defaults), what the network was told of the data,
    and the network, on the CPU in evaluation mode."""

    task: str
    config: Any
    facts: Facts
    model: nn.Module


def save(path: Path, task: str, config: Any, model: nn.Module, facts: Facts | None = None) -> None:
    """Write a network, atomically: as designed, with a structure, with branches, or with these merged.

    Args:
        path: the file.
        task: name of the task that built the network.
        config: its config.
        model: the network.
        facts: what it was told of the data (`spec.Task.facts`), plain values.

    Raises:
        OSError: if the file cannot be written; an older one is kept then.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "task": task,
        "config": plain(config, "config"),
        "facts": plain(dict(facts or {}), "facts"),
        "convs": describe(model),
        "state_dict": model.state_dict(),
    }
    write_bytes(path, serialised(content))


def load(path: str | Path, task: str | None = None) -> Checkpoint:
    """The network of a file that `save` wrote, with its structure and branches.

    Args:
        path: the file.
        task: the task that the network must belong to; None: any.

    Raises:
        ValueError: naming the file, if it is another one, is broken, or belongs to another task.
        OSError: if it cannot be read.
    """
    content = _read(path)
    name = content["task"]
    if task is not None and name != task:
        raise ValueError(f"{path} is a network of the task {name!r}, not of {task!r}; give one of {task!r}")
    try:
        owner = tasks.load(name)
        kind = type(owner.presets["tiny"])
        # Fields that are younger than the file get their defaults.
        config = rebuild(kind, _filled(content["config"], plain(kind(), "config")))
        model = _build(owner, config, content["facts"])
        restore(model, content["convs"], content["state_dict"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} contradicts itself ({error}); {FIX}") from error
    return Checkpoint(name, config, content["facts"], model.eval())


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a file that `save` wrote into a network that has the same convs.

    Raises:
        ValueError: naming the file and the layer, if it is of another network, or is no such file.
        OSError: if it cannot be read.
    """
    content = _read(path)
    try:
        load_into(model, content["convs"], content["state_dict"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is of another network ({error})") from error


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = torch.load(io.BytesIO(Path(path).read_bytes()), map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # broken bytes raise errors of any kind in torch
        raise ValueError(f"{path} is not a readable checkpoint ({type(error).__name__}); {FIX}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of format {FORMAT!r}; {FIX}")
    if content.get("version") != VERSION:
        raise ValueError(f"{path} has version {content.get('version')!r}, this program reads version {VERSION}")
    parts = {"task": str, "config": dict, "facts": dict, "convs": dict, "state_dict": dict}
    for part, kind in parts.items():
        if not isinstance(content.get(part), kind):
            raise ValueError(f"{path} has no {part}; {FIX}")
    return content


def _build(task: Task[Any], config: Any, facts: Facts) -> nn.Module:
    return task.build(config) if task.rebuild is None else task.rebuild(config, facts)


def _filled(stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The stored values, and the defaults of what is not stored, in nested mappings too."""
    filled = dict(defaults) | dict(stored)
    for name, value in stored.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping):
            filled[name] = _filled(value, defaults[name])
    return filled
