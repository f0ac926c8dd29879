"""The discriminators: what each member sees, and whether they tell waves apart."""

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.tts_vocoder.discriminators import MultiPeriod, MultiResolution, MultiScale
from tasks.tts_vocoder.losses import discriminator_loss

BUNDLES = {
    "period": lambda: MultiPeriod(periods=(2, 3), channels=4),
    "scale": lambda: MultiScale(scales=2, channels=16),
    "resolution": lambda: MultiResolution(resolutions=((128, 32, 128), (64, 16, 48)), channels=4),
}


@pytest.mark.parametrize("kind", BUNDLES)
@pytest.mark.parametrize("length", [1024, 1025])
def test_scores_and_maps_of_every_member(kind, length):
    bundle = BUNDLES[kind]()
    scores, maps = bundle(torch.randn(3, 1, length))
    assert len(scores) == len(maps) == len(bundle.members) == 2
    for score, layers, member in zip(scores, maps, bundle.members, strict=True):
        assert score.dim() == 2
        assert len(score) == 3
        assert len(layers) == len(member.convs) + 1
        torch.testing.assert_close(layers[-1].flatten(1), score)
    sum(score.sum() for score in scores).backward()
    assert all(p.grad is not None and p.grad.any() for p in bundle.parameters())


def test_a_period_keeps_its_columns_apart():
    """Changing the samples of one phase changes one column of every map."""
    bundle = MultiPeriod(periods=(3,), channels=4)
    wave = torch.randn(1, 1, 900)
    changed = wave.clone()
    changed[..., 1::3] += 1
    _, ((*before,),) = bundle(wave)
    _, ((*after,),) = bundle(changed)
    for a, b in zip(before, after, strict=True):
        different = (a != b).flatten(0, 2).any(0)
        assert different.tolist() == [False, True, False]


def test_a_period_pads_by_reflection():
    bundle = MultiPeriod(periods=(7,), channels=4)
    wave = torch.randn(1, 1, 100)
    torch.testing.assert_close(bundle(wave)[0], bundle(F.pad(wave, (0, 5), mode="reflect"))[0])


def test_each_scale_sees_half_of_the_last():
    bundle = MultiScale(scales=3, channels=16)
    slow = torch.sin(2 * math.pi * torch.arange(4096) / 512)[None, None]
    views = bundle.views(slow)
    for factor, view in zip((1, 2, 4), views, strict=True):
        assert abs(view.shape[2] - 4096 // factor) <= 1
        found = torch.fft.rfft(view[0, 0]).abs().argmax()
        assert found == 8  # the same 8 periods


def test_a_resolution_sees_magnitudes():
    bundle = MultiResolution(resolutions=((128, 32, 128),), channels=4)
    member = bundle.members[0]
    seen = []
    member.convs[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    wave = torch.sin(2 * math.pi * torch.arange(1024) * 16 / 128)[None, None]
    bundle(wave)
    assert seen[0].shape == (1, 1, 65, 32)
    assert (seen[0][0, 0, :, 4:-4].argmax(0) == 16).all()
    torch.testing.assert_close(seen[0][0, 0, 16, 4:-4], torch.full((24,), 32.0))  # half of the window's sum


def test_published_sizes():
    def convs2d(sizes):  # (in, out, taps), with one scale per output
        return sum(i * o * taps + 2 * o for i, o, taps in sizes)

    period = [(1, 32, 5), (32, 128, 5), (128, 512, 5), (512, 1024, 5), (1024, 1024, 5), (1024, 1, 3)]
    assert sum(p.numel() for p in MultiPeriod().parameters()) == 5 * convs2d(period)
    resolution = [(1, 32, 27)] + 3 * [(32, 32, 27)] + [(32, 32, 9), (32, 1, 9)]
    assert sum(p.numel() for p in MultiResolution().parameters()) == 3 * convs2d(resolution)
    scale = [(1, 128, 15), (32, 128, 41), (8, 256, 41), (16, 512, 41), (32, 1024, 41), (64, 1024, 41), (1024, 1024, 5)]
    scale.append((1024, 1, 3))
    outputs = sum(o for _, o, _ in scale)
    assert sum(p.numel() for p in MultiScale().parameters()) == 3 * convs2d(scale) - outputs  # one has spectral norm


@pytest.mark.parametrize("kind", BUNDLES)
def test_they_learn_to_tell_a_tone_from_noise(kind):
    bundle = BUNDLES[kind]()
    optimizer = torch.optim.Adam(bundle.parameters(), 5e-3)

    def waves():
        phase = 2 * math.pi * torch.rand(8, 1, 1)
        return torch.sin(2 * math.pi * torch.arange(512) / 20 + phase), torch.randn(8, 1, 512)

    for _ in range(40):
        real, fake = waves()
        loss = discriminator_loss(bundle(real)[0], bundle(fake)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = waves()
    with torch.no_grad():
        for r, f in zip(bundle(real)[0], bundle(fake)[0], strict=True):
            assert r.mean() > 0.6
            assert f.mean() < 0.4


def test_silence_has_a_gradient():
    wave = torch.zeros(1, 1, 1024, requires_grad=True)
    sum(score.sum() for score in BUNDLES["resolution"]()(wave)[0]).backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


@pytest.mark.parametrize("kind", BUNDLES)
def test_bad_waves(kind):
    with pytest.raises(ValueError, match=r"waves must be \(B, 1, T\), got \(2, 1024\)"):
        BUNDLES[kind]()(torch.zeros(2, 1024))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiPeriod(periods=(2, 0)), r"periods\[1\] is 0"),
        (lambda: MultiScale(scales=0), "scales is 0"),
        (lambda: MultiScale(channels=20), "a multiple of 16"),
        (lambda: MultiResolution(channels=0), "channels is 0"),
    ],
)
def test_sizes_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
