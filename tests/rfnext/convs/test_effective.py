"""Merging convs whose class hands another weight to the convolution than the one that it keeps.

The reference is the definition: the sum over branches of torch's conv with the weight that the class makes.
"""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.qat import Conv2d as QuantisationAware
from torch.ao.quantization import get_default_qat_qconfig
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import rfnext
from rfnext.convs.conv import SearchConv
from rfnext.structure import searched_convs
from tests.no_float64 import NoFloat64

Make = Callable[[], nn.Conv2d]


class Standardised(nn.Conv2d):
    def made(self, w: Tensor) -> Tensor:
        return w - w.mean((1, 2, 3), keepdim=True)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.made(self.weight), self.bias)


class Centred(Standardised):
    """Zero where the kernel's centre is, by a mask of the weight's shape: a blind spot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mask = nn.Buffer(torch.ones_like(self.weight))
        self.mask[..., 1, 1] = 0

    def made(self, w: Tensor) -> Tensor:
        return w * self.mask


class InPlaceMasked(Centred):
    """PixelCNN's: writes to its weight in forward()."""

    def forward(self, input: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super(Standardised, self).forward(input)


class Binary(Standardised):
    def made(self, w: Tensor) -> Tensor:
        return w.sign() * w.abs().mean((1, 2, 3), keepdim=True)


class LowRank(Standardised):
    """A frozen weight with a trainable addition of rank 2, as in LoRA."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.down = nn.Parameter(torch.randn(2, self.weight[0].numel()))
        self.up = nn.Parameter(torch.randn(len(self.weight), 2))
        self.weight.requires_grad_(False)

    def made(self, w: Tensor) -> Tensor:
        return w + 0.1 * (self.up @ self.down).view_as(w)


class WeightAndBias(Standardised):
    """Scales its bias, too, and drops a part of its weight in training."""

    def forward(self, input: Tensor) -> Tensor:
        assert self.bias is not None
        return self._conv_forward(input, F.dropout(self.made(self.weight), 0.5, self.training), 3 * self.bias)


def of(kind: type[nn.Conv2d], **settings: Any) -> Make:
    given: dict[str, Any] = {"padding": 1} | settings
    return lambda: kind(4, 6, 3, **given)


def quantised() -> nn.Conv2d:
    conv = QuantisationAware(4, 6, 3, padding=1, qconfig=get_default_qat_qconfig("fbgemm"))
    conv(torch.randn(1, 4, 9, 9))  # its observers see a weight
    return conv


def made_by_class(conv: Any) -> Tensor:
    return conv.made(conv.weight)


TRANSFORMING: dict[str, tuple[Make, Callable[[Any], Tensor]]] = {
    "standardised": (of(Standardised), made_by_class),
    "strided": (of(Standardised, stride=2, padding=0, bias=False), made_by_class),
    "reflecting": (of(Standardised, padding_mode="reflect"), made_by_class),
    "masked": (of(Centred), made_by_class),
    "masked in place": (of(InPlaceMasked), made_by_class),
    "binary": (of(Binary), made_by_class),
    "low rank": (of(LowRank), made_by_class),
    "bias": (of(WeightAndBias), made_by_class),
    "quantisation-aware": (quantised, lambda conv: conv.weight_fake_quant(conv.weight)),
}


def by_definition(conv: Any, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """sum_i p_i conv(x, weight, d_i), each branch padded so that the kernel's centre stays where it is."""
    share = torch.softmax(conv.branch_weight.detach() / 0.01, 0)
    total: Any = 0
    for p, (d, _) in zip(share, conv.dilations, strict=True):
        side = conv.padding[0] + d - conv.dilation[0]
        padded = F.pad(x, (side,) * 4, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
        total = total + p * F.conv2d(padded, weight, bias, conv.stride, 0, d)
    return total


def searched(make: Make) -> tuple[nn.Sequential, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(make()).eval()
    rfnext.LocalSearch(model, rfnext.LocalConfig(branches=3, bounds=rfnext.Bounds(1, 4)))
    conv = cast(SearchConv, model[0])
    conv.set_branches([(1, 1), (2, 2), (3, 3)])
    with torch.no_grad():
        conv.branch_weight.copy_(torch.tensor([0.01, 0.0, 0.015]))
    return model, conv


@pytest.mark.parametrize("kind", TRANSFORMING)
def test_a_class_that_transforms_its_weight_merges_into_torchs_conv_with_the_weight_that_it_makes(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, made = TRANSFORMING[kind]
    model, conv = searched(make)
    x = torch.randn(2, 4, 15, 13)
    with torch.no_grad():
        bias = 3 * conv.bias if kind == "bias" else conv.bias
        expected = by_definition(conv, made(conv), bias, x)
        torch.testing.assert_close(model(x), expected)
        rfnext.merge(model.train())
        torch.testing.assert_close(model.eval()(x), expected)
        torch.testing.assert_close(model.train()(x), expected)
    assert type(model[0]) is nn.Conv2d
    assert set(model.state_dict()) == ({"0.weight"} if bias is None else {"0.weight", "0.bias"})
    assert "becomes a Conv2d" in caplog.text
    assert all(p.requires_grad for p in model.parameters())


def test_on_a_device_without_float64() -> None:
    model, conv = searched(lambda: Standardised(4, 6, 3, padding=1))
    x = torch.randn(2, 4, 15, 13)
    with torch.no_grad():
        expected = by_definition(conv, conv.made(conv.weight), conv.bias, x)
        with NoFloat64():
            rfnext.merge(model)
        torch.testing.assert_close(model(x), expected)
    assert type(model[0]) is nn.Conv2d


def test_a_merged_conv_trains_as_torchs_conv() -> None:
    model, _ = searched(of(Standardised))
    rfnext.merge(model)
    x = torch.randn(2, 4, 9, 9)
    conv: Any = model[0]
    weight = conv.weight.detach().clone()
    model(x).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    changed = conv.weight.detach() - weight
    torch.testing.assert_close(changed, -conv.weight.grad)
    assert changed.mean((1, 2, 3)).abs().max() > 1e-4  # no longer standardised


# Classes that keep


class Equalised(nn.Conv2d):
    """Equalised learning rate: one factor, which merging does not change."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * (2 / 36) ** 0.5, self.bias)


class Activated(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, 0.5, self.training)).relu()


@pytest.mark.parametrize("kind", [Equalised, Activated])
def test_a_class_that_treats_the_merged_kernel_alike_is_kept(kind: type[nn.Conv2d]) -> None:
    model, conv = searched(of(kind))
    x = torch.randn(2, 4, 15, 13)
    with torch.no_grad():
        if kind is Equalised:
            expected = by_definition(conv, conv.weight * (2 / 36) ** 0.5, conv.bias, x)
        else:
            expected = by_definition(conv, conv.weight, conv.bias, x).relu()
        rfnext.merge(model)
        torch.testing.assert_close(model(x), expected)
    assert type(model[0]) is kind


# Classes that cannot be merged


class StandardisedAndActivated(Standardised):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class TernaryInput(Binary):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.sign())


class NormedInTraining(Standardised):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input / input.norm() if self.training else input)


@pytest.mark.parametrize("kind", [StandardisedAndActivated, TernaryInput, NormedInTraining])
def test_a_class_that_does_more_is_named_and_nothing_is_changed(kind: type[nn.Conv2d]) -> None:
    model, conv = searched(of(kind))
    x = torch.randn(1, 4, 9, 9)
    expected = model(x)
    with pytest.raises(ValueError, match=f"layer '0': {kind.__name__} makes another weight of the merged kernel"):
        rfnext.merge(model)
    assert searched_convs(model) == {"0": conv}
    assert torch.equal(model(x), expected)


class OfItsInput(Standardised):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.made(self.weight) * input.std(), self.bias)


class Noisy(Standardised):
    """A weight of chance, in evaluation, too."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.made(self.weight) + torch.randn_like(self.weight), self.bias)


@pytest.mark.parametrize("kind", [OfItsInput, Noisy])
def test_a_weight_that_is_another_in_every_call_is_named(kind: type[nn.Conv2d]) -> None:
    model, conv = searched(of(kind))
    with pytest.raises(ValueError, match=f"layer '0': {kind.__name__} makes .* depends on the input or on chance"):
        rfnext.merge(model)
    assert searched_convs(model) == {"0": conv}


class Gated(nn.Conv2d):
    """A factor of its input, which a larger kernel takes as well."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight * input.std(), self.bias)


def test_a_factor_of_the_input_is_kept() -> None:
    model, conv = searched(of(Gated))
    x = torch.randn(2, 4, 15, 13)
    with torch.no_grad():
        expected = by_definition(conv, conv.weight * x.std(), conv.bias, x)
        rfnext.merge(model)
        torch.testing.assert_close(model(x), expected)
    assert type(model[0]) is Gated


def test_a_forward_that_was_replaced_on_the_conv_itself_is_named() -> None:
    model, conv = searched(of(nn.Conv2d))
    conv.forward = lambda x: conv._conv_forward(x, conv.weight - conv.weight.mean(), conv.bias)
    with pytest.raises(ValueError, match=r"layer '0': its forward\(\) was replaced on the conv itself"):
        rfnext.merge(model)
    del conv.forward
    rfnext.merge(model)
    other: Any = nn.Conv2d(4, 6, 3)
    other._conv_forward = lambda x, w, b: nn.Conv2d._conv_forward(other, x, w - w.mean(), b)
    with pytest.raises(ValueError, match=r"its _conv_forward\(\) was replaced on the conv itself"):
        rfnext.LocalSearch(nn.Sequential(other), rfnext.LocalConfig())


# Parametrisations


class Standardise(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w - w.mean((1, 2, 3), keepdim=True)


def with_parametrisation(parametrisation: nn.Module) -> nn.Conv2d:
    conv = nn.Conv2d(4, 6, 3, padding=1)
    parametrize.register_parametrization(conv, "weight", parametrisation)
    return conv


PARAMETRISED: dict[str, Make] = {
    "standardised": lambda: with_parametrisation(Standardise()),
    "dropped in training": lambda: with_parametrisation(nn.Dropout(0.5)),
    "orthogonal": lambda: cast(nn.Conv2d, parametrizations.orthogonal(nn.Conv2d(4, 6, 3, padding=1))),
    "weight_norm": lambda: cast(nn.Conv2d, parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1))),
    "spectral_norm": lambda: cast(nn.Conv2d, parametrizations.spectral_norm(nn.Conv2d(4, 6, 3, padding=1))),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", PARAMETRISED)
def test_parametrisations_are_folded_in_as_they_are_in_evaluation(kind: str, training: bool) -> None:
    model, conv = searched(PARAMETRISED[kind])
    x = torch.randn(2, 4, 15, 13)
    with torch.no_grad():
        expected = by_definition(conv, conv.weight, conv.bias, x)
        rfnext.merge(model.train(training))
        torch.testing.assert_close(model(x), expected)
    assert type(model[0]) is nn.Conv2d
    assert model[0].training is training


def test_a_parametrised_bias_survives() -> None:
    def make() -> nn.Conv2d:
        conv = Standardised(4, 6, 3, padding=1)
        parametrize.register_parametrization(conv, "bias", nn.Softplus())
        return conv

    model, conv = searched(make)
    x = torch.randn(2, 4, 15, 13)
    with torch.no_grad():
        expected = by_definition(conv, conv.made(conv.weight), conv.bias, x)
        rfnext.merge(model)
        torch.testing.assert_close(model(x), expected)
    assert set(model.state_dict()) == {"0.weight", "0.bias"}


# Single: only the dilation changes, so what the class does stays right


@pytest.mark.parametrize("kind", TRANSFORMING)
def test_a_structure_leaves_what_the_class_does(kind: str) -> None:
    make, made = TRANSFORMING[kind]
    model, conv = searched(make)
    plain = nn.Sequential(copy.deepcopy(make())).eval()
    plain.load_state_dict(rfnext.plain_state_dict(model.state_dict()))
    x = torch.randn(2, 4, 15, 13)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    with torch.no_grad():
        bias = 3 * conv.bias if kind == "bias" else conv.bias
        padded = F.pad(x, (conv.padding[0] + 1,) * 4, mode=mode)
        expected = F.conv2d(padded, made(conv), bias, conv.stride, 0, 2)
        for network in (model, plain):
            rfnext.Structure({"0": (2, 2)}).apply(network)
            assert type(network[0]) is type(plain[0])
            torch.testing.assert_close(network(x), expected)


def test_a_structure_leaves_timms_standardised_convs_as_they_are() -> None:
    """They convolve by themselves, so that no search takes them; gain and scale are theirs."""
    layers = pytest.importorskip("timm.layers")
    x = torch.randn(2, 4, 15, 13)
    for kind in (layers.StdConv2d, layers.ScaledStdConv2d):
        conv = kind(4, 6, 3, padding=1, bias=True)
        w = conv.weight.detach().flatten(1)
        normed = (w - w.mean(1, keepdim=True)) / (w.var(1, unbiased=False, keepdim=True) + conv.eps).sqrt()
        if kind is layers.ScaledStdConv2d:
            normed = normed * conv.gain.detach().flatten(1) * conv.scale
        rfnext.Structure({"0": (2, 2)}).apply(nn.Sequential(conv))
        torch.testing.assert_close(conv(x), F.conv2d(x, normed.view_as(conv.weight), conv.bias, 1, 2, 2))


def test_half_precision() -> None:
    model, conv = searched(of(Standardised))
    model.bfloat16()
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        weight = conv.weight.float()
        expected = by_definition(conv, weight - weight.mean((1, 2, 3), keepdim=True), conv.bias.float(), x)
        rfnext.merge(model)
        torch.testing.assert_close(model(x.bfloat16()).float(), expected, rtol=3e-2, atol=3e-2)


def test_on_the_meta_device_only_torchs_convs_are_merged() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), Standardised(6, 6, 3, padding=1))
    rfnext.LocalSearch(model, rfnext.LocalConfig())
    with pytest.raises(ValueError, match="layer '1': Standardised .* load the weights first"):
        rfnext.merge(model)
    rfnext.merge(model[:1])
    assert (model[0].weight.is_meta, model[0].kernel_size) == (True, (5, 5))
