"""The layers that the networks share, against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from tasks.action_segmentation.models.layers import DilatedConv, DropoutNoise, Pointwise


@pytest.mark.parametrize("dilation", [1, 4, 9, 10, 11, 50])
def test_dilated_conv_trains_like_torchs(dilation):
    conv = DilatedConv(3, 4, dilation).double().train()
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    args = (x, conv.weight, conv.bias)
    y, expected = conv(x), F.conv1d(*args, padding=dilation, dilation=dilation)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-14)
    assert y.grad_fn.name() == "_ShiftedProductsBackward"
    goal = torch.randn_like(y)
    found = torch.autograd.grad(y, args, goal)
    torch.testing.assert_close(found, torch.autograd.grad(expected, args, goal), rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(conv, x)


def test_dilated_conv_gives_no_gradient_where_none_is_needed():
    conv = DilatedConv(3, 4, 2).train()
    conv.weight.requires_grad_(False)
    conv(torch.randn(1, 3, 9)).sum().backward()
    assert conv.weight.grad is None
    assert conv.bias.grad is not None


def test_dilated_conv_in_bfloat16_autocast():
    conv = DilatedConv(8, 8, 2).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.randn(1, 8, 20)).dtype == torch.bfloat16


def test_pointwise_equals_torchs():
    conv = Pointwise(3, 4).double()
    x = torch.randn(2, 3, 10, dtype=torch.float64)
    torch.testing.assert_close(conv(x), F.conv1d(x, conv.weight, conv.bias), rtol=1e-12, atol=1e-14)


class TestDropoutNoise:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
    def test_is_the_distribution_of_dropout(self, p):
        like = torch.empty(8, 64, 501)
        noise = DropoutNoise(p)(like)
        assert noise.shape == like.shape
        kept = noise != 0
        # 256,512 draws: four standard deviations are below 0.004, half a step of 1/256 is 0.002
        assert kept.double().mean().item() == pytest.approx(1 - p, abs=0.006)
        assert noise.double().mean().item() == pytest.approx(1, abs=0.01)
        assert len(noise.unique()) == 2
        # neighbours in memory come from one 64-bit number: they must not be correlated
        flat = kept.double().flatten() - kept.double().mean()
        for lag in (1, 2, 7, 8, 64):
            assert abs((flat[lag:] * flat[:-lag]).mean().item()) < 0.003

    def test_follows_the_seed_and_the_mode(self):
        noise, like = DropoutNoise(0.5), torch.empty(2, 3, 50)
        first = noise(like)
        assert not torch.equal(first, noise(like))
        torch.manual_seed(0)
        assert torch.equal(first, noise(like))
        assert noise.eval()(like) is None
        assert DropoutNoise(0.0)(like) is None

    def test_refuses_a_share_out_of_range(self):
        with pytest.raises(ValueError, match="dropout is 1"):
            DropoutNoise(1.0)
