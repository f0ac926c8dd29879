"""Convs that convolve in a forward() of their own, compared with torch's convolution called once per branch."""

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfnext
from rfnext.convs.conv import SearchConv
from rfnext.convs.searchable import unsearchable
from rfnext.convs.set_dilation import set_dilation
from rfnext.convs.take_over import release, take_over
from rfnext.receptive_field import multiply_adds

SHARES = [0.5, 0.2, 0.3]
SIZES = [(17, 20), (24, 13)]


def same(x: Tensor, kernel: tuple[int, ...], stride: int, dilation: tuple[int, ...]) -> Tensor:
    """x padded as TensorFlow's "same" does: n // stride outputs, rounded up, the odd one of the padding behind."""
    sides: list[int] = []
    for n, k, d in zip(x.shape[2:], kernel, dilation, strict=True):
        total = max((math.ceil(n / stride) - 1) * stride + (k - 1) * d + 1 - n, 0)
        sides = [total // 2, total - total // 2, *sides]
    return F.pad(x, sides)


def standardised(weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Every filter with mean 0 and variance 1."""
    flat = weight.flatten(1)
    variance, mean = torch.var_mean(flat, 1, correction=0, keepdim=True)
    return ((flat - mean) / (variance + eps).sqrt()).view_as(weight)


def scaled(conv: Any) -> Tensor:
    """Standardised filters, times a learnt gain and 1 / sqrt(fan-in)."""
    return standardised(conv.weight) * conv.gain * conv.weight[0].numel() ** -0.5


class Dynamic(nn.Conv2d):
    """As EfficientNet's and segmentation-models' ports from TensorFlow, pads by its dilation and its input's size."""

    def forward(self, input: Tensor) -> Tensor:
        padded = same(input, self.kernel_size, self.stride[0], self.dilation)
        return F.conv2d(padded, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Static(nn.Conv2d):
    """Pads by an amount that is computed once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        d, k = self.dilation[0], self.kernel_size[0]
        self.pad = nn.ZeroPad2d(d * (k - 1) // 2)

    def forward(self, input: Tensor) -> Tensor:
        x = self.pad(input)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class OwnMethod(nn.Conv2d):
    """Computes its weight in an own _conv_forward()."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight.tanh(), bias)


def timm_layer(name: str) -> Callable[..., nn.Conv2d]:
    def make(*args: Any, **kwargs: Any) -> nn.Conv2d:
        layers = pytest.importorskip("timm.layers")
        conv = getattr(layers, name, None) or getattr(pytest.importorskip("timm.layers.std_conv"), name)
        return conv(*args, **kwargs)

    return make


def plain_sides(x: Tensor, stride: int, d: tuple[int, int]) -> Tensor:
    """x padded on both sides by as much as dilation d needs, for a kernel of 3 that is designed with this stride."""
    before = [(stride - 1 + 2) // 2 - 1 + e for e in d]
    return F.pad(x, (before[1], before[1], before[0], before[0]))


def by_same(x: Tensor, stride: int, d: tuple[int, int]) -> Tensor:
    return same(x, (3, 3), stride, d)


def by_one_side(x: Tensor, stride: int, d: tuple[int, int]) -> Tensor:
    return F.pad(x, (d[1], d[1], d[0], d[0]))


def kept(conv: Any) -> Tensor:
    return conv.weight


KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[[Any], Tensor], Callable[..., Tensor]]] = {
    "timm's StdConv2d": (timm_layer("StdConv2d"), {}, lambda c: standardised(c.weight), plain_sides),
    "timm's ScaledStdConv2d": (timm_layer("ScaledStdConv2d"), {}, scaled, plain_sides),
    "timm's StdConv2dSame": (timm_layer("StdConv2dSame"), {}, lambda c: standardised(c.weight), by_same),
    "timm's ScaledStdConv2dSame": (timm_layer("ScaledStdConv2dSame"), {}, scaled, by_same),
    "timm's Conv2dSame": (timm_layer("Conv2dSame"), {}, kept, by_same),
    "padded by the input's size": (Dynamic, {}, kept, by_same),
    "padded by a fixed amount": (Static, {}, kept, by_one_side),
    "an own _conv_forward()": (OwnMethod, {"padding": 1}, lambda c: c.weight.tanh(), by_one_side),
}


def make(kind: str, stride: int, groups: int = 1) -> nn.Conv2d:
    build, arguments, _, _ = KINDS[kind]
    torch.manual_seed(0)
    conv = build(4, 6, 3, stride=stride, groups=groups, bias=True, **arguments).double()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return conv


def set_shares(conv: Any) -> None:
    with torch.no_grad():
        conv.branch_weight.copy_(0.01 * torch.tensor(SHARES, dtype=torch.float64).log())


def rebuilt(kind: str, conv: Any, x: Tensor, shares: Tensor, branches: list[tuple[int, int]]) -> Tensor:
    """sum_i p_i conv(pad(x, d_i), W, d_i), by torch's convolution alone."""
    _, _, weight, pad = KINDS[kind]
    each = [
        share * F.conv2d(pad(x, conv.stride[0], d), weight(conv), conv.bias, conv.stride, 0, d, conv.groups)
        for share, d in zip(shares, branches, strict=True)
    ]
    return torch.stack(each).sum(0)


@pytest.mark.defect(20)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_a_rebuild(kind: str, stride: int) -> None:
    branches = [(1, 1), (2, 3), (4, 2)]
    for size in SIZES:
        shares = torch.tensor(SHARES, dtype=torch.float64, requires_grad=True)
        conv = make(kind, stride, groups=2)
        plain = copy.deepcopy(conv)
        assert unsearchable(conv) is None
        take_over(conv, branches)
        set_shares(conv)
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = conv(found)
        torch.testing.assert_close(y, reference := rebuilt(kind, plain, expected, shares, branches))
        y.square().sum().backward()
        reference.square().sum().backward()
        torch.testing.assert_close(found.grad, expected.grad)
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(conv.get_parameter(name).grad, parameter.grad)
        p = shares.detach()
        assert shares.grad is not None
        through_softmax = p * (shares.grad - (p * shares.grad).sum()) / 0.01
        torch.testing.assert_close(cast(Any, conv).branch_weight.grad, through_softmax)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_centre_moves_and_the_conv_becomes_plain_at_any_dilation(kind: str, stride: int) -> None:
    conv, x = make(kind, stride), torch.randn(2, 4, 17, 20, dtype=torch.float64)
    for centre in [(3, 3), (2, 4), (1, 1)]:
        take_over(conv, [(2, 2), (1, 3)])
        set_dilation(conv, centre)
        moved = conv(x)
        torch.testing.assert_close(moved, rebuilt(kind, conv, x, torch.full((2,), 0.5), [(2, 2), (1, 3)]))
        release(cast(SearchConv, conv))
        torch.testing.assert_close(conv(x), rebuilt(kind, conv, x, torch.ones(1), [centre]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_resumes_copies_and_exports(kind: str) -> None:
    def searched() -> tuple[nn.Module, rfnext.LocalSearch]:
        model = nn.Sequential(make(kind, 1)).eval()
        return model, rfnext.LocalSearch(model, rfnext.LocalConfig(interval=1))

    model, search = searched()
    set_shares_of(model)
    search.after_step()
    set_shares_of(model)
    other, _ = searched()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 4, 17, 20, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(other(x), expected)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), expected)
    fresh = nn.Sequential(make(kind, 1)).eval()
    search.structure().apply(fresh)
    assert multiply_adds(model, x) == multiply_adds(fresh, x)
    search.structure().apply(model)
    torch.testing.assert_close(model(x), fresh(x))


def set_shares_of(model: nn.Module) -> None:
    for conv in model.modules():
        if isinstance(conv, SearchConv):
            with torch.no_grad():
                conv.branch_weight.copy_(0.01 * torch.arange(1, len(conv.branch_weight) + 1))


MERGED = ["timm's StdConv2d", "timm's ScaledStdConv2d", "timm's Conv2dSame", "padded by the input's size"]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [*MERGED, "padded by a fixed amount", "an own _conv_forward()"])
def test_branches_merge_into_one_kernel(kind: str, stride: int) -> None:
    model = nn.Sequential(make(kind, stride)).eval()
    take_over(cast(Any, model[0]), [(1, 1), (2, 3)])
    set_shares_of(model)
    x = torch.randn(2, 4, 17, 20, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        rfnext.merge(model)
        torch.testing.assert_close(model(x), expected)


def test_a_class_that_pads_and_transforms_its_weight_keeps_its_branches() -> None:
    model = nn.Sequential(make("timm's StdConv2dSame", 2))
    take_over(cast(Any, model[0]), [(1, 1), (2, 3)])
    with pytest.raises(ValueError, match="layer '0'.*keep the branches"):
        rfnext.merge(model)


# What is refused


class CausalByItself(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        padded = F.pad(input, ((self.kernel_size[0] - 1) * self.dilation[0], 0))
        return F.conv1d(padded, self.weight, self.bias, 1, 0, self.dilation)


class Reflecting(nn.Conv1d):
    """Branches would continue its padding by zeros."""

    def forward(self, input: Tensor) -> Tensor:
        d = self.dilation[0]
        return F.conv1d(F.pad(input, (d, d), "reflect"), self.weight, self.bias, 1, 0, self.dilation)


@pytest.mark.parametrize("kind", [CausalByItself, Reflecting])
def test_a_class_that_pads_otherwise_is_refused(kind: type[nn.Conv1d]) -> None:
    assert "pads or crops there by itself" in (unsearchable(kind(2, 2, 3)) or "")


def test_a_causal_class_is_searched_at_its_last_tap() -> None:
    conv, x = CausalByItself(2, 3, 3).double(), torch.randn(1, 2, 20, dtype=torch.float64)
    weight, bias = conv.weight, conv.bias
    take_over(conv, [(1,), (4,)], anchor="last")
    each = [F.conv1d(F.pad(x, (2 * d, 0)), weight, bias, dilation=d) for d in (1, 4)]
    torch.testing.assert_close(conv(x), (each[0] + each[1]) / 2)


class SometimesByProducts(nn.Conv1d):
    """Computes long inputs otherwise, which no trial on short ones shows."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] > 100:
            return input
        return F.conv1d(input, self.weight, self.bias, 1, self.padding, self.dilation)


def test_a_forward_that_leaves_its_branches_out_is_an_error() -> None:
    conv = SometimesByProducts(2, 2, 3, padding=1)
    take_over(conv, [(1,), (2,)])
    conv(torch.randn(1, 2, 30))
    with pytest.raises(RuntimeError, match="SometimesByProducts asked torch for 0 convolutions"):
        conv(torch.randn(1, 2, 101))
