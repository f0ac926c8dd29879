"""Published vocoders as generators: the files of HiFi-GAN, Parallel WaveGAN and Vocos, as their authors released them.

    HiFi-GAN            g_02500000 or generator.pth.tar: {"generator": weights}, config.json beside it
    Parallel WaveGAN    checkpoint-400000steps.pkl: {"model": {"generator": weights}}, config.yml and stats.h5 (or .npy)
    Vocos               pytorch_model.bin: weights, config.yaml beside it

The content tells the kind. Tensors and plain values are read, nothing is executed: a file that needs more is refused.
"""

import importlib
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rfnext import tensor_files
from rfnext.files import check_depth, parse_json, read_text
from tasks import checkpoint
from tasks.npy_files import open_array
from tasks.tts_vocoder import generators
from tasks.tts_vocoder.generators import Generator
from tasks.tts_vocoder.mels.mel import MelConfig, check_same

Settings = Mapping[str, Any]

LONGEST = 2**17
"""Bytes of the longest file of settings; those that were released have seven thousand."""

DEEPEST, MOST_VALUES = 32, 10**5
"""Levels and values of settings."""


class Released(NamedTuple):
    """A published generator: its name in `generators.GENERATORS`, mels, sizes, and weights by our names."""

    name: str
    mel: MelConfig
    sizes: dict[str, Any]
    weights: dict[str, Tensor]


def open_generator(path: str | Path) -> Generator:
    """The generator of a checkpoint, ours or a published one, on the CPU in evaluation mode.

    Raises:
        ValueError: naming the file, if it or the settings beside it are of no known kind, broken, or contradictory.
        OSError: if a file cannot be read.
    """
    content = _content(Path(path))
    if _is_ours(content):
        network = checkpoint.load(path, "tts_vocoder").model
        assert isinstance(network, Generator)
        return network
    found = _released(Path(path), content)
    try:
        with checkpoint.as_large_as(found.weights):
            network = generators.build(found.name, found.mel, **found.sizes)
    except checkpoint.CONTRADICTIONS as error:
        raise ValueError(f"{path}: the settings beside it make no {found.name} ({error})") from error
    _load(network, found, path)
    return network.eval()


def load_weights(network: Generator, path: str | Path) -> None:
    """Load the weights of a checkpoint, ours or a published one, into a generator as designed.

    Raises ValueError naming the file, if it is of another network or other mels, or as `open_generator` does.
    """
    content = _content(Path(path))
    if _is_ours(content):
        checkpoint.load_weights(network, path)
        return
    found = _released(Path(path), content)
    try:
        check_same(found.mel, network.mel_config, "this training")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _load(network, found, path)


def _content(path: Path) -> Any:
    try:
        return tensor_files.read(path)
    except ValueError as error:
        fix = "give a checkpoint of tensors and plain values; others hold code, which is not run"
        raise ValueError(f"{path} is not a readable checkpoint ({error}); {fix}") from error


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == checkpoint.FORMAT


def _released(path: Path, content: Any) -> Released:
    if not isinstance(content, dict):
        content = {}
    whole = content.get("model")
    if isinstance(whole, dict) and isinstance(whole.get("generator"), dict):
        reader, weights, beside = _parallel_wavegan, whole["generator"], "config.yml"
    elif isinstance(content.get("generator"), dict):
        reader, weights, beside = _hifi_gan, content["generator"], "config.json"
    elif "backbone.embed.weight" in content:
        reader, weights, beside = _vocos, content, "config.yaml"
    else:
        held = ", ".join(str(name)[:40] for name in list(content)[:4]) or "no entries"
        fix = "give HiFi-GAN's g_..., Parallel WaveGAN's .pkl, Vocos's pytorch_model.bin, or a model.pt of a cell"
        raise ValueError(f"{path} holds no generator that is known here ({held}); {fix}")
    _check_weights(path, weights)
    settings = _settings(path.parent / beside)
    try:
        return reader(path.parent, settings, weights)
    except checkpoint.CONTRADICTIONS as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path.parent / beside}: {what}; give the file that was released with {path.name}") from error


def _check_weights(path: Path, weights: Mapping[Any, Any]) -> None:
    """Raise ValueError unless these are names and numbers that are stored in the file."""
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point():
            raise ValueError(f"{path}: weight {str(name)[:80]!r} is no tensor of numbers; copy it again")
    try:
        tensor_files.check_tensors(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; copy it again") from None


def _settings(path: Path) -> Settings:
    """A JSON or YAML file of settings."""
    try:
        text = read_text(path, LONGEST)
        settings = parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file; put the settings there that were released with the checkpoint"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: not readable ({error}); copy it again") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: holds no settings; copy it again")
    return settings


def _parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError, also where aliases make it large."""
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and _size(root, {}) > MOST_VALUES:
            raise ValueError(f"its aliases make more than {MOST_VALUES} values")
        value = yaml.safe_load(text)
    except ValueError:
        raise
    except Exception as error:  # PyYAML lets errors of many kinds of broken scalars through
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    check_depth(value, DEEPEST)
    return value


def _size(node: Any, known: dict[int, float]) -> float:
    """Values below a YAML node, those of an alias each time; without an end, if it is in itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = node.value if isinstance(node.value, list) else []
        inside = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in inside)
    return known[id(node)]


def _agree(**pairs: tuple[Any, Any]) -> None:
    """Raise ValueError for the first setting whose value is not the one that our generator has."""
    for name, (found, ours) in pairs.items():
        if found != ours:
            raise ValueError(f"{name} is {reprlib.repr(found)}, which is not known here (only {ours!r})")


def _hifi_gan(folder: Path, settings: Settings, weights: Mapping[str, Tensor]) -> Released:
    paired = str(settings["resblock"]) == "1"
    rates, channels = tuple(settings["upsample_rates"]), settings["upsample_initial_channel"]
    kernels, dilations = ((3, 7, 11), ((1, 3, 5),) * 3) if paired else ((3, 5, 7), ((1, 2), (2, 6), (3, 12)))
    _agree(
        upsample_kernel_sizes=(settings["upsample_kernel_sizes"], [2 * rate for rate in rates]),
        resblock_kernel_sizes=(settings["resblock_kernel_sizes"], list(kernels)),
        resblock_dilation_sizes=(settings["resblock_dilation_sizes"], [list(each) for each in dilations]),
    )
    mel = MelConfig(
        sample_rate=settings["sampling_rate"],
        n_fft=settings["n_fft"],
        hop=settings["hop_size"],
        window=settings["win_size"],
        mels=settings["num_mels"],
        fmin=float(settings["fmin"]),
        fmax=None if settings["fmax"] is None else float(settings["fmax"]),
    )
    name = "hifi_gan_v3" if not paired else "hifi_gan_v2" if channels == 128 else "hifi_gan_v1"
    return Released(name, mel, {"channels": channels, "upsampling": rates}, dict(weights))


def _parallel_wavegan(folder: Path, settings: Settings, weights: Mapping[str, Tensor]) -> Released:
    network = settings["generator_params"]
    upsampling = tuple(network["upsample_params"]["upsample_scales"])
    default = {"in_channels": 1, "out_channels": 1, "kernel_size": 3, "aux_context_window": 2, "use_causal_conv": False}
    _agree(
        generator_type=(settings.get("generator_type", "ParallelWaveGANGenerator"), "ParallelWaveGANGenerator"),
        upsample_net=(network.get("upsample_net", "ConvInUpsampleNetwork"), "ConvInUpsampleNetwork"),
        window=(settings.get("window", "hann"), "hann"),
        log_base=(settings.get("log_base", 10.0), 10.0),
        nonlinear_activation=(network["upsample_params"].get("nonlinear_activation"), None),
        **{name: (network.get(name, ours), ours) for name, ours in default.items()},
    )
    mel = MelConfig(
        sample_rate=settings["sampling_rate"],
        n_fft=settings["fft_size"],
        hop=settings["hop_size"],
        window=settings.get("win_length") or settings["fft_size"],
        mels=settings["num_mels"],
        fmin=float(settings.get("fmin") or 0),
        fmax=None if settings.get("fmax") is None else float(settings["fmax"]),
        floor=1e-10,
        convention="parallel_wavegan",
    )
    layers = ("residual_channels", "gate_channels", "skip_channels")
    channels = tuple(network.get(name, usual) for name, usual in zip(layers, (64, 128, 64), strict=True))
    sizes = {"layers": network["layers"], "stacks": network["stacks"], "upsampling": upsampling, "channels": channels}
    mean, scale = _statistics(folder, mel.mels)
    # In the published lists, every conv follows a layer that stretches.
    ours = {
        re.sub(r"upsample\.up_layers\.(\d+)", lambda found: f"smoothing.{int(found[1]) // 2}", name): value
        for name, value in weights.items()
    }
    return Released("parallel_wavegan", mel, sizes, ours | {"mean": mean, "scale": scale})


def _statistics(folder: Path, mels: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every band, from stats.h5 or stats.npy."""
    if (folder / "stats.npy").exists():
        both = list(open_array(folder / "stats.npy", most=2**20)[:2])
    elif (folder / "stats.h5").exists():
        both = _from_hdf5(folder / "stats.h5")
    else:
        raise ValueError("there is no stats.h5 or stats.npy beside it")
    mean, scale = (torch.from_numpy(np.array(each, dtype=np.float32).reshape(-1)) for each in both)
    if len(mean) != mels or len(scale) != mels or not scale.gt(0).all():
        raise ValueError(f"the statistics beside it are {len(mean)} means and {len(scale)} scales for {mels} bands")
    return mean, scale


def _from_hdf5(path: Path) -> list[Any]:
    try:
        h5py = importlib.import_module("h5py")  # not among the requirements: nothing else needs it
    except ImportError:
        raise ValueError("stats.h5 beside it needs the package h5py (pip install h5py)") from None
    try:
        with h5py.File(path) as file:
            parts = [file[name] for name in ("mean", "scale")]
            if any(part.size > 2**20 for part in parts):  # a small file may claim what it was never filled with
                raise ValueError("it claims more numbers than there are bands")
            return [np.asarray(part) for part in parts]
    except (AttributeError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"stats.h5 beside it is not readable ({error})") from error


def _vocos(folder: Path, settings: Settings, weights: Mapping[str, Tensor]) -> Released:
    mels, backbone, head = (settings[part]["init_args"] for part in ("feature_extractor", "backbone", "head"))
    _agree(
        feature_extractor=(
            settings["feature_extractor"]["class_path"],
            "vocos.feature_extractors.MelSpectrogramFeatures",
        ),
        backbone=(settings["backbone"]["class_path"], "vocos.models.VocosBackbone"),
        head=(settings["head"]["class_path"], "vocos.heads.ISTFTHead"),
    )
    _agree(
        input_channels=(backbone["input_channels"], mels.get("n_mels", 100)),
        n_fft=(head["n_fft"], mels.get("n_fft", 1024)),
        hop_length=(head["hop_length"], mels.get("hop_length", 256)),
    )
    n_fft = head["n_fft"]
    mel = MelConfig(
        sample_rate=mels.get("sample_rate", 24000),
        n_fft=n_fft,
        hop=head["hop_length"],
        window=n_fft,
        mels=backbone["input_channels"],
        fmax=None,
        floor=1e-7,
        convention="vocos",
    )
    sizes = {"dim": backbone["dim"], "intermediate": backbone["intermediate_dim"], "layers": backbone["num_layers"]}
    kept = {name: value for name, value in weights.items() if name.startswith(("backbone.", "head.out."))}
    return Released("vocos", mel, sizes, kept)


def _load(network: Generator, found: Released, path: str | Path) -> None:
    """Load published weights, whatever form of weight normalisation they have."""
    expected = network.state_dict()
    state = {"_extra_state": network.get_extra_state()}
    for name, value in found.weights.items():
        layer, _, last = name.rpartition(".")
        norm = f"{layer}.parametrizations.weight.original"
        if last in ("weight_g", "weight_v"):
            state[norm + "01"[last == "weight_v"]] = value
        elif last == "weight" and norm + "0" in expected:  # released without the normalisation
            state[norm + "0"] = value.flatten(1).norm(dim=1).reshape(-1, *[1] * (value.dim() - 1))
            state[norm + "1"] = value
        else:
            state[name] = value
    wrong = sorted(state.keys() ^ expected.keys())
    for name in sorted(state.keys() & expected.keys()):
        if state[name].shape != expected[name].shape:
            wrong.append(f"{name} of shape {tuple(state[name].shape)}")
    if wrong:
        what = f"is {found.name} with {found.sizes}, and does not fit {type(network).__name__}: {wrong[0][:200]!r}"
        raise ValueError(f"{path} {what}; give --generator {found.name} and its sizes")
    for name, value in state.items():
        if not math.isfinite(float(value.double().sum())):
            raise ValueError(f"{path}: tensor {name!r} has values that are not finite; copy it again")
    network.load_state_dict(state)
