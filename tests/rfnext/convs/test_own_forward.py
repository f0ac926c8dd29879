"""What is found out about conv classes by calling their forward(): padding, moving, convolving by themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfnext
from rfnext import Conv
from rfnext.convs.searchable import unsearchable
from rfnext.convs.take_over import take_over

# Classes that prepare their input, and neither pad nor move it


class ChannelNormed(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.layer_norm(input.transpose(1, 2), (self.in_channels,)).transpose(1, 2))


class ChannelSoftmax(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.softmax(1))


class Positioned(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + 5 * torch.linspace(-1, 1, input.shape[-1]))


class Binary(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(torch.where(input >= 0, 1.0, -1.0))


class Noisy(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + 9 * torch.randn_like(input))


class Dropped(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, 0.5, self.training))


class SpaceNormed(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.layer_norm(input, input.shape[-1:]))


class NegativelyNormed(nn.Conv1d):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(self.in_channels)
        nn.init.constant_(self.norm.weight, -1)
        nn.init.constant_(self.norm.bias, 5)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.norm(input))


class Upsampled(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.interpolate(input, scale_factor=2.0))


class Pooled(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return F.max_pool1d(super().forward(input), 2)


class Halved(nn.Conv1d):
    """A forward() that takes even sizes only."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.unflatten(-1, (-1, 2)).mean(-1))


class Flat(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).flatten(1)


class Pair(nn.Conv1d):
    def forward(self, input: Tensor) -> tuple[Tensor, int]:  # type: ignore[override]
        return super().forward(input), 1


class Gated(nn.Conv1d):
    """Has layers that convolve: a gate, by a norm over pooled values, which in training takes two images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.gate(input.mean(-1, keepdim=True)).sigmoid()


PREPARING = [
    ChannelNormed,
    ChannelSoftmax,
    Positioned,
    Binary,
    Noisy,
    Dropped,
    SpaceNormed,
    NegativelyNormed,
    Upsampled,
    Pooled,
    Halved,
    Flat,
    Pair,
    Gated,
]


@pytest.mark.parametrize("kind", PREPARING)
def test_classes_that_only_prepare_their_input_are_searched(kind: type[nn.Conv1d]) -> None:
    conv = kind(2, 2, 3, padding=1)
    for seed in range(5):  # of the noise
        torch.manual_seed(seed)
        assert unsearchable(conv) is None
    x = torch.randn(2, 2, 12)
    torch.manual_seed(1)
    expected = conv(x)
    take_over(conv, [(1,)])
    torch.manual_seed(1)
    torch.testing.assert_close(conv(x), expected)


# Classes that pad or move it


class Padded(nn.Conv1d):
    """Before a norm over positions: where the input is moved to cannot be seen, its size can."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.layer_norm(F.pad(input, (4, 0)), (input.shape[-1] + 4,)))


class PaddedInTraining(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        return super().forward(F.pad(input, (self.dilation[0], 0)))[..., self.dilation[0] :]


class PaddedInEvaluation(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input if self.training else input.roll(self.dilation[0], -1))


class Chomped(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[..., :-2]


@pytest.mark.parametrize("kind", [Padded, PaddedInTraining, PaddedInEvaluation, Chomped])
@pytest.mark.parametrize("training", [True, False])
def test_classes_that_pad_or_move_in_any_mode_are_refused(kind: type[nn.Conv1d], training: bool) -> None:
    conv = kind(2, 2, 3, padding=1).train(training)
    assert "pads or crops there by itself" in (unsearchable(conv) or "")
    with pytest.raises(ValueError, match="layer '0': .* pads or crops there by itself"):
        rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))


# Classes that convolve by themselves


class Beside(nn.Conv1d):
    """Half of it would keep the centre's dilation."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.conv1d(input, self.weight, None, 1, self.padding, self.dilation)


class BesideInTraining(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        return y + F.conv1d(input, self.weight, None, 1, self.padding, self.dilation) if self.training else y


class Blurred(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.conv1d(input, torch.full((2, 1, 3), 1 / 3), padding=1, groups=2))


class BesideTransposed(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + F.conv_transpose1d(input, self.weight, None, 1, 1)


class InsideWithItsWeight(nn.Conv1d):
    """A layer inside is handed the conv's own weight."""

    class Layer(nn.Module):
        def forward(self, input: Tensor, weight: Tensor, dilation: Any) -> Tensor:
            return F.conv1d(input, weight, None, 1, dilation, dilation)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layer = self.Layer()

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + self.layer(input, self.weight, self.dilation)


@pytest.mark.parametrize("kind", [Blurred, BesideTransposed])
def test_classes_that_ask_for_one_convolution_by_their_kernel_are_searched(kind: type[nn.Conv1d]) -> None:
    test_classes_that_only_prepare_their_input_are_searched(kind)


@pytest.mark.parametrize("kind", [Beside, BesideInTraining, InsideWithItsWeight])
def test_classes_that_convolve_by_themselves_are_not_searched_but_take_another_dilation(kind: type[nn.Conv1d]) -> None:
    conv = kind(2, 2, 3, padding=1).eval()
    assert "its own computation would be lost" in (unsearchable(conv) or "")
    rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))
    assert conv(torch.randn(1, 2, 9)).shape == (1, 2, 9)


# Classes whose forward() cannot be tried


class WithMask(nn.Conv1d):
    def forward(self, input: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input * mask)


class FourImages(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        assert len(input) == 4
        return super().forward(input)


class HalfPrecision(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        if input.dtype != torch.float16:
            raise TypeError("half precision only")
        return super().forward(input)


@pytest.mark.parametrize("kind", [WithMask, FourImages, HalfPrecision])
def test_a_forward_that_cannot_be_tried_is_said_to_be_one(
    kind: type[nn.Conv1d], caplog: pytest.LogCaptureFixture
) -> None:
    conv = kind(2, 2, 3, padding=1)
    reason = unsearchable(conv) or ""
    assert f"{kind.__name__} overrides forward(), which could not be tried on an input of shape (2, 2, " in reason
    assert "pads" not in reason
    assert "lost" not in reason
    rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))
    assert (conv.dilation, conv.padding) == ((3,), (3,))
    (record,) = caplog.records
    assert "is not verified" in record.message


class BySize(nn.Conv1d):
    """Convolves small inputs only, and pads those."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (1, 1))) if input.shape[-1] < 16 else input


def test_a_forward_that_treats_sizes_differently_is_not_searched() -> None:
    assert "could not be tried on inputs of sizes" in (unsearchable(BySize(2, 2, 3, padding=1)) or "")


class Fixed(nn.Conv1d):
    """Its sum fits at one dilation only."""

    def forward(self, input: Tensor) -> Tensor:
        return input + F.conv1d(F.pad(input, (4, 0)), self.weight, None, 1, 0, self.dilation)


def test_a_forward_that_fails_at_another_dilation_is_refused() -> None:
    model = nn.Sequential(Fixed(2, 2, 3, dilation=2))
    with pytest.raises(ValueError, match="layer '0': Fixed overrides forward.*fails at dilation"):
        rfnext.Structure({"0": 3}).apply(model)


# On the meta device, and masked


class Scaled(nn.Conv1d):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.ones(2, 1))
        self.order = nn.Buffer(torch.arange(2))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[:, self.order] / self.scale)


def test_a_conv_on_the_meta_device_with_a_parameter_of_its_own_is_searched() -> None:
    with torch.device("meta"):
        conv = Scaled(2, 2, 3)
    assert unsearchable(conv) is None
    assert conv.scale.is_meta
    rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))
    assert conv.dilation == (3,)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_scaled_standardised_convs_take_a_structure(device: str, caplog: pytest.LogCaptureFixture) -> None:
    layers = pytest.importorskip("timm.layers")
    with torch.device(device):
        convs = [layers.ScaledStdConv2d(2, 3, 3), layers.ScaledStdConv2dSame(3, 3, 3)]
    for conv in convs:
        assert unsearchable(conv) is None
    rfnext.Structure({"0": 3, "1": 2}).apply(nn.Sequential(*convs))
    assert [conv.dilation for conv in convs] == [(3, 3), (2, 2)]
    assert not caplog.records


class Masked(nn.Conv1d):
    """Of PixelCNN: its mask has its weight's shape."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mask = nn.Buffer(torch.ones_like(self.weight))
        self.mask[..., 2:] = 0

    def forward(self, input: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(input)


class Partial(nn.Conv1d):
    """Partial convolution: the mask is convolved, too."""

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input) if mask is None else mask
        with torch.no_grad():
            share = F.conv1d(mask, torch.ones_like(self.weight), None, self.stride, self.padding, self.dilation)
        return super().forward(input * mask) / share.clamp(1e-8)


@pytest.mark.parametrize("kind", [Masked, Partial])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_masked_convs_take_a_structure(kind: type[nn.Conv1d], device: str, caplog: pytest.LogCaptureFixture) -> None:
    with torch.device(device):
        conv: Conv = kind(2, 2, 3, padding=1)
    weight = conv.weight.detach().clone()
    rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))
    assert conv.dilation == (3,)
    assert device == "meta" or torch.equal(conv.weight, weight)
    assert not caplog.records


class FasterInTraining(nn.Conv1d):
    """Trains by a product of its own unless it is searched, and evaluates by torch's conv."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and not isinstance(self, rfnext.SearchConv):
            return torch.einsum("oik,bitk->bot", self.weight, input[..., None].expand(-1, -1, -1, 3))
        return super().forward(input)


def test_a_plain_conv_may_train_by_products_of_its_own() -> None:
    conv = FasterInTraining(2, 3, 3, padding=2, dilation=2)
    assert unsearchable(conv) is None


class FasterInAnyTraining(FasterInTraining):
    """Does not know SearchConv: its branches would never be trained."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return torch.einsum("oik,bitk->bot", self.weight, input[..., None].expand(-1, -1, -1, 3))
        return nn.Conv1d.forward(self, input)


@pytest.mark.parametrize("training", [True, False])
def test_a_class_that_trains_by_products_of_its_own_though_it_is_searched_is_refused(training: bool) -> None:
    conv = FasterInAnyTraining(2, 3, 3, padding=2, dilation=2).train(training)
    assert "in training that computes without torch's convolution" in (unsearchable(conv) or "")
    with pytest.raises(ValueError, match=r"super\(\)\.forward\(\) if isinstance\(self, rfnext\.SearchConv\)"):
        rfnext.LocalSearch(nn.Sequential(conv), rfnext.LocalConfig())
