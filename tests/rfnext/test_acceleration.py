"""Plain convs by the kernels of searched ones: what torch computes, without a trace on the network."""

import copy
import pickle
from typing import Any, cast

import pytest
import torch
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.nn.utils import prune

import rfnext
from rfnext.acceleration import Accelerated, _one
from rfnext.receptive_field import multiply_adds
from tests.rfnext.ops.cases import NATIVE


class Twice(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def network() -> nn.Sequential:
    """Depthwise, strided, grouped, cropped by "valid", and three convs that are left out."""
    torch.manual_seed(0)
    parametrised = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", dilation=2),
        nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, stride=2, groups=2, bias=False),
        nn.Conv2d(16, 8, 1),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        Twice(8, 8, 3, padding=1),
        parametrised,
    ).double()


TAKEN = ["0", "1", "3", "4"]


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])]


@pytest.mark.parametrize("implementation", ["taps", *NATIVE])
def test_outputs_and_gradients_are_torchs_and_the_network_stays_as_it_is(implementation: str) -> None:
    model = network()
    plain, classes = copy.deepcopy(model), [type(module) for module in model.modules()]
    x = torch.randn(2, 3, 20, 18, dtype=torch.float64, requires_grad=True)
    assert rfnext.accelerate(model) == TAKEN
    assert [name for name, m in model.named_modules() if isinstance(m, Accelerated)] == TAKEN
    with rfnext.pin_implementation(implementation):
        found = results(model, x)
        torch.testing.assert_close(found, results(plain, x), rtol=1e-10, atol=1e-10)
        assert not torch.equal(found[0], plain(x))  # the kernels round otherwise, so they were used
        second = [torch.autograd.grad(m(x).square().sum(), m[1].weight, create_graph=True)[0] for m in (model, plain)]
        second = [torch.autograd.grad(s.square().sum(), x)[0] for s in second]
        torch.testing.assert_close(*second, rtol=1e-8, atol=1e-8)
        model[0].dilation, model[0].stride = (1, 1), (2, 1)  # what changes is followed
        model[0].padding = plain[0].padding = (1, 1)
        plain[0].dilation, plain[0].stride = (1, 1), (2, 1)
        torch.testing.assert_close(model(x), plain(x), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(copy.deepcopy(model)(x), model(x), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert list(model.state_dict()) == list(plain.state_dict())
    rfnext.decelerate(model)
    assert [type(module) for module in model.modules()] == classes
    assert torch.equal(model(x), plain(x))


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:`torch.jit.script")
def test_inference_before_training_other_types_and_what_looks_at_a_network() -> None:
    conv = nn.Conv1d(8, 8, 3, padding=1, groups=8)
    plain, x = copy.deepcopy(conv), torch.randn(2, 8, 9, requires_grad=True)
    rfnext.accelerate(conv)
    with rfnext.pin_implementation("taps"):
        _one.cache_clear()
        with torch.inference_mode():
            conv(x)
        for mine, torchs in zip(results(cast(Any, conv), x), results(cast(Any, plain), x), strict=True):
            torch.testing.assert_close(mine, torchs)
        assert multiply_adds(conv, x) == 2 * 8 * 9 * 3
        jacobians = [torch.autograd.functional.jacobian(m, x, vectorize=True) for m in (conv, plain)]
        torch.testing.assert_close(*jacobians)
        with forward_ad.dual_level():
            tangents = [forward_ad.unpack_dual(m(forward_ad.make_dual(x, x.detach()))).tangent for m in (conv, plain)]
            assert torch.equal(*tangents)
        conv.bias = nn.Parameter(torch.zeros(3))
        with pytest.raises(RuntimeError, match="bias"):
            conv(x)
        numbers = nn.Conv1d(8, 8, 3, padding=1, dtype=torch.complex64)
        plain, x = copy.deepcopy(numbers), torch.randn(2, 8, 9, dtype=torch.complex64, requires_grad=True)
        rfnext.accelerate(numbers)
        gradients = [torch.autograd.grad(m(x).abs().sum(), [x, m.weight]) for m in (numbers, plain)]
        torch.testing.assert_close(*gradients)
    left_out = nn.Sequential(prune.random_unstructured(nn.Conv1d(2, 2, 1), "weight", 0.5), nn.LazyConv1d(2, 1))
    assert rfnext.accelerate(left_out) == []


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning", "ignore:`torch.jit.trace:DeprecationWarning")
def test_where_picks_and_copies_and_graphs_are_of_torchs_convs() -> None:
    model = network()[:5]
    assert rfnext.accelerate(model, ["1", "3"]) == ["1", "3"]
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    y = model(x)
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    torch.testing.assert_close(again(x), y, rtol=1e-10, atol=1e-10)
    assert [node.op for node in fx.symbolic_trace(model).graph.nodes].count("call_module") == 5
    torch.testing.assert_close(torch.jit.trace(model, x)(x), y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(x[0]), y[0], rtol=1e-10, atol=1e-10)
    with pytest.raises(RuntimeError, match="channels"):
        model(x[:, :2])
    with pytest.raises(ValueError, match="matches no conv"):
        rfnext.accelerate(model, "9")


def test_a_search_takes_accelerated_convs_over() -> None:
    model = network()[:3]
    rfnext.accelerate(model)
    search = rfnext.LocalSearch(model, rfnext.LocalConfig(bounds=rfnext.Bounds(1, 4)))
    assert len(search.structure()) == 2
    model(torch.randn(1, 3, 16, 16, dtype=torch.float64)).sum().backward()
    search.structure().apply(model)
    assert type(cast(nn.Module, model[1])) is nn.Conv2d
