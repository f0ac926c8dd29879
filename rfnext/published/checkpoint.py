"""Tensors and plain values out of a checkpoint of any origin; nothing in the file is executed.

torch's own reader of weights refuses files whose "meta" holds objects of other packages, as those of mmcv may. Here
every class and function that such a file names is replaced by an inert one, and the same reader goes on.
"""

import _compat_pickle
import logging
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from rfnext import tensor_files
from rfnext.files import open_file
from rfnext.structure import canonical

MOST_NAMES = 200
"""Classes and functions that a file may name; those of mmcv name less than twenty."""

_WRAPPERS = ("state_dict", "model")

COUNT = "n_averaged"
"""What torch's AveragedModel counts beside the weights of its "module"."""

log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """tensors: the state_dict by canonical names. meta: what mmcv and mmengine write about the training, if any."""

    tensors: dict[str, Tensor]
    meta: Mapping[str, Any]


def read(path: str | Path) -> Stored:
    """The tensors of a checkpoint, on the CPU.

    They are those of a bare state_dict, of one under "state_dict" or "model", or of the only one in the file. The log
    names others, such as an average (EMA), that are left out.

    Raises:
        ValueError: naming the file, if it is broken, is no checkpoint, or names a function that touches the system.
        OSError: if it cannot be read.
    """
    with open_file(path) as file:
        try:
            content = _load(file)
        except Exception as error:  # broken bytes raise errors of any kind in torch
            ours = str(error) if type(error) is ValueError else type(error).__name__
            reason = next((line.strip() for line in str(error).splitlines() if "is blocked" in line), ours)
            again = "; a download that broke off ends like this: compare its size, and fetch it again"
            again = "" if "safetensors" in reason else again
            raise ValueError(f"{path} is not a readable checkpoint ({reason}){again}") from error
    wrapped = content if isinstance(content, Mapping) else {}
    tensors: dict[str, Tensor] = {}
    state = _state_of(wrapped, path)
    for key, value in state.items():
        if not isinstance(value, Tensor) or not isinstance(key, str):
            raise ValueError(f"{path}: entry {str(key)[:80]!r} is no tensor; give a checkpoint with a 'state_dict'")
        if canonical(key) in tensors:
            raise ValueError(f"{path}: entry {canonical(key)!r} appears twice, with and without a wrapper's name")
        tensors[canonical(key)] = value
    if COUNT in tensors and all(key.startswith("module.") for key in state if key != COUNT):
        del tensors[COUNT]
    if not tensors:
        raise ValueError(f"{path} holds no weights; give a checkpoint with a 'state_dict'")
    try:
        tensor_files.check_tensors(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; fetch it again") from None
    meta = wrapped.get("meta")
    return Stored(tensors, meta if isinstance(meta, Mapping) else {})


def _state_of(content: Mapping[Any, Any], path: str | Path) -> Mapping[Any, Any]:
    """The state_dict of a file's content; raises ValueError if it holds several and none has the usual name."""
    held = [key for key, value in content.items() if _is_state(value) and not str(key).endswith("_extra_state")]
    usual = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    if held and usual and not any(isinstance(value, Tensor) for value in content[usual].values()):  # a config, say
        usual = next((key for key in _WRAPPERS if key in held), None)
    if usual is None and len(held) > 1:
        names = ", ".join(repr(str(key)[:80]) for key in held[:8])
        raise ValueError(
            f"{path} holds several state_dicts, {names}; save the one that is meant: "
            f'torch.save(torch.load(FILE)[{str(held[0])[:80]!r}], "weights.pt")'
        )
    chosen = usual if usual is not None else held[0] if held else None
    if others := [str(key)[:80] for key in held if key != chosen]:
        log.warning("%s: opened its %r; it also holds %s", path, chosen, ", ".join(map(repr, others[:8])))
    return content if chosen is None else content[chosen]


def _is_state(value: Any) -> bool:
    """Whether it is a mapping of names to tensors, numbers among them: states of random generators are bytes."""
    return isinstance(value, Mapping) and any(
        isinstance(key, str) and isinstance(entry, Tensor) and entry.is_floating_point() for key, entry in value.items()
    )


class _Inert(list[Any]):
    """What stands for a class or function of the file: takes anything, does nothing."""

    is_mapping = False

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict() if cls.is_mapping else super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


def _load(file: BinaryIO) -> Any:
    # torch lets a class of another package be a list, but not a dict: one that is filled like a dict becomes one.
    tensor_files.check(file)
    inert = {name: type(f"Inert {name}", (_Inert,), {}) for name in _named(file)}
    while True:
        try:
            with torch.serialization.safe_globals([(cls, name) for name, cls in inert.items()]):
                return tensor_files.load(file)
        except pickle.UnpicklingError as error:
            filled = [cls for cls in inert.values() if not cls.is_mapping and f"{cls.__name__}'" in str(error)]
            if not filled:
                raise
            for cls in filled:
                cls.is_mapping = True


def _named(file: BinaryIO) -> set[str]:
    """The names of all that the file's pickles would import."""
    names: set[str] = set()
    for operation, argument, _ in tensor_files.operations(file):
        if operation.name == "GLOBAL":
            module, name = argument.split(" ", 1)
            if (module, name) in _compat_pickle.NAME_MAPPING:  # of Python 2, as torch translates them
                module, name = _compat_pickle.NAME_MAPPING[module, name]
            names.add(f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}")
    if len(names) > MOST_NAMES:
        raise ValueError(f"it names more than {MOST_NAMES} classes and functions")
    return names
