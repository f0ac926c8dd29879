"""Searched networks as graphs: torch.jit.trace, torch.export, torch.onnx, torch.fx, tensorboard, torch.func."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext.structure import searched_convs
from tests.rfnext.networks import CONFIG, favour_the_widest, network

jit_is_deprecated = pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning"
)


def searched(padding_mode: str = "zeros") -> nn.Module:
    """A network in the middle of a search, of unlike dilations and branch weights."""
    model = network(padding_mode)
    search = rfnext.LocalSearch(model, CONFIG)
    favour_the_widest(model)
    search.after_step()
    favour_the_widest(model)
    return model.eval()


def images(batch: int = 2, size: int = 20) -> Tensor:
    return torch.randn(batch, 3, size, size + 1, generator=torch.Generator().manual_seed(size))


def by_jit(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    return cast(nn.Module, torch.jit.trace(model, x))


def by_export(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    free = torch.export.Dim.AUTO
    return torch.export.export(model, (x,), dynamic_shapes=({0: free, 2: free, 3: free},)).module()


def by_fx(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.fx.symbolic_trace(model)


def by_onnx(dynamo: bool) -> Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]:
    def export(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        runtime = pytest.importorskip("onnxruntime")
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporters about themselves
            torch.onnx.export(model, (x,), cast(Any, file), dynamo=dynamo, verbose=False)
        session = runtime.InferenceSession(file.getvalue())
        return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])

    return export


RECORDERS = {"jit": by_jit, "export": by_export, "fx": by_fx, "onnx": by_onnx(True), "older onnx": by_onnx(False)}


@pytest.mark.parametrize("recorder", RECORDERS)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.filterwarnings(
    "ignore:Converting a tensor to a Python boolean"
)  # by reflection, whose graph is for one size
@jit_is_deprecated
def test_a_recorded_network_computes_what_the_searched_one_does(recorder: str, padding_mode: str) -> None:
    model, x = searched(padding_mode), images()
    with rfnext.pin_implementation("taps"):  # which no recorder can store, so it must not count
        recorded = RECORDERS[recorder](model, x)
        with torch.no_grad():
            expected = model(x)
            torch.testing.assert_close(recorded(x).detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recorder", ["jit", "export", "fx"])
@jit_is_deprecated
def test_a_recorded_network_takes_other_sizes(recorder: str) -> None:
    model, other = searched(), images(batch=3, size=27)
    recorded = RECORDERS[recorder](model, images())
    with torch.no_grad():
        torch.testing.assert_close(recorded(other), model(other), rtol=1e-5, atol=1e-6)


def test_a_graph_of_fx_goes_on_with_the_search() -> None:
    """It holds the same convs, so a round is its round."""
    model = searched()
    recorded, x = torch.fx.symbolic_trace(model), images()
    for conv in searched_convs(model).values():
        conv.set_branches(conv.dilations[:1])
    with torch.no_grad():
        assert torch.equal(recorded(x), model(x))


@jit_is_deprecated
def test_tensorboard_draws_the_graph(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(searched(), images())
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("pinned", [None, "taps"])
def test_transforms_of_torch_func(pinned: str | None) -> None:
    model, x = searched(), images()
    loss = model(x).square().mean()
    loss.backward()
    parameters = dict(model.named_parameters())
    with rfnext.pin_implementation(pinned):
        gradients = torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).square().mean())(parameters)
        both = torch.func.vmap(model)(torch.stack([x, 2 * x]))
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(both[1], model(2 * x), rtol=1e-5, atol=1e-6)


@jit_is_deprecated
def test_scripting_says_what_to_script_instead() -> None:
    model = searched()
    with pytest.raises(TypeError, match=r"cannot compile a searched conv: SearchConv2d\(3, 4, .*: apply the structure"):
        torch.jit.script(model)
    rfnext.merge(model)
    torch.testing.assert_close(torch.jit.script(model)(images()), model(images()))


@jit_is_deprecated
def test_scripting_an_accelerated_network_says_how_to_undo_it() -> None:
    model = nn.Sequential(nn.Conv1d(8, 8, 3, groups=8))
    rfnext.accelerate(model)
    with pytest.raises(TypeError, match=r"AcceleratedConv1d\(8, 8, .*: call rfnext.decelerate\(model\) first"):
        torch.jit.script(model)
    rfnext.decelerate(model)
    x = torch.randn(1, 8, 9)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
