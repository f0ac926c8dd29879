"""Export of generators: ONNX, torch.export, and synthesis chunk by chunk.

Exports hold the merged generator (every searched conv one plain conv, weight normalisation folded in) for any number
of frames, and the mel configuration. Their inputs are "mel" (B, mels, F) and, for Parallel WaveGAN, "noise"
(B, hop, F), for the source-filter network "source" (B, 2 * hop, F); the output is "wave" (B, 1, F * hop).
"""

import copy
import io
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rfnext import merge
from rfnext.files import parse_json, write_bytes
from rfnext.structure import searched_convs
from tasks.diverged import NotFinite, finite
from tasks.tts_vocoder.generators import Generator, remove_weight_norm
from tasks.tts_vocoder.mels.mel import MelConfig, check_same

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

KEY = "mel_config"
"""Name of the mel configuration in an export, as JSON."""


def merged(generator: Generator) -> Generator:
    """A copy in eval mode whose convs are all plain: branches merged, weight normalisation folded in."""
    plain = copy.deepcopy(generator).eval()
    if searched_convs(plain):
        merge(plain)
    remove_weight_norm(plain)
    return plain.requires_grad_(False)


def to_exported_program(generator: Generator, mel_config: MelConfig, path: str | Path) -> None:
    """Write a .pt2 file, atomically. torch opens it without this project:

        extra = {"mel_config": ""}
        program = torch.export.load(path, extra_files=extra)    # extra["mel_config"] is JSON now
        wave = program.module()(mel)

    Raises:
        ValueError: if `mel_config` is not that of the generator.
        NotFinite: if the network diverged, or overflows on silence.
        OSError: if the file cannot be written.
    """
    check_same(generator.mel_config, mel_config, "the export")
    plain, inputs, axes = _arguments(generator)
    program = torch.export.export(plain, inputs, dynamic_shapes=axes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={KEY: json.dumps(mel_config.to_dict())})
    write_bytes(path, buffer.getvalue())


def to_onnx(generator: Generator, mel_config: MelConfig, path: str | Path) -> None:
    """Write an ONNX file, atomically; the mel configuration is in its metadata.

    Raises:
        ValueError: if `mel_config` is not that of the generator.
        NotFinite: if the network diverged, or overflows on silence.
        OSError: if the file cannot be written.
    """
    check_same(generator.mel_config, mel_config, "the export")
    plain, inputs, axes = _arguments(generator)
    with warnings.catch_warnings():
        # The axes of mel and noise share their names on purpose.
        warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
        program = torch.onnx.export(
            plain, inputs, dynamic_shapes=axes, output_names=["wave"], dynamo=True, verbose=False
        )
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(mel_config.to_dict())
    write_bytes(path, model.SerializeToString())


def _arguments(generator: Generator) -> tuple[Generator, tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """The merged generator, example inputs, and the axes of each that may have any size."""
    plain = merged(generator)
    # torch takes sizes of 1 for constants.
    inputs = plain.inputs(
        torch.full((2, plain.mel_config.mels, 16), plain.mel_config.silence).to(next(plain.parameters()))
    )
    with torch.no_grad(), finite(plain):  # a network that diverged is not handed on
        plain(*inputs)
    axes = {0: torch.export.Dim("batch", min=1), 2: torch.export.Dim("frames", min=1)}
    return plain, inputs, tuple(axes for _ in inputs)


def load_onnx(path: str | Path, threads: int | None = None) -> "tuple[onnxruntime.InferenceSession, MelConfig]":
    """Open what `to_onnx` wrote, on the CPU; needs onnxruntime alone.

    Args:
        path: the file.
        threads: of the session; None: as onnxruntime chooses.

    Raises:
        ValueError: naming the file, if it is no ONNX file or holds no mel configuration.
        OSError: if the file cannot be read.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:  # onnxruntime's own classes, one per kind of fault
        raise ValueError(f"{path} is not an ONNX file that onnxruntime can run: {error}") from None
    return session, _stored(session.get_modelmeta().custom_metadata_map.get(KEY), path)


def run_onnx(session: "onnxruntime.InferenceSession", mel: "np.ndarray", seed: int = 0) -> "np.ndarray":
    """Synthesise with a session of `load_onnx`; noise, where the generator takes it, is drawn from the seed. The source
    of the source-filter network is made by it (`SourceFilter.source`): feed that to the session yourself.

    mel: (B, mels, F), float32 -> (B, 1, F * hop), float32

    Raises ValueError for a session that takes a source, NotFinite if the wave is no numbers.
    """
    import numpy as np

    if any(extra.name == "source" for extra in session.get_inputs()):
        raise ValueError("this network takes a source beside the mels; give the session that of SourceFilter.source")
    feeds = {"mel": mel}
    for extra in session.get_inputs()[1:]:
        shape = (mel.shape[0], extra.shape[1], mel.shape[2])
        feeds[extra.name] = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    wave = np.asarray(session.run(None, feeds)[0])
    if not np.isfinite(wave).all():
        raise NotFinite("the network gives values that are not finite")
    return wave


def _stored(text: str | None, path: str | Path) -> MelConfig:
    if not text:
        raise ValueError(f"{path} holds no mel configuration; export the generator anew with this module")
    try:
        return MelConfig.from_dict(parse_json(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@torch.no_grad()
def context(generator: Generator) -> tuple[int, int]:
    """How many frames before and after its own the samples of a frame depend on: the theoretical receptive field.

    `rfnext.receptive_field` needs a dozen passes. Here all frames are treated alike, so one pass with one frame of NaN
    is enough: the NaN samples of the output depend on it.
    """
    hop, frames = generator.mel_config.hop, 32
    while True:
        mel = torch.zeros(1, generator.mel_config.mels, frames).to(next(generator.parameters()))
        _, *others = generator.inputs(mel)  # what is made of all frames is an input of its own
        mel[:, :, frames // 2] = torch.nan
        reached = generator(mel, *others)[0, 0].isnan().nonzero()
        first, last = int(reached.min()) // hop, int(reached.max()) // hop
        if first > 0 and last < frames - 1:
            # If a sample depends on a frame k frames earlier, the context before is k frames.
            return last - frames // 2, frames // 2 - first
        frames *= 2


@torch.no_grad()
def stream(
    generator: Generator, mel: Tensor, chunk_frames: int, around: tuple[int, int] | None = None
) -> Iterator[Tensor]:
    """Synthesise chunk by chunk. Joined, the chunks equal the output of one call up to rounding: each is computed from
    all the frames that it depends on.

    Args:
        generator: any, in eval mode; of one with branches `merged(generator)` may be slower, see `speed`.
        mel: (B, mels, F)
        chunk_frames: frames per chunk, at least 1. Fewer give the first sound earlier and cost more in total.
        around: `context(generator)`, if it was computed before.

    Yields:
        (B, 1, n * hop) for n = chunk_frames frames, fewer in the last chunk.

    Raises:
        ValueError: if `chunk_frames` is below 1 or the mels do not fit the generator.
        NotFinite: if a layer overflows.
    """
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames is {chunk_frames}; it must be at least 1")
    generator.check(mel)
    before, after = context(generator) if around is None else around
    inputs = generator.inputs(mel)
    hop, frames = generator.mel_config.hop, mel.shape[2]
    for start in range(0, frames, chunk_frames):
        end = min(start + chunk_frames, frames)
        first, last = max(start - before, 0), min(end + after, frames)
        with finite(generator):
            wave = generator(*(x[..., first:last] for x in inputs))
        yield wave[..., (start - first) * hop : (end - first) * hop]
