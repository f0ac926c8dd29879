"""Speech from a recording or a saved mel: `python -m tasks.tts_vocoder.synthesize IN OUT.wav --checkpoint CKPT`.

IN is audio (copy synthesis: its mel is computed as in the generator's training, after resampling if needed) or a
log-mel as .npy, (mels, frames), natural logarithms of magnitudes. A mel may have its configuration beside it as
<name>.json, as `--save-mel` writes it; the configuration must then be that of the generator.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rfnext.files import write_bytes, write_text
from tasks import checkpoint
from tasks.spec import fail
from tasks.tts_vocoder.clips import Shape, read_clip
from tasks.tts_vocoder.evaluation import synthesise
from tasks.tts_vocoder.export import merged, to_onnx
from tasks.tts_vocoder.mel import LogMel, MelConfig, check_same
from tasks.tts_vocoder.models import generator_of


def mel_of_recording(path: Path, mel: MelConfig) -> Tensor:
    """Log-mel (1, mels, frames) of an audio file, resampled and mixed to one channel but not scaled.

    Raises DataError if the file cannot be used or is shorter than one window.
    """
    clip = read_clip(path.stem, path, Shape(mel.sample_rate, mel.top, loudness="as_is"), fail)
    assert clip is not None  # `fail` never returns
    if len(clip.wave) < mel.n_fft:
        fail(path, None, f"{len(clip.wave)} samples are less than one window of {mel.n_fft}", "give a longer recording")
    return LogMel(mel)(torch.from_numpy(clip.wave)[None])


def mel_of_file(path: Path, mel: MelConfig) -> Tensor:
    """Log-mel (1, mels, frames) that was saved as .npy, checked against the generator's configuration.

    Raises ValueError if the file is no such mel, or its configuration is another one.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        fail(path, None, "no such file", "give audio, or a log-mel as .npy")
    except Exception as error:  # numpy's header parser lets errors of many kinds through
        fail(path, None, f"not a readable .npy file ({error})", "save the mel with numpy.save as (mels, frames) floats")
    sidecar = path.with_suffix(".json")
    if sidecar.exists():
        try:
            found = MelConfig.from_dict(json.loads(sidecar.read_text("utf-8")))
        except (UnicodeDecodeError, ValueError) as error:
            fail(sidecar, None, f"not a mel configuration ({error})", "write it by --save-mel, or take it away")
        check_same(mel, found, str(path))
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f" or values.shape[1] == 0:
        what = f"{getattr(values, 'dtype', type(values))} of shape {getattr(values, 'shape', None)}"
        fail(path, None, f"holds {what}", "save floats (mels, frames)")
    if values.shape[0] != mel.mels:
        what = f"holds {values.shape[0]} bands of {values.shape[1]} frames; the generator takes {mel.mels} bands, {mel}"
        fail(path, None, what, "compute it by that configuration, as (mels, frames)")
    if not np.isfinite(values).all():
        fail(path, None, "holds values that are not finite", "compute it again")
    return torch.from_numpy(values.astype(np.float32))[None]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message if it fails."""
    import soundfile

    parser = argparse.ArgumentParser(
        prog="python -m tasks.tts_vocoder.synthesize",
        description="Synthesise speech from a recording (copy synthesis) or from a log-mel saved as .npy.",
    )
    parser.add_argument("source", type=Path, nargs="?", help="audio file, or .npy of (mels, frames)")
    parser.add_argument("output", type=Path, nargs="?", help="16-bit WAV file to write")
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a cell, selected.pt of a training")
    parser.add_argument("--save-mel", type=Path, metavar="MEL.npy", help="write the log-mel and its configuration, too")
    parser.add_argument("--onnx", type=Path, metavar="OUT.onnx", help="write the merged generator as ONNX")
    given = parser.parse_args(arguments)
    if (given.source is None) != (given.output is None) or (given.source is None and given.onnx is None):
        parser.error("give SOURCE and OUTPUT.wav, or --onnx")
    try:
        network = generator_of(checkpoint.load(given.checkpoint, "tts_vocoder").model)
        if given.onnx is not None:
            to_onnx(network, network.mel_config, given.onnx)
        if given.source is None:
            return
        mel = (mel_of_file if given.source.suffix == ".npy" else mel_of_recording)(given.source, network.mel_config)
        if given.save_mel is not None:
            write_mel(given.save_mel, mel[0], network.mel_config)
        wave = synthesise(merged(network), mel)[0].numpy()
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, network.mel_config.sample_rate, format="WAV", subtype="PCM_16")
        write_bytes(given.output, buffer.getvalue())
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def write_mel(path: Path, mel: Tensor, config: MelConfig) -> None:
    """Write a log-mel (mels, frames) as .npy, and its configuration beside it as .json, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, mel.numpy())
    write_bytes(path, buffer.getvalue())
    write_text(path.with_suffix(".json"), json.dumps(config.to_dict()))


if __name__ == "__main__":
    main()
