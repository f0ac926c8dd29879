"""Whether an array is a log-mel that a generator takes; if not, which convention it probably follows.

Mels of another convention make a WAV file of noise, or of almost right speech, and no error. Three measures tell them
apart without the recording:

- The smallest value. No natural logarithm of a magnitude lies below that of the configuration's floor.
- The level. A recording stays within full scale, so that the energy of a frame is bounded (Parseval's theorem).
- The fluctuation between neighbouring frames, which the gain does not change. It is 1 for noise, 1.2 to 1.4 for speech,
  and smaller by ln 10 in logarithms to the base 10.

What the values do not show, nothing here finds: another sample rate, hop or range of frequencies, other filters of the
same area, powers of so quiet a recording that they stay within full scale, 10 log10 of powers that is divided by 10,
logarithms to the base 10 of less than three seconds, a square array that is transposed.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.tts_vocoder.mels.log_mel import LogMel, filters
from tasks.tts_vocoder.mels.mel import CONVENTIONS, MelConfig

LOUDEST = 1.5
"""Times full scale, up to which a level is possible: what acoustic models predict may exceed 1 a little."""

BELOW_FLOOR = 1.0
"""By how much predicted values may lie below the logarithm of the floor."""

Fault = tuple[str, str]
"""What is wrong, and how to mend it."""


class Measures(NamedTuple):
    """What is measured of a mel. low, high, mean, deviation: of its values; floor: whether the smallest value is one
    that others were raised to. level: of the loudest frame, in parts of full scale. fluctuation: see above, NaN for
    less than three frames. swing: of the mean over bands, from the quiet to the loud frames."""

    low: float
    high: float
    mean: float
    deviation: float
    floor: bool
    level: float
    fluctuation: float
    swing: float


def shape_fault(values: Any, config: MelConfig) -> Fault | None:
    """What is wrong with the shape or type of an array that should be (mels, frames), and how to mend it; None if
    nothing. Reads no values."""
    bins, bands = config.n_fft // 2 + 1, config.mels
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.ndim != 2 or 0 in values.shape:
        what = f"holds {getattr(values, 'dtype', type(values))} of shape {getattr(values, 'shape', None)}"
        one = isinstance(values, np.ndarray) and values.ndim == 3 and values.shape[0] == 1
        return what, "save its first entry, mel[0]" if one else "save floats (mels, frames)"
    rows, columns = values.shape
    if rows != bands:
        what = f"holds {rows} bands of {columns} frames; the generator takes {bands} bands, {config}"
        if columns == bands:
            return what, "it is (frames, mels): save its transpose, mel.T"
        if bins in (rows, columns):
            return what, f"{bins} are the frequencies of a linear spectrogram: sum them up by the {bands} mel filters"
        return what, "compute it by that configuration, as (mels, frames)"
    return None


def value_fault(values: NDArray[Any], config: MelConfig) -> Fault | None:
    """What shows that finite values (mels, frames) follow another convention, and how to mend it; None if nothing."""
    base = CONVENTIONS[config.convention].base
    values = values.astype(np.float64)
    padded = (np.ptp(values, axis=0) == 0) & (values[0] > max(config.silence + 0.05, values.min()))
    if padded.any():
        what = f"frame {int(padded.argmax())} holds {values[0, padded.argmax()]:g} in all bands: padding"
        return f"{what} ({int(padded.sum())} such frames)", "cut them off"
    natural = values * math.log(base)
    of, floor = measure(natural, config), math.log(config.floor)
    if config.convention == "hifi_gan":
        found = _below_floor(of, floor) or _too_loud(of, floor) or _other_floor(of, config) or _base_10(natural, config)
    else:
        found = _of_another(of, config)
    if found is None:
        return None
    convention, mend = found
    what = f"is no {'natural logarithm' if base == math.e else 'logarithm to the base 10'} of magnitudes of at least"
    shown = f"{values.min():.4g} to {values.max():.4g}"
    return f"{what} {config.floor:g}: its values, {shown}, look like {convention}", mend


def measure(values: NDArray[np.float64], config: MelConfig) -> Measures:
    """The measures of a mel (mels, frames) in natural logarithms."""
    weights, noise = _reference(config)
    lowest, counts = np.unique(values, return_counts=True)
    second = counts[1] if len(counts) > 1 else 0
    energy = weights @ np.exp(2 * np.minimum(values, 300))
    changes = np.abs(values[:, 1:-1] - (values[:, :-2] + values[:, 2:]) / 2) / noise[:, None]
    means = values.mean(axis=0)
    return Measures(
        float(lowest[0]),
        float(lowest[-1]),
        float(values.mean()),
        float(values.std()),
        bool(counts[0] >= 3 * max(second, 1)),
        float(np.sqrt(energy.max())),
        float(np.median(changes)) if changes.size else math.nan,
        float(np.quantile(means, 0.95) - np.quantile(means, 0.05)),
    )


@functools.lru_cache(maxsize=8)
def _reference(config: MelConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per band: the weight of its squared magnitude in a lower bound of a frame's energy, in parts of full scale, and
    the median fluctuation of noise."""
    bands = filters(config).double().numpy()
    # By Cauchy and Schwarz, the square of a band is at most its area times the energy under it.
    area, peak = bands.sum(axis=1), bands.max(axis=1)
    weights = 1 / (area * peak)
    weights /= ((weights * area) @ bands).max() * config.n_fft * torch.hann_window(config.window).square().sum().item()
    noise = 0.1 * torch.randn(1, 400 * config.hop, generator=torch.Generator().manual_seed(0))
    mel = LogMel(config)(noise)[0].double().numpy() * math.log(CONVENTIONS[config.convention].base)
    changes = np.abs(mel[:, 1:-1] - (mel[:, :-2] + mel[:, 2:]) / 2)
    return 2 * weights, np.median(changes, axis=1)


def _of_another(of: Measures, config: MelConfig) -> Fault | None:
    """For generators of the other conventions: what cannot be theirs; most of what it is instead is not told."""
    if math.log(config.floor) - BELOW_FLOOR <= of.low < 0 and of.level <= LOUDEST:
        return None
    if CONVENTIONS[config.convention].base == 10 and 2 < of.fluctuation < 5 and of.low < 0:
        return "natural logarithms", f"divide by ln 10 ({math.log(10):.6f})"
    return "another convention", f"compute it as the generator was trained on it, {config}"


def _below_floor(of: Measures, floor: float) -> Fault | None:
    if of.low >= floor - BELOW_FLOOR:
        return None
    if of.low < -30 or (of.level > LOUDEST and of.fluctuation > 5):
        return _decibels(of)
    if of.level > LOUDEST:
        return _powers()
    raised = f"numpy.maximum(mel, {floor:.4f})"
    return f"natural logarithms with a floor of {math.exp(of.low):.0e}", f"raise the smaller values to ours: {raised}"


def _too_loud(of: Measures, floor: float) -> Fault | None:
    if of.low >= 0:
        if of.high <= 1.001:
            return _scaled(0, 1)
        return "magnitudes or powers, no logarithms", f"take numpy.log(numpy.maximum(magnitudes, {math.exp(floor):g}))"
    for end in (1, 4):
        if abs(of.low + end) < 1e-3 and abs(of.high - end) < 1e-3:
            return _scaled(-end, end)
    if of.level <= LOUDEST:
        return None
    if abs(of.mean) < 0.5 and 0.6 < of.deviation < 1.4:
        mend = "multiply by the deviation and add the mean that it was normalised by"
        return f"standardised ones (mean {of.mean:.2f}, deviation {of.deviation:.2f})", mend
    if of.fluctuation > 5:
        return _decibels(of)
    if of.fluctuation > 1.8:
        return _powers()
    what = f"{20 * math.log10(of.level):.0f} dB above full scale: of powers, of integer samples, or by other filters"
    return what, "compute it again from magnitudes of samples within 1, by Slaney's filters of unit area"


def _other_floor(of: Measures, config: MelConfig) -> Fault | None:
    """Another floor by its logarithm: several values are equal to it."""
    if not of.floor or abs(of.low - math.log(config.floor)) < 0.05 or of.low > -1.5:
        return None
    if abs(of.low - round(of.low)) < 1e-3:
        return _logarithms_10(f" with a floor of {10**of.low:.0e}")
    digits = of.low / math.log(10)
    if abs(digits - round(digits)) < 1e-3:
        mend = f"compute it again with a floor of {config.floor:g}, or load a generator that was trained on it"
        return f"natural logarithms with a floor of {math.exp(of.low):.0e}", mend
    return None


def _base_10(values: NDArray[np.float64], config: MelConfig) -> Fault | None:
    """Logarithms to the base 10, if times ln 10 they are speech by every measure: they reach up to LJSpeech's quietest
    pauses, are as loud, as uneven and as lively. Natural logarithms of sound without a pause rarely are all of it."""
    of = measure(values * math.log(10), config)
    speech = math.log(config.floor) - 3 <= of.low and of.level <= 1 and of.mean <= -4 and 1.4 <= of.deviation <= 2.5
    return _logarithms_10() if speech and 0.95 <= of.fluctuation <= 1.7 and of.swing >= 2.8 else None


def _logarithms_10(more: str = "") -> Fault:
    return f"logarithms to the base 10{more}", f"multiply by ln 10 ({math.log(10):.6f})"


def _scaled(low: int, high: int) -> Fault:
    return f"a scale from {low} to {high}", "undo that normalisation by the values that it was made with"


def _decibels(of: Measures) -> Fault:
    if abs(of.high) < 1e-3:
        return "decibels below the loudest value", "its level is lost: compute it again as natural logarithms"
    return "decibels (20 log10)", f"multiply by ln(10) / 20 ({math.log(10) / 20:.6f})"


def _powers() -> Fault:
    return "logarithms of powers", "compute it again from magnitudes (power=1)"
