"""A trained network in one file that says everything: task, config, convs with their branches, and weights.

Every training writes one of its best epoch (`spec.SELECTED`), and every cell of a benchmark one of the network that it
scores. They open on machines without the data. The file holds tensors and plain values only; reading it executes
nothing, and builds no network that is much larger than the file.
"""

import contextlib
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

import tasks
from rfnext import tensor_files
from rfnext.description import describe, load_into, restore
from rfnext.files import write_bytes
from tasks.plain import plain, rebuild
from tasks.spec import Facts

FORMAT = "rfnext checkpoint"
VERSION = 1
FIX = "give the model.pt of a cell or the selected.pt of a training, in results/work"

VALUES = 10**6
"""Plain values that a file may hold: a list that is in itself many times counts each time."""

DEPTH = 32
"""Of plain values within each other."""

LARGEST = 2**24
"""The largest whole number of a config or of a conv: a length or a size that no network here comes near."""


CONTRADICTIONS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(MemoryError, RuntimeError, TypeError, ValueError),
)
"""Errors of building a network and loading its weights, by values that fit neither each other nor the network."""


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
        ValueError: if the config or the facts have numbers that `load` would refuse.
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
    _refuse_traps(content)  # now, and not when it is opened
    write_bytes(path, tensor_files.serialised(content))


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
    with _consistent(path):
        owner = tasks.load(name)
        kind = type(owner.presets["tiny"])
        # Fields that are younger than the file get their defaults.
        config = rebuild(kind, _filled(content["config"], plain(kind(), "config")))
        with as_large_as(content["state_dict"]):
            model = owner.build(config) if owner.rebuild is None else owner.rebuild(config, content["facts"])
    _refuse_wrong_values(path, content, model)
    with _consistent(path):
        restore(model, content["convs"], content["state_dict"])
    return Checkpoint(name, config, content["facts"], model.eval())


@contextlib.contextmanager
def _consistent(path: str | Path) -> Iterator[None]:
    """Name the file in what is raised."""
    try:
        yield
    except CONTRADICTIONS as error:
        raise ValueError(f"{path} contradicts itself ({error}); {FIX}") from error


def _refuse_wrong_values(path: str | Path, content: Mapping[str, Any], model: nn.Module) -> None:
    try:
        tensor_files.refuse_wrong_values(content["state_dict"], model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {FIX}") from None


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a file that `save` wrote into a network that has the same convs.

    Raises:
        ValueError: naming the file and the layer, if it is of another network, or is no such file.
        OSError: if it cannot be read.
    """
    content = _read(path)
    _refuse_wrong_values(path, content, model)
    try:
        load_into(model, content["convs"], content["state_dict"])
    except CONTRADICTIONS as error:
        fix = "give one of the same sizes and dilations; a training starts at the hand design's"
        raise ValueError(f"{path} is of another network ({error}); {fix}") from error


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = tensor_files.read(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}); {FIX}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of format {FORMAT!r}; {FIX}")
    if content.get("version") != VERSION:
        found = reprlib.repr(content.get("version"))
        raise ValueError(f"{path} has version {found}, this program reads version {VERSION}")
    parts = {"task": str, "config": dict, "facts": dict, "convs": dict, "state_dict": dict}
    for part, kind in parts.items():
        if not isinstance(content.get(part), kind):
            raise ValueError(f"{path} has no {part}; {FIX}")
    try:
        tensor_files.check_tensors(content["state_dict"])
        _refuse_traps(content)
    except ValueError as error:
        raise ValueError(f"{path} is no file that a training wrote ({error}); {FIX}") from None
    return content


def _refuse_traps(content: Mapping[str, Any]) -> None:
    """Raise ValueError for plain values that fill the memory once they are used, though the file is small."""
    extra = [value for value in content["state_dict"].values() if not isinstance(value, Tensor)]
    left, nodes = VALUES, [(value, 0) for value in (content["config"], content["facts"], content["convs"], extra)]
    while nodes:
        value, depth = nodes.pop()
        inside = [*value, *value.values()] if isinstance(value, dict) else value
        left -= len(inside) if isinstance(inside, list | tuple | str) else 1
        if left < 0 or depth > DEPTH:
            raise ValueError(f"more than {VALUES} plain values, or more than {DEPTH} within each other")
        if isinstance(inside, list | tuple):
            nodes += [(part, depth + 1) for part in inside]
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"the number {value:.3g}" if abs(value) < 10**300 else "a number of hundreds of digits")
        elif value is not None and not isinstance(value, int | float | str):
            raise ValueError(f"a {type(value).__name__} among plain values")


@contextlib.contextmanager
def as_large_as(state: Mapping[str, Any]) -> Iterator[None]:
    """Refuse, by ValueError while a network is built, parameters far beyond those of a state_dict."""
    stored = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values() if torch.is_tensor(t)
    }
    # As designed, a network may have parts that merging has removed; weight_norm registers a weight three times.
    size, count = 8 * sum(stored.values()) + 2**26, 8 * len(state) + 1000

    def seen(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal size, count
        size, count = size - (0 if parameter is None else parameter.nbytes), count - 1
        if size < 0 or count < 0:
            raise ValueError("its config is that of a much larger network than its weights are of")

    hook = register_module_parameter_registration_hook(seen)
    try:
        yield
    finally:
        hook.remove()


def _filled(stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The stored values, and the defaults of what is not stored, in nested mappings too."""
    filled = dict(defaults) | dict(stored)
    for name, value in stored.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping):
            filled[name] = _filled(value, defaults[name])
    return filled
