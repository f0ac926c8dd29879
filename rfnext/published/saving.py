"""A network of ours as the structure file and the checkpoint that mmcv's tools read."""

import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from rfnext import files, tensor_files
from rfnext.convs.conv import INITIAL_WEIGHT, SearchConv
from rfnext.convs.padding import Conv
from rfnext.dilation import searched_axis
from rfnext.published.formats import OPERATOR, check_branched, name_own_forwards, operator_padding
from rfnext.published.structure_file import StructureFile
from rfnext.search.local_config import LocalConfig
from rfnext.structure import Structure, canonical, named_convs, searched_convs


def save_published(
    model: nn.Module, checkpoint: str | Path, structure: str | Path, config: LocalConfig | None = None
) -> None:
    """Write a network so that mmcv's search hook and mmcv's or mmengine's load_checkpoint give the same function.

    There, build the network as designed, call `init_model` of the hook with the structure file, and load the
    checkpoint: in mode fixed_single_branch a plain network, in mode fixed_multi_branch or search one with branches.
    The file's "search" is the `config` that the hook wants.

    Args:
        model: a plain network, or one with branches by rule "paper" (of `LocalSearch` or `keep_branches`). Convs
            without an entry in the structure file must have the design's dilations, as the tools leave them: all but
            Conv2d with an odd kernel above 1, those whose padding does not keep the size, and beside branches all
            without.
        checkpoint: is written as {"meta": {}, "state_dict": ...}.
        structure: is written as local_search_config_step<N>.json of the published code.
        config: the settings of the branches; needed where there are some.

    Raises:
        ValueError: naming the layer, if mmcv's tools would make another function of it; nothing is written then.
        OSError: naming the file, if it cannot be written.
    """
    if searched_convs(model) and config is None:
        raise ValueError("the network has branches; give the LocalConfig that they were made by")
    convs = in_structure_file(model)
    skipped = [f"module.{name}" for name in _changed_by_tools(model) if name not in convs]
    if hidden := [(word, name) for word in skipped for name in convs if word in f"module.{name}"]:
        word, name = hidden[0]
        raise ValueError(
            f"layer {name!r} is to have an entry and {word.removeprefix('module.')!r} is not; mmcv's tools leave out "
            "every layer whose name contains the other's, so they cannot tell these apart"
        )
    file = _file(Path(structure), convs, config, skipped)
    for name, conv in convs.items():
        if isinstance(conv, SearchConv):
            _check(model, name, conv, file)
    name_own_forwards({name: conv for name, conv in convs.items() if not isinstance(conv, SearchConv)})
    state: dict[str, Any] = {}
    for key, value in model.state_dict().items():
        layer, entry = _split(canonical(key), convs)
        if isinstance(convs.get(layer), SearchConv):
            if entry == "_extra_state":
                continue
            entry = OPERATOR if entry == "branch_weight" else f"op_layer.{entry}"
        state[f"{layer}.{entry}".removeprefix(".")] = value
    entries = {f"module.{name}": list(d) for name, d in file.structure.items()}
    content = json.dumps({"search": file.settings, "structure": entries}, indent=4)
    weights = tensor_files.serialised({"meta": {}, "state_dict": state})
    files.write_text(structure, content + "\n")
    files.write_bytes(checkpoint, weights)


def in_structure_file(model: nn.Module) -> dict[str, Conv]:
    """The convs with an entry in the structure file: those with branches, or else what the tools can give its dilation.

    The tools leave all others as they are designed. Raises ValueError if they would not.
    """
    searched: dict[str, Any] = dict(searched_convs(model))
    return searched or {name: conv for name, conv in _changed_by_tools(model).items() if _has_entry(name, conv)}


def _changed_by_tools(model: nn.Module) -> dict[str, Conv]:
    """The convs that mmcv's tools change, unless told to skip them."""
    return {
        name: conv
        for name, conv in named_convs(model).items()
        if isinstance(conv, nn.Conv2d) and any(map(searched_axis, conv.kernel_size))
    }


def _is_padded_alike(conv: Conv) -> bool:
    """Whether mmcv's tools would give the conv the padding that it has."""
    return conv.padding_mode == "zeros" and conv.padding == operator_padding(conv, tuple(conv.dilation))


def _has_entry(name: str, conv: Conv) -> bool:
    """Whether a plain conv is in the structure file; raises ValueError if it must be, and cannot be."""
    if not (alike := _is_padded_alike(conv)) and any(d > 1 for d in conv.dilation):
        raise ValueError(
            f"layer {name!r} has dilation {tuple(conv.dilation)} and padding {conv.padding}, and mmcv's tools would "
            f"pad it by {operator_padding(conv, tuple(conv.dilation))}; they cannot express it"
        )
    return alike


def _file(path: Path, convs: dict[str, Conv], config: LocalConfig | None, skipped: list[str]) -> StructureFile:
    config = config or LocalConfig()
    if config.bounds.max is None:
        raise ValueError("mmcv's tools need a largest dilation; give LocalConfig(bounds=Bounds(smallest, largest))")
    if config.branches not in (2, 3):
        raise ValueError(f"mmcv's operator has 2 or 3 branches, not {config.branches}")
    settings = {
        "step": 0,
        "max_step": config.rounds * config.interval + 1,
        "search_interval": config.interval,
        "exp_rate": config.spread,
        "init_alphas": INITIAL_WEIGHT,
        "mmin": config.bounds.min,
        "mmax": config.bounds.max,
        "num_branches": config.branches,
        "skip_layer": skipped,
    }
    return StructureFile(path, Structure({name: tuple(conv.dilation) for name, conv in convs.items()}), settings)


def _check(model: nn.Module, name: str, conv: SearchConv, file: StructureFile) -> None:
    """Raise ValueError unless mmcv's operator computes what a searched conv does."""
    plain = cast(Conv, conv)
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"layer {name!r} is no Conv2d, and mmcv's operator knows no other")
    check_branched(name, plain)
    if sum(module is conv for _, module in model.named_modules(remove_duplicate=False)) > 1:
        raise ValueError(f"layer {name!r} is used under two names, which mmcv's tools make two convs of")
    if conv.rule != "paper":
        raise ValueError(
            f"layer {name!r} has probabilities by rule {conv.rule!r}, and mmcv's operator has rule 'paper'; save the "
            "network retrained as plain convs, or search by LocalConfig(rule='paper')"
        )
    if not _is_padded_alike(plain):
        raise ValueError(
            f"layer {name!r} has padding {plain.padding}, and mmcv's operator would pad by "
            f"{operator_padding(plain, tuple(plain.dilation))}; leave the layer out of the search, by `where`"
        )
    branches = file.branches(tuple(plain.dilation), plain.kernel_size)
    if branches != list(conv.dilations) or conv.branch_weight.numel() != file.entries:
        raise ValueError(
            f"layer {name!r} has the branches {list(conv.dilations)}, and mmcv's operator would have {branches} by "
            "these settings; give the LocalConfig that they were made by"
        )


def _split(key: str, convs: dict[str, Any]) -> tuple[str, str]:
    """The name of the conv that an entry belongs to, or "", and the rest of the key."""
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (layer := ".".join(parts[:end])) in convs:
            return layer, ".".join(parts[end:])
    return "", key
