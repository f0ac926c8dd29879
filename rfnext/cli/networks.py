"""What the commands read: networks that a function of the user builds, checkpoints, structures."""

import difflib
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from rfnext import files, tensor_files
from rfnext.convs.branch_state import BranchState
from rfnext.convs.set_dilation import set_dilation
from rfnext.convs.take_over import take_over
from rfnext.description import describe, restore
from rfnext.published.checkpoint import read
from rfnext.structure import Structure, named_convs


def build(name: str, arguments: str | None) -> nn.Module:
    """The network that a function returns.

    Args:
        name: "module:function"; the module is imported, also from the working directory.
        arguments: its keyword arguments as a JSON object.

    Raises ValueError, saying what does not fit, also if the function fails.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"--network {name!r} is not module:function, as in timm.models.resnet:resnet18")
    given = {} if arguments is None else _arguments(arguments)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # of any kind: a module of the user is executed
        raise ValueError(f"--network: importing {module_name} fails: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        # Not by getattr(): in modules that import lazily, as transformers, that would import all of them.
        known = [name for name, value in vars(module).items() if callable(value)]
        close = difflib.get_close_matches(function_name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"--network: {module_name} has no function {function_name!r}{hint}")
    try:
        network = function(**given)
    except Exception as error:
        raise ValueError(f"--network: {name} fails: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"--network: {name} returns a {type(network).__name__}, not a network (torch.nn.Module)")
    return network.eval()


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = files.parse_json(text)
    except ValueError as error:
        raise ValueError(f"--arguments {text!r}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f'--arguments {text!r} is no JSON object, as {{"num_classes": 4}} is')
    return value


def open_checkpoint(model: nn.Module, path: Path) -> None:
    """Load a checkpoint into a network as designed, which gets its branches, or its merged convs, if it has any.

    Raises ValueError, naming the file, if it is broken or of another network.
    """
    try:
        content = tensor_files.read(path)
    except ValueError:
        content = None  # of other tools, whose objects are left out below
    try:
        if isinstance(content, Mapping) and isinstance(content.get("convs"), Mapping):
            state = content["state_dict"]
            if isinstance(state, Mapping):
                tensor_files.check_tensors(state)
                tensor_files.refuse_wrong_values(state, model)
            return restore(model, content["convs"], state)
        tensors = _without_owner(read(path).tensors, model)
        tensor_files.refuse_wrong_values(tensors, model)
        _take_over(model, tensors)
        model.load_state_dict(tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        first = " ".join(str(error).splitlines()[:3])[:400]
        raise ValueError(first if str(path) in first else f"{path}: {first}") from None


def _without_owner(tensors: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The tensors by the network's own names, where it was an attribute of what was saved, a LightningModule say."""
    owners = {key.partition(".")[0] + "." for key in tensors}
    own = list(model.state_dict())
    if len(owners) > 1 or all(key in tensors for key in own):
        return tensors
    (owner,) = owners
    inner = {key.removeprefix(owner): value for key, value in tensors.items()}
    return inner if all(key in inner for key in own) else tensors


def _take_over(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the convs the branches that a checkpoint has."""
    convs = named_convs(model)
    for key, tensor in tensors.items():
        prefix = key.removesuffix("_extra_state")
        if prefix == key or f"{prefix}branch_weight" not in tensors:
            continue
        if (layer := prefix.removesuffix(".")) not in convs:
            raise ValueError(f"layer {layer!r} has branches in it and is no conv of the network")
        state, entries = BranchState.read(tensor), tensors[f"{prefix}branch_weight"].numel()
        take_over(convs[layer], state.branches, entries=entries, rule=state.rule, anchor=state.anchor)
        set_dilation(convs[layer], state.centre)


def opened(network: str, arguments: str | None, checkpoint: Path | None, structure: Path | None) -> nn.Module:
    """A network with the weights of a checkpoint, and after that a structure applied, whichever are given."""
    loaded = None if structure is None else Structure.load(structure)
    model = build(network, arguments)
    if checkpoint is not None:
        open_checkpoint(model, checkpoint)
    if loaded is not None:
        loaded.apply(model)
    return model


def save(model: nn.Module, path: Path) -> None:
    """Write a network so that `open_checkpoint` opens it: its convs in plain values, and its state_dict."""
    content = {"convs": cast(Any, describe(model)), "state_dict": model.state_dict()}
    files.write_bytes(path, tensor_files.serialised(content))
