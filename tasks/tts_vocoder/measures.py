"""What is measured of speech: names, directions and units; `metrics` computes them."""

from tasks.spec import Metric

METRICS = (
    Metric("mel_l1", higher_is_better=False, decimals=3, unit="nat"),
    Metric("mr_stft", higher_is_better=False, decimals=3, unit=""),
    Metric("mcd", higher_is_better=False, decimals=2, unit="dB"),
    Metric("mcd_dtw", higher_is_better=False, decimals=2, unit="dB"),
    Metric("f0_rmse", higher_is_better=False, decimals=1, unit="cent"),
    Metric("vuv_f1", decimals=1, unit="%"),
    Metric("stoi", decimals=1, unit="%"),
)
"""The results of `metrics.score`, in this order; the first drives searches."""

SHORTEST = 2048
"""Samples of the longest transform of `losses.MultiResolutionSTFT`; shorter waves are padded with silence to it."""
