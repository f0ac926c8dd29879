"""The generators against plain rebuilds of the published architectures from their weights, written here."""

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rfnext import Bounds, LocalConfig, LocalSearch, SearchConv, Structure, merge
from rfnext.receptive_field import theoretical_receptive_field
from tasks.tts_vocoder import generators
from tasks.tts_vocoder.generators import ISTFT
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig

MEL = MelConfig()
SMALL = {
    "hifi_gan_v1": {"channels": 16},
    "hifi_gan_v2": {"channels": 16},
    "hifi_gan_v3": {"channels": 16},
    "causal_hifi_gan": {"channels": 8, "upsampling": (16, 16), "kernels": (3,), "dilations": ((1, 3, 5),)},
    "bigvgan_base": {"channels": 8, "upsampling": (16, 16), "kernels": (3,)},
    "parallel_wavegan": {"layers": 6, "stacks": 2, "channels": (6, 8, 10)},
    "vocos": {"dim": 16, "layers": 2},
    "source_filter": {"dim": 16, "layers": 2},
}


def small(name: str, mel: MelConfig = MEL) -> generators.Generator:
    return generators.build(name, mel, **SMALL[name]).eval()


def mels(batch: int = 2, frames: int = 8) -> torch.Tensor:
    """Of noise, so that no band is at the floor."""
    return LogMel(MEL)(0.1 * torch.randn(batch, 256 * frames))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def plain_weights(generator: generators.Generator) -> dict[str, torch.Tensor]:
    plain = copy.deepcopy(generator).double()
    generators.remove_weight_norm(plain)
    return dict(plain.named_parameters())


def hifi_gan(w, mel, factors, kernels, dilations, paired):
    """Kong et al. 2020, figure 1 and appendix A.1."""

    def conv(name, x, dilation=1):
        weight = w[name + ".weight"]
        return F.conv1d(x, weight, w[name + ".bias"], padding=dilation * (weight.shape[2] // 2), dilation=dilation)

    x = conv("conv_pre", mel)
    block = 0
    for i, factor in enumerate(factors):
        x = F.leaky_relu(x, 0.1)
        x = F.conv_transpose1d(x, w[f"ups.{i}.weight"], w[f"ups.{i}.bias"], stride=factor, padding=factor // 2)
        outputs = []
        for _ in kernels:
            y = x
            for j, dilation in enumerate(dilations[block % len(kernels)]):
                if paired:
                    z = conv(f"resblocks.{block}.convs1.{j}", F.leaky_relu(y, 0.1), dilation)
                    z = conv(f"resblocks.{block}.convs2.{j}", F.leaky_relu(z, 0.1))
                else:
                    z = conv(f"resblocks.{block}.convs.{j}", F.leaky_relu(y, 0.1), dilation)
                y = y + z
            outputs.append(y)
            block += 1
        x = sum(outputs[1:], outputs[0]) / len(outputs)
    return torch.tanh(conv("conv_post", F.leaky_relu(x, 0.01)))


def parallel_wavegan(w, mel, noise, layers, stacks):
    """Yamamoto et al. 2020, section 4.1.3, with the authors' upsampling: repeats, each smoothed."""
    local = F.conv1d(F.pad(mel, (2, 2), mode="replicate"), w["upsample_net.conv_in.weight"])
    for i in range(4):
        local = local.repeat_interleave(4, dim=2)
        local = F.conv2d(local[:, None], w[f"upsample_net.smoothing.{i}.weight"], padding=(0, 4))[:, 0]

    def conv(name, x, dilation=0):
        return F.conv1d(x, w[name + ".weight"], w.get(name + ".bias"), padding=dilation, dilation=max(dilation, 1))

    x, skips = conv("first_conv", noise), 0
    for i in range(layers):
        layer = f"conv_layers.{i}."
        y = conv(layer + "conv", x, 2 ** (i % (layers // stacks))) + conv(layer + "conv1x1_aux", local)
        half = y.shape[1] // 2
        y = torch.tanh(y[:, :half]) * torch.sigmoid(y[:, half:])
        skips = skips + conv(layer + "conv1x1_skip", y)
        x = (x + conv(layer + "conv1x1_out", y)) / 2**0.5
    y = F.relu(skips / layers**0.5)
    return conv("last_conv_layers.3", F.relu(conv("last_conv_layers.1", y)))


def vocos(w, mel, layers):
    """Siuzdak 2023, figure 2, up to the spectrum."""

    def norm(name, x):  # over channels
        mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-6).sqrt() * w[name + ".weight"][:, None] + w[name + ".bias"][:, None]

    def linear(name, x):
        return w[name + ".weight"] @ x + w[name + ".bias"][:, None]

    x = norm("backbone.norm", F.conv1d(mel, w["backbone.embed.weight"], w["backbone.embed.bias"], padding=3))
    for i in range(layers):
        block = f"backbone.convnext.{i}."
        y = F.conv1d(x, w[block + "dwconv.weight"], w[block + "dwconv.bias"], padding=3, groups=x.shape[1])
        y = F.gelu(linear(block + "pwconv1", norm(block + "norm", y)))
        x = x + w[block + "gamma"][:, None] * linear(block + "pwconv2", y)
    y = linear("head.out", norm("backbone.final_layer_norm", x))
    half = y.shape[1] // 2
    return torch.polar(y[:, :half].exp().clamp(max=100), y[:, half:])


@pytest.mark.parametrize("name", ["hifi_gan_v1", "hifi_gan_v2", "hifi_gan_v3"])
def test_hifi_gan_is_the_published_architecture(name):
    generator, mel = small(name).double(), mels().double()
    if name == "hifi_gan_v3":
        shape = ((8, 8, 4), (3, 5, 7), ((1, 2), (2, 6), (3, 12)), False)
    else:
        shape = ((8, 8, 2, 2), (3, 7, 11), ((1, 3, 5),) * 3, True)
    expected = hifi_gan(plain_weights(generator), mel, *shape)
    assert expected.std() > 1e-4
    torch.testing.assert_close(generator(mel), expected, rtol=1e-9, atol=1e-12)


def test_parallel_wavegan_is_the_published_architecture():
    generator, mel = small("parallel_wavegan").double(), mels().double()
    noise = torch.randn(2, 1, 2048, dtype=torch.float64)
    expected = parallel_wavegan(plain_weights(generator), mel, noise, 6, 2)
    found = generator(mel, noise.reshape(2, 8, 256).mT)
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_vocos_is_the_published_architecture():
    generator: Any = small("vocos").double()
    mel = mels().double()
    with torch.no_grad():  # else too faint to tell
        generator.head.out.weight.mul_(30)
    spectrum = vocos(plain_weights(generator), mel, 2)
    expected = torch.istft(spectrum, 1024, 256, window=torch.hann_window(1024, dtype=torch.float64), center=True)
    # torch cuts half a window off at both ends, the generator half a hop less. Its window is in single precision.
    found = generator(mel)[:, 0, 128:-128]
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_parameter_counts():
    def hifi_gan_parameters(channels, factors, kernels, convs):
        total = 80 * channels * 7 + channels
        for factor in factors:
            total += channels * (channels // 2) * 2 * factor + channels // 2
            channels //= 2
            total += sum(convs * (channels * channels * kernel + channels) for kernel in kernels)
        return total + channels * 7 + 1

    # Kong et al., table 1: 13.92 M, 0.92 M and 1.46 M (cut, not rounded, and without the norms' scales).
    expected = {
        "hifi_gan_v1": hifi_gan_parameters(512, (8, 8, 2, 2), (3, 7, 11), 6),
        "hifi_gan_v2": hifi_gan_parameters(128, (8, 8, 2, 2), (3, 7, 11), 6),
        "hifi_gan_v3": hifi_gan_parameters(256, (8, 8, 4), (3, 5, 7), 2),
    }
    assert expected == {"hifi_gan_v1": 13_926_017, "hifi_gan_v2": 925_985, "hifi_gan_v3": 1_462_273}
    # 30 layers of convs 64 -> 128 of kernel 3, 80 -> 128 without bias, twice 64 -> 64; then the rest.
    layer = 64 * 128 * 3 + 128 + 80 * 128 + 2 * (64 * 64 + 64)
    expected["parallel_wavegan"] = 30 * layer + 2 * 64 + (64 * 64 + 64) + 65 + 80 * 80 * 5 + 4 * 9
    # 8 blocks of 7 taps per channel, a norm, 512 -> 1536 -> 512 and gamma; here with 80 bands.
    block = 512 * 8 + 1024 + 512 * 1536 + 1536 + 1536 * 512 + 512 + 512
    expected["vocos"] = 80 * 512 * 7 + 512 + 1024 + 8 * block + 1024 + 512 * 1026 + 1026
    # The same with 96 channels and 4 blocks.
    block = 96 * 8 + 192 + 96 * 288 + 288 + 288 * 96 + 96 + 96
    expected["source_filter"] = 80 * 96 * 7 + 96 + 192 + 4 * block + 192 + 96 * 1026 + 1026
    assert expected["source_filter"] == 380_706
    # The causal one has the convs of V2. BigVGAN's are counted in its own test.
    expected["causal_hifi_gan"] = expected["hifi_gan_v2"]
    for name in generators.GENERATORS.keys() - {"bigvgan_base", "bigvgan"}:
        generator = generators.build(name, MEL)
        generators.remove_weight_norm(generator)
        assert count(generator) == expected[name], name
    # Siuzdak, table 4: 13.5 M, with 100 bands at 24 kHz.
    assert count(generators.build("vocos", MelConfig(sample_rate=24000, mels=100, fmax=None))) == 13_531_650


@pytest.mark.parametrize("name", SMALL)
def test_every_frame_becomes_a_hop_of_samples(name):
    generator = small(name)
    for frames in (1, 5):
        assert generator(mels(3, 8)[..., :frames]).shape == (3, 1, 256 * frames)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("hifi_gan_v1", {"channels": 16, "upsampling": (5, 5, 4, 2)}),
        ("hifi_gan_v3", {"channels": 16, "upsampling": (10, 10, 2)}),
        ("parallel_wavegan", {**SMALL["parallel_wavegan"], "upsampling": (5, 5, 8)}),
        ("vocos", SMALL["vocos"]),
        ("source_filter", SMALL["source_filter"]),
    ],
)
def test_other_hops(name, sizes):
    mel = MelConfig(sample_rate=16000, n_fft=800, hop=200, window=800, mels=40)
    assert generators.build(name, mel, **sizes)(torch.randn(2, 40, 6)).shape == (2, 1, 1200)


@pytest.mark.parametrize("name", SMALL)
def test_a_wave_does_not_depend_on_its_batch(name):
    generator, mel = small(name), mels(3)
    torch.testing.assert_close(generator(mel)[1:2], generator(mel[1:2]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["parallel_wavegan", "source_filter"])
def test_noise_is_new_in_training_only(name):
    generator, mel = small(name), mels()
    assert torch.equal(generator(mel), generator(mel))
    generator.train()
    assert not torch.equal(generator(mel), generator(mel))


def test_noise_goes_by_frames():
    generator: Any = small("parallel_wavegan")
    mel = mels()
    # The beginning of a clip sees the same noise however long the clip is.
    assert torch.equal(generator.noise(mel)[..., :5], generator.noise(mel[..., :5]))
    generator.train()
    noise = generator.noise(mels(64, 8))
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("name", SMALL)
def test_removing_weight_norm_keeps_the_function_and_leaves_copies_alone(name):
    generator, mel = small(name), mels()
    with torch.no_grad():
        for parameter in generator.parameters():  # the norm's scale is not that of the weight any more
            parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    plain = copy.deepcopy(generator)
    with torch.no_grad():
        generators.remove_weight_norm(plain)
    torch.testing.assert_close(plain(mel), generator(mel), rtol=1e-4, atol=1e-6)
    assert not any("parametrizations" in key for key in plain.state_dict())
    assert all(conv.weight.requires_grad for conv in plain.modules() if isinstance(conv, nn.Conv1d))
    generator(mel).sum().backward()
    normed = [key for key in generator.state_dict() if "parametrizations" in key]
    assert len(normed) == (0 if name in UNNORMED else 2 * sum("original1" in key for key in normed))
    assert normed or name in UNNORMED


@pytest.mark.parametrize(("n_fft", "hop", "window"), [(16, 4, 16), (16, 4, 12), (18, 5, 18), (32, 16, 32)])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_istft_equals_its_definition(n_fft, hop, window, frames):
    spectrum = torch.randn(2, n_fft // 2 + 1, frames, dtype=torch.complex128)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)]
    before = (n_fft - window) // 2
    hann = [0.0] * before + hann + [0.0] * (n_fft - window - before)
    total = torch.zeros(2, (frames - 1) * hop + n_fft, dtype=torch.float64)
    weight = torch.zeros_like(total)
    for f in range(frames):
        for n in range(n_fft):
            # The spectrum of a real wave: the upper half mirrors the lower one.
            value = spectrum[:, 0, f].real + (-1) ** n * spectrum[:, -1, f].real
            for k in range(1, n_fft // 2):
                turn = complex(math.cos(2 * math.pi * k * n / n_fft), math.sin(2 * math.pi * k * n / n_fft))
                value = value + 2 * (spectrum[:, k, f] * turn).real
            total[:, f * hop + n] += value / n_fft * hann[n]
            weight[:, f * hop + n] += hann[n] ** 2
    cut = (n_fft - hop) // 2
    expected = (total / weight)[:, cut : cut + frames * hop]
    istft = ISTFT(n_fft, hop, window)
    real, imaginary = spectrum.real.float(), spectrum.imag.float()
    found = istft(real, imaginary)
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-4, atol=1e-5)
    wave, weight = (x[..., cut : cut + frames * hop] for x in istft.by_product(real, imaginary))
    torch.testing.assert_close(wave / weight, found, rtol=1e-4, atol=1e-5)


def test_istft_inverts_the_transform_of_the_mels():
    wave = torch.randn(2, 1, 20 * 256)
    padded = F.pad(wave, (384, 384), mode="reflect")[:, 0]
    spectrum = torch.stft(padded, 1024, 256, window=torch.hann_window(1024), center=False, return_complex=True)
    torch.testing.assert_close(ISTFT(1024, 256, 1024)(spectrum.real, spectrum.imag), wave, rtol=1e-4, atol=1e-5)


def test_a_window_without_overlap_is_refused():
    with pytest.raises(ValueError, match="window 256 is too short for hop 256"):
        generators.build("vocos", MelConfig(window=256))


def test_a_checkpoint_carries_the_mel_configuration(tmp_path):
    generator = small("hifi_gan_v1")
    torch.save(generator.state_dict(), tmp_path / "generator.pt")
    state = torch.load(tmp_path / "generator.pt", weights_only=True)
    torch.manual_seed(1)
    same, mel = small("hifi_gan_v1", MelConfig(fmax=8000)), mels()
    same.load_state_dict(state)
    assert torch.equal(same(mel), generator(mel))
    other = small("hifi_gan_v1", MelConfig(sample_rate=24000, fmax=None))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="sample_rate 22050 against 24000, fmax 8000.0 against 12000.0"):
        other.load_state_dict(state)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    with pytest.raises(ValueError, match="not a mel configuration"):
        same.load_state_dict(state | {"_extra_state": torch.zeros(3)})


def test_published_checkpoints_load(caplog):
    """Those of HiFi-GAN hold weight_g and weight_v, and no mel configuration."""
    generator = small("hifi_gan_v1")
    state = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in generator.state_dict().items()
        if key != "_extra_state"
    }
    assert {"conv_pre.weight_g", "ups.3.weight_v", "resblocks.11.convs2.2.bias"} <= state.keys()
    torch.manual_seed(1)
    fresh, mel = small("hifi_gan_v1"), mels()
    with caplog.at_level(logging.WARNING):
        fresh.load_state_dict(state)
    assert "does not say which mels" in caplog.text
    assert torch.equal(fresh(mel), generator(mel))


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("wavenet", {}, "unknown generator 'wavenet'; known are hifi_gan_v1"),
        ("hifi_gan_v1", {"upsampling": (8, 8, 4, 2)}, "makes 512 samples of a frame, but .* hop 256"),
        ("parallel_wavegan", {"upsampling": (4, 4)}, "makes 16 samples of a frame"),
        ("hifi_gan_v1", {"channels": 8}, "channels is 8; each of 4 upsamplings halves them"),
        ("hifi_gan_v1", {"channels": 16, "kernels": (3, 4, 11)}, "kernel 4 is even"),
        ("parallel_wavegan", {"layers": 10}, "10 layers must divide into 3 stacks"),
        ("vocos", {"dim": 0}, "dim is 0"),
    ],
)
def test_sizes_that_do_not_fit(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        generators.build(name, MEL, **sizes)


@pytest.mark.parametrize("name", SMALL)
def test_mels_that_do_not_fit(name):
    for mel in (torch.zeros(1, 100, 8), torch.zeros(80, 8)):
        with pytest.raises(ValueError, match=r"takes log-mels \(B, 80, F\), got shape"):
            small(name)(mel)


UNNORMED = ("vocos", "source_filter")
SEARCHED = {
    "hifi_gan_v1": {f"resblocks.{i}.{c}.{j}" for i in range(12) for c in ("convs1", "convs2") for j in range(3)},
    "hifi_gan_v2": {f"resblocks.{i}.{c}.{j}" for i in range(12) for c in ("convs1", "convs2") for j in range(3)},
    "hifi_gan_v3": {f"resblocks.{i}.convs.{j}" for i in range(9) for j in range(2)},
    "causal_hifi_gan": {f"resblocks.{i}.{c}.{j}" for i in range(2) for c in ("convs1", "convs2") for j in range(3)},
    "bigvgan_base": {f"resblocks.{i}.{c}.{j}" for i in range(2) for c in ("convs1", "convs2") for j in range(3)},
    "parallel_wavegan": {f"conv_layers.{i}.conv" for i in range(6)},
    "vocos": {f"backbone.convnext.{i}.dwconv" for i in range(2)},
    "source_filter": {f"backbone.convnext.{i}.dwconv" for i in range(2)},
}
LOCAL = LocalConfig(interval=1, rounds=2, branches=3, spread=0.5, bounds=Bounds(1, 64))


@pytest.mark.parametrize("name", SMALL)
def test_the_search_takes_over_and_merges(name):
    generator = small(name)
    before = Structure.read(generator, generators.searched)
    search = LocalSearch(generator, LOCAL, generators.searched)
    assert (
        set(search.initial) == SEARCHED[name] == {n for n, m in generator.named_modules() if isinstance(m, SearchConv)}
    )
    assert search.initial == before
    mel, goal = mels(), 0.1 * torch.randn(2, 1, 2048)
    optimizer = torch.optim.Adam(generator.parameters(), 1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (generator.train()(mel) - goal).square().mean()
        loss.backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in search.branch_weights())
        optimizer.step()
        losses.append(float(loss.detach()))
        search.after_step()
    assert losses[-1] < losses[0]
    assert search.round == 2
    generator.eval()
    with torch.no_grad():
        searched = generator(mel)
        merged = copy.deepcopy(generator)
        merge(merged)
        generators.remove_weight_norm(merged)
        assert not any(isinstance(module, SearchConv) for module in merged.modules())
        torch.testing.assert_close(merged(mel), searched, rtol=1e-4, atol=1e-5 * float(searched.abs().max()))
        assert torch.equal(generator(mel), searched)


@pytest.mark.parametrize("name", SMALL)
def test_the_length_does_not_depend_on_dilations(name):
    generator, mel = small(name), mels()
    hand_designed = generator(mel)
    Structure(dict.fromkeys(SEARCHED[name], 64)).apply(generator, generators.searched)
    wave = generator(mel)
    assert wave.shape == hand_designed.shape
    assert not torch.equal(wave, hand_designed)


def test_a_larger_dilation_looks_further():
    mel = torch.zeros(1, 80, 65)
    vocos = small("vocos")
    middle = (32 * 256 + 128,)
    # 3 frames to each side for the first conv and for each of two blocks; a window of 4 hops reaches 2 frames on,
    # but its first sample is zero.
    assert theoretical_receptive_field(vocos, mel, middle) == [(32 - 9 - 1, 32 + 9 + 2)]
    Structure({"backbone.convnext.0.dwconv": 4}).apply(vocos)
    assert theoretical_receptive_field(vocos, mel, middle) == [(32 - 18 - 1, 32 + 18 + 2)]
