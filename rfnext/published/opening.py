"""A published checkpoint opened in a network of ours, as the same function."""

import difflib
from pathlib import Path

import torch
from torch import Tensor, nn

from rfnext.convs.conv import SearchConv
from rfnext.convs.set_dilation import set_checked_dilation
from rfnext.convs.take_over import take_over
from rfnext.plain_checkpoint import name_missing_branches
from rfnext.published import formats
from rfnext.published.checkpoint import Stored, read
from rfnext.published.formats import GLOBAL2LOCAL, OPERATOR, RFCONV, Opened, Tensors, wrapped
from rfnext.published.structure_file import STEPS, StructureFile, read_structure
from rfnext.published.training import check_training
from rfnext.structure import canonical, searched_convs
from rfnext.tensor_files import refuse_wrong_values


def open_published(model: nn.Module, checkpoint: str | Path, structure: str | Path | None = None) -> None:
    """Give a network the dilations, branches and weights of a checkpoint that the published code trained.

    What opens:
        - mmcv's operator (MMDetection, MMSegmentation), with the structure file of its step: in the modes search and
          fixed_multi_branch with its branches, by rule "paper"; in mode fixed_single_branch as plain convs. Convs get
          the paddings that mmcv's tools give them.
        - RFConv2d, which holds its own dilations, with its branches or these merged.
        - Global2Local, with its structure file, where every conv has one branch. Its operator applies a ReLU, so the
          network must apply one to the output of these convs, as MS-TCN does.

    What a checkpoint says of its training is compared with the structure file. Where it says nothing, files of two
    steps of one search cannot be told apart, nor the checkpoint of a plain network from one of mode
    fixed_single_branch. Nothing in the files is executed.

    To go on with a search, build `LocalSearch` (rule "paper") first and open the checkpoint in the searched model.

    Args:
        model: as designed, or under a search of the same layers; changed in place. Build the optimizer afterwards.
        checkpoint: a state_dict, or a file that holds it under "state_dict" or "model".
        structure: the file local_search_config_step<N>.json of the checkpoint's step; none for RFConv2d.

    Raises:
        ValueError: naming the file and the layer, if one of them is of another network, another search or another
            step, or is broken; nothing is changed then.
        OSError: if a file cannot be read.
    """
    stored = read(checkpoint)
    file = None if structure is None else read_structure(structure)
    try:
        opened, tensors = _opened(model, stored, file)
        _check_convs(model, opened)
        state = _matched(model, tensors, opened)
        branches = {f"{name}.branch_weight": conv.weights for name, conv in opened.items()}
        refuse_wrong_values({**state, **branches}, model)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    formats.name_own_forwards({name: conv.conv for name, conv in opened.items() if not conv.branches})
    for conv in opened.values():
        _become(conv)
    name_missing_branches(model)
    with torch.no_grad():
        for conv in opened.values():
            if isinstance(conv.conv, SearchConv) and conv.weights is not None:
                conv.conv.branch_weight.copy_(conv.weights)
    model.load_state_dict({**model.state_dict(), **state})


def _opened(model: nn.Module, stored: Stored, file: StructureFile | None) -> tuple[dict[str, Opened], Tensors]:
    """What the convs become, and the tensors by the names that they have in the plain network."""
    tensors = stored.tensors
    if wrapped(tensors, RFCONV):
        if file is not None:
            raise ValueError(f"its RFConv2d hold their dilations; leave the structure file {file.path} out")
        return formats.rf_convs(model, tensors)
    searched = wrapped(tensors, OPERATOR) or wrapped(tensors, GLOBAL2LOCAL)
    if file is None and searched:
        raise ValueError(f"it holds no dilations; give the structure file of its step, {STEPS}, too")
    if file is None:
        raise ValueError(
            "no conv in it has branches. If it was trained in mode fixed_single_branch, give the structure file of "
            "that training; if its network is as designed, load it by model.load_state_dict"
        )
    check_training(stored.meta, file, bool(searched))
    if wrapped(tensors, OPERATOR):
        return formats.operators(model, tensors, file)
    if searched:
        return formats.local_operators(model, tensors, file)
    return formats.single(model, file), tensors


def _check_convs(model: nn.Module, opened: dict[str, Opened]) -> None:
    """Raise ValueError if a conv is opened twice, is searched only in the model, or cannot have its branches."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(canonical(name))
    for name, conv in opened.items():
        others = [other for other in names[id(conv.conv)] if other != name]
        if others and (conv.branches or any(other in opened and opened[other] != conv for other in others)):
            raise ValueError(
                f"layers {name!r} and {others[0]!r} are one conv in the model, and two in the published code, with "
                "dilations of their own; such a network has no equal here"
            )
    for name in searched_convs(model):
        if name not in opened or not opened[name].branches:
            raise ValueError(f"layer {name!r} has branches in the model and none in it; open it in a model as designed")


def _matched(model: nn.Module, tensors: Tensors, opened: dict[str, Opened]) -> dict[str, Tensor]:
    """The tensors by the model's own names; raises ValueError unless they fit it, each and all."""
    own = {f"{name}.{entry}" for name in searched_convs(model) for entry in ("branch_weight", "_extra_state")}
    wanted = {canonical(key): key for key in model.state_dict() if canonical(key) not in own}
    for missing, here, there in ((wanted, "the model", "the file"), (tensors, "the file", "the model")):
        lacking = [key for key in missing if key not in (tensors if missing is wanted else wanted)]
        if lacking:
            close = difflib.get_close_matches(lacking[0], list(tensors if missing is wanted else wanted), n=1)
            raise ValueError(
                f"{lacking[0]!r} is in {here} and not in {there}, as are {len(lacking) - 1} others"
                + (f" (closest: {close[0]!r})" if close else "")
                + "; build the network that was trained, and give its structure file"
            )
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    for key, real in wanted.items():
        layer, _, entry = key.rpartition(".")
        expected = tuple(shapes.get(real, ()))
        if layer in opened and entry == "weight":
            expected = (*expected[:2], *opened[layer].kernel)
        if tuple(tensors[key].shape) != expected:
            raise ValueError(
                f"{key!r} has shape {tuple(tensors[key].shape)} in it and {expected} in the model; build the network "
                "in the size, and for the classes, that it was trained for"
            )
    return {real: tensors[key] for key, real in wanted.items()}


def _become(opened: Opened) -> None:
    conv = opened.conv
    if opened.kernel != tuple(conv.kernel_size):
        size = (*conv.weight.shape[:2], *opened.kernel)
        conv.weight = nn.Parameter(conv.weight.new_empty(size), requires_grad=conv.weight.requires_grad)
        conv.kernel_size = opened.kernel
    conv.dilation, conv.padding = opened.dilation, opened.padding
    set_checked_dilation(conv, opened.dilation)  # updates torch's second copy of the padding
    if opened.weights is not None:
        take_over(conv, opened.branches, entries=opened.weights.numel(), rule="paper")
