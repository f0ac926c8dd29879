"""Settings of log-mel spectrograms, which a generator must agree with; `log_mel` computes them.

The default is HiFi-GAN's: Kong et al., "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity
Speech Synthesis", NeurIPS 2020, section 4.1: 80 bands up to 8 kHz, FFT and window of 1024, hop 256 at 22.05 kHz.
`CONVENTIONS` has what else differs between published vocoders.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args

ConventionName = Literal["hifi_gan", "vocos", "parallel_wavegan"]


HIGHEST_RATE = 768_000
"""Samples per second."""

LONGEST_FFT = 8192
"""Samples; Vocos's inverse transform is a matrix of that size squared."""


class Convention(NamedTuple):
    """How bands are made of spectra. htk: HTK's mel scale and bands of height 1 instead of Slaney's of unit area.
    offset: added to powers before the root. base: of the logarithm. centred: frame f is centred on sample f * hop
    instead of f * hop + hop / 2."""

    htk: bool
    offset: float
    base: float
    centred: bool


CONVENTIONS: Mapping[ConventionName, Convention] = {
    # The 1e-9, from the published code, keeps the gradient of the root finite at silence.
    "hifi_gan": Convention(htk=False, offset=1e-9, base=math.e, centred=False),
    # torchaudio.transforms.MelSpectrogram(power=1). Vocos centres on f * hop, but its output on half a hop later.
    "vocos": Convention(htk=True, offset=0.0, base=math.e, centred=False),
    # librosa.feature.melspectrogram(power=1)
    "parallel_wavegan": Convention(htk=False, offset=0.0, base=10.0, centred=True),
}
"""By the network that published it."""


@dataclass(frozen=True)
class MelConfig:
    """Settings of a log-mel spectrogram.

    A generator that gets mels of other settings than in its training gives noise or, worse, almost right speech. So
    every checkpoint and export holds the settings; see `check_same`.
    """

    sample_rate: int = 22050
    """Samples per second."""
    n_fft: int = 1024
    """Samples per Fourier transform."""
    hop: int = 256
    """Samples between two frames."""
    window: int = 1024
    """Samples under the Hann window."""
    mels: int = 80
    """Bands."""
    fmin: float = 0.0
    """Lower edge of the lowest band, Hz."""
    fmax: float | None = 8000.0
    """Upper edge of the highest band, Hz; None: half the sample rate."""
    floor: float = 1e-5
    """Smallest magnitude; silence becomes its logarithm."""
    convention: ConventionName = field(default="hifi_gan", metadata={"protocol": "if changed"})
    """Filters, logarithm and centre of frames, as these networks have them."""

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop", "window", "mels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {reprlib.repr(value)}; it must be a positive integer")
        if self.sample_rate > HIGHEST_RATE or self.n_fft > LONGEST_FFT or self.mels > self.n_fft // 2 + 1:
            rate, samples, bands = map(reprlib.repr, (self.sample_rate, self.n_fft, self.mels))
            raise ValueError(
                f"sample_rate {rate}, n_fft {samples}, mels {bands}; at most are "
                f"{HIGHEST_RATE} Hz, {LONGEST_FFT} samples, and as many bands as frequencies, n_fft / 2 + 1"
            )
        if not self.hop <= self.window <= self.n_fft:
            hop, window = reprlib.repr(self.hop), reprlib.repr(self.window)
            raise ValueError(
                f"hop {hop}, window {window}, n_fft {self.n_fft}; the window must be at least the hop and at most n_fft"
            )
        if not 0 <= self.fmin < self.top <= self.sample_rate / 2:
            lowest, highest = reprlib.repr(self.fmin), reprlib.repr(self.top)
            raise ValueError(
                f"bands from {lowest} to {highest} Hz; they must lie between 0 and {self.sample_rate / 2} Hz, half the "
                "sample rate"
            )
        if self.convention not in get_args(ConventionName):
            raise ValueError(f"unknown convention {self.convention!r}; known: {', '.join(get_args(ConventionName))}")
        if not 0 < self.floor < 1e30:
            raise ValueError(f"floor is {reprlib.repr(self.floor)}; it must be a positive number, below 1e30")

    @property
    def top(self) -> float:
        """Upper edge of the highest band, Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def silence(self) -> float:
        """The logarithm of the floor."""
        return math.log(self.floor) / math.log(CONVENTIONS[self.convention].base)

    @property
    def compared(self) -> "MelConfig":
        """The mels that truth and output are compared by: always natural logarithms, as HiFi-GAN's, so that distances
        of all generators are in nat."""
        return self if self.convention == "hifi_gan" else replace(self, convention="hifi_gan", floor=1e-5)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without the convention if it is HiFi-GAN's."""
        values = asdict(self)
        return {name: value for name, value in values.items() if (name, value) != ("convention", "hifi_gan")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MelConfig":
        """The opposite of `to_dict`.

        Raises:
            ValueError: for a name that is missing or unknown, or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) | {"convention"} != known:
            names = reprlib.repr(sorted(map(str, values)) if isinstance(values, Mapping) else values)
            raise ValueError(f"a mel configuration has the entries {sorted(known)}, got {names}")
        for name, value in values.items():
            number = isinstance(value, str) if name == "convention" else isinstance(value, int | float | None)
            if (value is None and name != "fmax") or not number:
                raise ValueError(f"{name} of the mel configuration is {reprlib.repr(value)}; it must be a number")
        return cls(**values)


def check_same(expected: MelConfig, found: MelConfig, where: str = "what it is used with") -> None:
    """Raise ValueError, naming every setting that differs with both values, unless both give the same mels.

    Args:
        expected: what the generator was trained on.
        found: what it is compared with.
        where: what `found` belongs to, for the message.
    """
    # fmax=None and half the sample rate are the same bands.
    a, b = expected.to_dict() | {"fmax": expected.top}, found.to_dict() | {"fmax": found.top}
    a, b = {"convention": "hifi_gan"} | a, {"convention": "hifi_gan"} | b
    different = [f"{name} {a[name]} against {b[name]}" for name in a if a[name] != b[name]]
    if different:
        raise ValueError(
            f"the mel configuration of the generator differs from that of {where}: {', '.join(different)}; compute the "
            "mels as the generator was trained on them, or train it anew"
        )
