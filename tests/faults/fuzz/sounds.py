"""Samples of the vocoder's files: released generators, recordings, mels; past findings beside them."""

import dataclasses
import io
import json
import re
import struct
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn

from tasks.tts_vocoder.generators import build
from tasks.tts_vocoder.mels.log_mel import LogMel
from tests.faults.fuzz.mutations import SPARSE, Sample
from tests.faults.fuzz.samples import DEEP, HUGE, MEL, array, bombs, each, header, saved


def _published(network: nn.Module) -> dict[str, Any]:
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {name: value for name, value in network.state_dict().items() if name != "_extra_state"}
    return {re.sub("|".join(names), lambda found: names[found[0]], name): value for name, value in state.items()}


def vocoders() -> list[Sample]:
    """Generators as HiFi-GAN, Parallel WaveGAN and Vocos were released."""
    torch.manual_seed(0)
    hifi = {
        "resblock": "2",
        "upsample_rates": [8, 8],
        "upsample_kernel_sizes": [16, 16],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3, 5, 7],
        "resblock_dilation_sizes": [[1, 2], [2, 6], [3, 12]],
        "num_mels": 20,
        "n_fft": 256,
        "hop_size": 64,
        "win_size": 256,
        "sampling_rate": 8000,
        "fmin": 0,
        "fmax": 4000,
    }
    mel = dataclasses.replace(MEL, fmin=80.0, fmax=3800.0, floor=1e-10, convention="parallel_wavegan")
    wavegan = build("parallel_wavegan", mel, layers=4, stacks=2, upsampling=(8, 8), channels=(8, 16, 8))
    state = {name: value for name, value in _published(wavegan).items() if name not in ("mean", "scale")}
    state = {
        re.sub(r"smoothing\.(\d+)", lambda k: f"upsample.up_layers.{2 * int(k[1]) + 1}", name): v
        for name, v in state.items()
    }
    network = {"layers": 4, "stacks": 2, "residual_channels": 8, "gate_channels": 16, "skip_channels": 8}
    parallel = {
        "sampling_rate": 8000,
        "fft_size": 256,
        "hop_size": 64,
        "num_mels": 20,
        "fmin": 80,
        "fmax": 3800,
        "generator_params": network | {"upsample_params": {"upsample_scales": [8, 8]}},
    }
    vocos = build(
        "vocos", dataclasses.replace(MEL, fmax=None, floor=1e-7, convention="vocos"), dim=16, intermediate=32, layers=2
    )
    shared = {"n_fft": 256, "hop_length": 64}
    told = {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": {"sample_rate": 8000, "n_mels": 20, **shared},
        },
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {"input_channels": 20, "dim": 16, "intermediate_dim": 32, "num_layers": 2},
        },
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": {"dim": 16, **shared}},
    }
    weights = _published(build("hifi_gan_v3", MEL, channels=16, upsampling=(8, 8)))
    return [
        {"g.pt": saved({"generator": weights}), "config.json": json.dumps(hifi).encode()},
        {
            "g.pt": saved({"model": {"generator": state}}),
            "config.yml": json.dumps(parallel).encode(),
            "stats.npy": array(np.ones((2, 20))),
        },
        {"g.pt": saved(_published(vocos)), "config.yaml": json.dumps(told).encode()},
    ]


def past_vocoders() -> list[Sample]:
    """Bombs of weights and of settings."""
    hifi, wavegan, vocos = vocoders()
    samples = [hifi | {"g.pt": bomb} for bomb in bombs(hifi["g.pt"])]
    aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    merges = "m0: &m0 {a: 1}\n" + "".join(
        f"m{i}: &m{i}\n  <<: [{', '.join([f'*m{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    yaml = (
        aliases,
        aliases + "head: *a11",
        merges,
        "a: &a [*a]",
        "!!float ''",
        "!!int ''",
        "!!timestamp x",
        "? [1]: 2",
        DEEP,
        "a: " + HUGE,
        "!!python/object/apply:os.system ['true']",
        "a: 0x" + "f" * 9000,
        "? " * 3000,
        "{" * 3000,
    )
    samples += [vocos | {"config.yaml": text.encode()} for text in yaml]
    settings = json.loads(hifi["config.json"])
    for name, value in (
        ("upsample_rates", [8, 0]),
        ("upsample_initial_channel", 2**40),
        ("n_fft", 2**20),
        ("fmin", 10**400),
        ("fmax", float("inf")),
        ("sampling_rate", 10**400),
        ("hop_size", 0),
        ("num_mels", 2**31),
    ):
        samples.append(hifi | {"config.json": json.dumps(settings | {name: value}).encode()})
    told = json.loads(vocos["config.yaml"])
    for part, name, value in (
        ("backbone", "num_layers", 10**9),
        ("backbone", "num_layers", 0),
        ("backbone", "dim", 2**31),
        ("head", "n_fft", 10**400),
    ):
        told = json.loads(vocos["config.yaml"])
        told[part]["init_args"][name] = value
        samples.append(vocos | {"config.yaml": json.dumps(told).encode()})
    samples.append(wavegan | {"stats.npy": SPARSE + struct.pack("<Q", 2**33) + header((2**30, 2))})
    return samples + each(hifi, "config.json") + each(vocos, "config.yaml") + each(wavegan, "stats.npy")


def sound(kind: str, subtype: str | None = None, channels: int = 1) -> bytes:
    """A second of a tone."""
    wave = 0.5 * np.sin(np.arange(8000) / 3)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([wave] * channels, axis=1), 8000, format=kind, subtype=subtype)
    return buffer.getvalue()


def clips() -> list[Sample]:
    """Folders of recordings, with the mels beside them that one of them has."""
    samples: list[Sample] = []
    for name, kind, subtype, channels in (
        ("a.wav", "WAV", "PCM_16", 1),
        ("a.wav", "WAV", "FLOAT", 2),
        ("a.flac", "FLAC", None, 2),
        ("a.ogg", "OGG", None, 1),
        ("a.aiff", "AIFF", None, 1),
        ("a.wav", "WAV", "IMA_ADPCM", 1),
    ):
        samples.append({f"wavs/{name}": sound(kind, subtype, channels), "metadata.csv": b"a|text|text\n"})
    return samples


def past_clips() -> list[Sample]:
    """Headers that claim any rate or length, and lists that are no lists."""
    wav, _, flac, *_ = clips()
    rate = bytearray(wav["wavs/a.wav"])
    rate[24:28] = struct.pack("<I", 2147483647)
    rate[28:32] = struct.pack("<I", 2**32 - 2)
    samples = [wav | {"wavs/a.wav": bytes(rate)}]
    long = bytearray(flac["wavs/a.flac"])
    for bits in (0x0F, 0x03, 0x00):
        long[21] = long[21] & 0xF0 | bits
        samples.append(flac | {"wavs/a.flac": bytes(long)})
    samples += [
        wav | {"metadata.csv": text}
        for text in (b"a" * 2**25, b"../a|x\n", b"/a|x\n", b"a|x\n" * 9, b"\0", SPARSE + struct.pack("<Q", 2**33))
    ]
    return samples + each(wav, "wavs/a.wav") + each(wav, "metadata.csv")


def mels() -> list[Sample]:
    """A log-mel with its configuration beside it, and one without."""
    wave = torch.from_numpy(0.3 * np.random.default_rng(0).standard_normal(8000)).float()
    mel = array(LogMel(MEL)(wave[None])[0])
    return [{"a.npy": mel, "a.json": json.dumps(MEL.to_dict()).encode()}, {"a.npy": mel}]


def past_mels() -> list[Sample]:
    """Numbers without a bound in the file beside a mel, and arrays that were never written."""
    good, alone = mels()
    samples = [
        good
        | {"a.json": json.dumps(MEL.to_dict() | {"hop": 0}).encode().replace(b'"hop": 0', f'"hop": {token}'.encode())}
        for token in (HUGE, "1e400", "NaN", "true", DEEP, '"\\ud800"', "-1", "9" * 5000)
    ]
    samples += [
        good | {"a.json": json.dumps(MEL.to_dict() | change).encode()}
        for change in (
            {"n_fft": 10**400},
            {"sample_rate": 10**400},
            {"mels": 2**40},
            {"fmax": 10**400},
            {"floor": 10**400},
            {"floor": float("inf")},
            {"fmin": -(10**400)},
            {"convention": "hifi_gan"},
            {"n_fft": 2**30, "window": 2**30},
        )
    ]
    samples += [
        alone | {"a.npy": SPARSE + struct.pack("<Q", 4 * 20 * n) + header((20, n))} for n in (10**5, 10**7, 10**9)
    ]
    return samples + each(good, "a.npy") + each(good, "a.json")
