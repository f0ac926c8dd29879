"""The commands `plan`, `show`, `apply`, `merge`, `export` and `convert`; each returns what is printed."""

import importlib.util
import io
import logging
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rfnext.cli.networks import build, open_checkpoint, opened, save
from rfnext.convs.searchable import everything, plain_class
from rfnext.dilation import Bounds, brief
from rfnext.files import write_bytes
from rfnext.merging import merge
from rfnext.planning import plan
from rfnext.published.opening import open_published
from rfnext.published.saving import in_structure_file, save_published
from rfnext.search.local_config import LocalConfig
from rfnext.search.one_shot import OneShotConfig
from rfnext.structure import Structure, named_convs, searched_convs
from rfnext.table import aligned

log = logging.getLogger(__name__)

_LARGEST_ONNX = 2_000_000_000
"""Bytes of weights. Protocol buffers end at 2 GiB, which has to hold the graph, too."""


def run_plan(given: Namespace) -> str:
    """What a search would do with a network."""
    model = build(given.network, given.arguments)
    config = OneShotConfig(tuple(given.candidates)) if given.candidates else _local(given)
    with _example(given.input) as example:
        return str(plan(model, given.where or everything, config, example, given.anchor))


@contextmanager
def _example(shape: Sequence[int] | None) -> Iterator[Tensor | None]:
    """A random input of this shape, if any; that the network fails on it is said in one line."""
    try:
        yield None if shape is None else torch.zeros(shape).normal_()
    except (AssertionError, LookupError, RuntimeError) as error:
        text = ",".join(map(str, shape or ()))
        raise ValueError(f"--input {text}: the network fails on it: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _local(given: Namespace, rule: str = "default") -> LocalConfig:
    bounds = Bounds(given.smallest, given.largest)
    return LocalConfig(branches=given.branches, spread=given.spread, bounds=bounds, rule=rule)  # type: ignore[arg-type]


def run_show(given: Namespace) -> str:
    """The dilations and anchors of a structure file."""
    structure = Structure.load(given.structure)
    anchors = structure.anchors
    rows = [[name, brief(dilation), str(anchors.get(name, "centre"))] for name, dilation in structure.items()]
    return f"{given.structure}: {len(structure)} layers\n{aligned(['layer', 'dilation', 'anchor'], rows)}"


def run_apply(given: Namespace) -> str:
    """Apply a structure to a network, and say what changes."""
    structure = Structure.load(given.structure)
    model = build(given.network, given.arguments)
    before = {name: tuple(conv.dilation) for name, conv in named_convs(model).items()}
    if given.checkpoint is not None:
        open_checkpoint(model, given.checkpoint)
    matched = {name: dilation for name, _, dilation in structure.match(model)}
    structure.apply(model)
    changed = [[n, brief(before[n]), brief(d)] for n, d in matched.items() if d != before[n]]
    parts = [f"{len(changed)} of {len(structure)} layers get another dilation"]
    if changed:
        parts.append(aligned(["layer", "designed", "now"], changed))
    if given.output is not None:
        save(model, given.output)
        parts.append(written(given.output))
    return "\n".join(parts)


def written(path: Path) -> str:
    """How a file of ours is opened."""
    return (
        f"{path} is written; open it by file = torch.load({str(path)!r}) and "
        'rfnext.description.restore(fresh_model, file["convs"], file["state_dict"])'
    )


def run_merge(given: Namespace) -> str:
    """Merge the branches of a checkpoint into plain convs."""
    model = build(given.network, given.arguments)
    open_checkpoint(model, given.checkpoint)
    designed = {name: tuple(conv.kernel_size) for name, conv in searched_convs(model).items()}  # type: ignore[arg-type]
    merge(model)
    convs = named_convs(model)
    rows = [
        [name, brief(kernel), brief(tuple(convs[name].kernel_size)), brief(tuple(convs[name].dilation))]
        for name, kernel in designed.items()
    ]
    save(model, given.output)
    return "\n".join([aligned(["layer", "kernel", "merged", "dilation"], rows), written(given.output)])


def run_export(given: Namespace) -> str:
    """Export a network as a file that needs no rfnext."""
    suffix = given.output.suffix
    if suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--output {given.output} must end in .pt2 (torch.export) or .onnx")
    if suffix == ".onnx" and importlib.util.find_spec("onnxscript") is None:
        raise ValueError("export to ONNX needs pip install onnx onnxscript")
    model = opened(given.network, given.arguments, given.checkpoint, given.structure)
    if suffix == ".onnx" and _size_of_weights(model) > _LARGEST_ONNX:
        raise ValueError("an .onnx file holds at most 2 GB, and the weights are more; --output NAME.pt2 holds them")
    with _example(given.input) as example, torch.no_grad():
        output = model(example)
    values = [one for one in tree_leaves(output) if isinstance(one, Tensor)]
    if not all(bool(one.isfinite().all()) for one in values):
        log.warning("the network gives NaN or infinities on a random input of this shape, and so will %s", given.output)
    with _recording(given.output):
        data = (_onnx if suffix == ".onnx" else _pt2)(model, example)
    write_bytes(given.output, data)
    return f"{given.output} is written, for inputs of shape {tuple(given.input)}"


@contextmanager
def _recording(path: Path) -> Iterator[None]:
    """That torch cannot record the network is said in one line: by what it found, not by its pages about that."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # of any kind: torch's converters have classes of their own
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        raise ValueError(f"torch cannot record the network for {path}: {_first_line(cause)}") from error
    finally:
        logging.disable(disabled)


def _pt2(model: nn.Module, example: Tensor | None) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (example,)), buffer)
    return buffer.getvalue()


def _onnx(model: nn.Module, example: Tensor | None) -> bytes:
    """All in one: torch itself would put the weights into a second file."""
    program = torch.onnx.export(model, (example,), dynamo=True, verbose=False)
    assert program is not None  # as torch returns without dynamo
    return program.model_proto.SerializeToString()


def _size_of_weights(model: nn.Module) -> int:
    """Bytes; tied weights are in a file once."""
    return sum({t.data_ptr(): t.nbytes for t in model.state_dict().values() if isinstance(t, Tensor)}.values())


def run_convert(given: Namespace) -> str:
    """Make a checkpoint of the published code one of ours, or the other way round."""
    model = build(given.network, given.arguments)
    if given.to == "published":
        designed = {name: tuple(conv.dilation) for name, conv in named_convs(model).items()}
        open_checkpoint(model, given.checkpoint)
        _check_others(model, designed)
        config = _local(given, "paper") if searched_convs(model) else None
        save_published(model, given.output, given.output_structure, config)
        return f"{given.output} and {given.output_structure} are written for mmcv's tools"
    open_published(model, given.checkpoint, given.structure)
    save(model, given.output)
    _structure_of(model).save(given.output_structure)
    return f"{written(given.output)}\n{given.output_structure} is its structure"


def _check_others(model: nn.Module, designed: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError if a dilation changed in a conv that mmcv's tools leave as it is designed."""
    kept = named_convs(model).keys() - in_structure_file(model).keys()
    for name, conv in named_convs(model).items():
        if name in kept and tuple(conv.dilation) != designed[name]:
            raise ValueError(
                f"layer {name!r}, a {plain_class(conv).__name__} of kernel {tuple(conv.kernel_size)} and padding "
                f"{conv.padding}, has dilation {tuple(conv.dilation)} and is designed with {designed[name]}; mmcv's "
                "tools would build it as designed: they change only Conv2d with an odd kernel above 1 and the padding "
                "of zeros that keeps the size, and where layers have branches, these alone"
            )


def _structure_of(model: nn.Module) -> Structure:
    """The centres of searched convs, or else the dilations of all that could be searched."""
    searched = searched_convs(model)
    return Structure.of(searched) if searched else Structure.read(model)  # type: ignore[arg-type]
