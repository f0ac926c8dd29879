"""Log-mels in files: NAME.npy of (mels, frames), and, if it was written here, its configuration beside it as .json."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfnext.files import read_json, reason, write_bytes, write_text
from tasks.npy_files import open_array
from tasks.spec import Report, fail
from tasks.tts_vocoder.mels.mel import MelConfig, check_same
from tasks.tts_vocoder.mels.mel_check import shape_fault, value_fault

LONGEST = 3600
"""Seconds of the longest mel."""

MOST_VALUES = 2**28
"""Of an array that may be a mel, 1 GiB: an hour of 80 bands at 22.05 kHz and hop 256 has a tenth of it."""


def write_mel(path: Path, mel: Tensor, config: MelConfig) -> None:
    """Write a log-mel (mels, frames) as .npy, and its configuration beside it as .json, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, mel.numpy())
    write_bytes(path, buffer.getvalue())
    write_text(path.with_suffix(".json"), json.dumps(config.to_dict()))


def read_mel(path: Path, config: MelConfig, report: Report = fail) -> Tensor | None:
    """The log-mel (mels, frames) of a .npy file, float32, raised to the floor; None, once reported, if it is no mel of
    this configuration.

    A configuration beside it, as `write_mel` leaves one, must be the same. Without one, the values tell whether they
    are natural logarithms of magnitudes (`mel_check`).
    """
    values = _open(path, report)
    if values is None:
        return None
    told = _told(path, config, report)
    if told is None:
        return None
    fault = shape_fault(values, config)
    if fault is None and values.shape[1] * config.hop > LONGEST * config.sample_rate:
        fault = f"claims {values.shape[1]} frames, more than {LONGEST // 3600} hour", "cut it into sentences"
    if fault is None and not np.isfinite(values).all():
        fault = "holds values that are not finite", "compute it again"
    if fault is None and not told:
        fault = value_fault(np.asarray(values), config)
    if fault is not None:
        report(path, None, *fault)
        return None
    return torch.from_numpy(np.array(values, dtype=np.float32)).clamp(min=float(np.float32(config.silence)))


def _open(path: Path, report: Report) -> Any:
    """The array, its values still in the file."""
    try:
        return open_array(path, MOST_VALUES)
    except FileNotFoundError:
        report(path, None, "no such file", "give audio, or a log-mel as .npy")
    except (OSError, ValueError) as error:
        fix = "save the mel with numpy.save as (mels, frames) floats"
        report(path, None, f"not a readable .npy file ({reason(error)})", fix)
    return None


def _told(path: Path, config: MelConfig, report: Report) -> bool | None:
    """Whether a file beside the mel says that it is of this configuration; None, once reported, if of another one."""
    sidecar = path.with_suffix(".json")
    if not sidecar.exists():
        return False
    try:
        found = MelConfig.from_dict(read_json(sidecar))
    except (OSError, ValueError) as error:
        report(sidecar, None, f"not a mel configuration ({reason(error)})", "write it by --save-mel, or take it away")
        return None
    try:
        check_same(config, found, str(path))
    except ValueError as error:
        what, _, fix = str(error).rpartition("; ")
        report(path, None, what, fix)
        return None
    return True
