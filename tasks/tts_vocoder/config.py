"""Settings of a training, and the named presets."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rfnext import Bounds, LocalConfig
from tasks import fingerprints
from tasks.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_ranges
from tasks.tts_vocoder.measures import SHORTEST
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.mels.predicted import Predicted
from tasks.tts_vocoder.recordings import embedded
from tasks.tts_vocoder.recordings.clips import Loudness, Shape

DatasetName = Literal["asterisk", "espeak", "ljspeech", "folder"]
GeneratorName = Literal[
    "hifi_gan_v1",
    "hifi_gan_v2",
    "hifi_gan_v3",
    "causal_hifi_gan",
    "bigvgan_base",
    "bigvgan",
    "parallel_wavegan",
    "vocos",
    "source_filter",
]
Recipe = Literal["stft", "gan"]
Discriminator = Literal["period", "scale", "resolution"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

SIZES = {"parallel_wavegan": ("upsampling", "layers"), "vocos": ("layers", "dim"), "source_filter": ("layers", "dim")}
"""Which sizes a generator has; the others have channels and upsampling."""

RANGES = {
    **dict.fromkeys(("epochs", "batch", "segment", "segments_per_clip", "validate_every", "clips", "folds"), COUNT),
    **dict.fromkeys(("channels", "upsampling", "layers", "dim"), COUNT),
    **dict.fromkeys(("test", "validation", "lr"), POSITIVE),
    "lr_decay": Range(above=0, most=1),
    "ema": SHARE,
    "workers": NOT_NEGATIVE,
}


@dataclass(frozen=True)
class Config:
    """Settings of one training. The defaults are HiFi-GAN's published ones, on the embedded data."""

    dataset: DatasetName = field(default_factory=embedded.best_source)
    """asterisk: real prompts of a Debian package. espeak: embedded synthetic speech. ljspeech: LJSpeech-1.1. folder:
    your own recordings (`python -m tasks.tts_vocoder.check PATH` validates them). Default: asterisk if its package is
    installed, else espeak."""
    root: Path | None = field(default=None, metadata={"protocol": False})
    """Data folder; by default $RFNEXT_DATA/<dataset>, or data/<dataset> in this repository."""
    clips: int | None = None
    """Use only this many clips, evenly spaced in the order of their names; None: all."""
    folds: tuple[int, ...] = (1,)
    """Folds that the data has; the test part of fold f is the f-th block of clips from the end."""
    test: float = 0.1
    """Test clips of a fold: their number, or, below 1, their share of all clips."""
    validation: float = 0.1
    """Validation clips, likewise; they are taken out of the training part."""
    trim: bool = False
    """Cut silence at the ends of clips."""
    loudness: Loudness = "peak"
    """peak: scale every clip to a peak of 0.95. as_is: do not scale."""

    mels: Path | None = field(default=None, metadata={"protocol": False})
    """Folder of mels that an acoustic model predicted for the recordings, <clip>.npy, to train and score on instead of
    those of the recordings; see `predicted`. They need trim off and loudness as_is. None: mels of the recordings."""
    mels_fingerprint: str | None = field(default=None, metadata={"protocol": "if changed"})
    """Of the content of mels; found by itself."""
    mel: MelConfig = field(default_factory=MelConfig)
    """Log-mel spectrogram, the input of the generator; recordings are resampled to its sample rate."""
    generator: GeneratorName = "hifi_gan_v1"
    """Network. Sizes below that are None are the published ones."""
    channels: int | None = None
    """HiFi-GAN, BigVGAN: channels after the first conv."""
    upsampling: tuple[int, ...] | None = None
    """HiFi-GAN, BigVGAN, Parallel WaveGAN: factors whose product is the mel's hop."""
    layers: int | None = None
    """Parallel WaveGAN, Vocos, source-filter: layers."""
    dim: int | None = None
    """Vocos, source-filter: channels."""
    init: Path | None = field(default=None, metadata={"protocol": False})
    """Checkpoint whose weights every training starts from, searches too: HiFi-GAN's, Parallel WaveGAN's or Vocos's as
    they were released, with their settings beside them, or one of this repository. None: random weights."""
    init_fingerprint: str | None = field(default=None, metadata={"protocol": "if changed"})
    """Of the content of init; found by itself."""

    recipe: Recipe = "gan"
    """gan: adversarial, feature matching and mel loss. stft: spectral losses alone, without discriminators."""
    search_recipe: Recipe = "stft"
    """Recipe of the training that searches. The structure that it finds is then trained by `recipe`."""
    discriminators: tuple[Discriminator, ...] = ("period", "scale")
    """Discriminators of recipe gan."""
    discriminator_divisor: int = 1
    """Divisor of the discriminators' published numbers of channels: 1, 2, 4 or 8."""
    epochs: int = 100
    """Epochs of one training."""
    batch: int = 16
    """Segments per step."""
    segment: int = 8192
    """Samples per segment; a multiple of the mel's hop."""
    segments_per_clip: int = 1
    """Segments cut from every clip in an epoch."""
    lr: float = 2e-4
    """Learning rate of AdamW (betas 0.8 and 0.99)."""
    lr_decay: float = 0.999
    """Factor on the learning rate after every epoch."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is scored and kept; None: no average."""
    precision: Precision = "32-true"
    """32-true, or mixed precision: bf16-mixed, 16-mixed (CUDA)."""
    validate_every: int = 5
    """Epochs between two measurements of the validation part, from which the best epoch is chosen."""
    workers: int = field(default=0, metadata={"protocol": False})
    """Processes that cut segments; 0: the training process cuts them."""

    search: LocalConfig = field(
        default_factory=lambda: LocalConfig(interval=5, rounds=10, spread=0.5, branches=3, bounds=Bounds(1, 64))
    )
    """Local search, counted in epochs."""

    def __post_init__(self) -> None:
        choices = {
            "dataset": DatasetName,
            "generator": GeneratorName,
            "recipe": Recipe,
            "search_recipe": Recipe,
            "loudness": Loudness,
            "precision": Precision,
        }
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(get_args(choice))}")
        if not self.discriminators or set(self.discriminators) - set(get_args(Discriminator)):
            raise ValueError(f"discriminators are {self.discriminators}; name some of {get_args(Discriminator)}")
        check_ranges(self, RANGES)
        shortest = max(SHORTEST, self.mel.n_fft)
        if self.segment % self.mel.hop or self.segment < shortest:
            raise ValueError(
                f"segment is {self.segment}; it must be a multiple of the mel's hop, {self.mel.hop}, and at least "
                f"{shortest}, the longest transform"
            )
        fingerprints.recognise(self, "init")
        fingerprints.recognise(self, "mels", folder=True)
        if self.mels is not None and (self.trim or self.loudness != "as_is"):
            raise ValueError("mels belong to the recordings as they are; give --no-trim --loudness as_is")
        if self.discriminator_divisor not in (1, 2, 4, 8):
            raise ValueError(f"discriminator_divisor is {self.discriminator_divisor}; it must be 1, 2, 4 or 8")

    def without_effect(self) -> dict[str, str]:
        """Fields that change nothing in this config, and where that is so: a command line that sets one is refused."""
        has = SIZES.get(self.generator, ("channels", "upsampling"))
        sizes = [name for name in ("channels", "upsampling", "layers", "dim") if name not in has]
        idle = dict.fromkeys(sizes, f"on {self.generator}, which has {' and '.join(has)}")
        if "gan" not in (self.recipe, self.search_recipe):
            idle |= dict.fromkeys(("discriminators", "discriminator_divisor"), "where no recipe is gan")
        return idle

    @property
    def shape(self) -> Shape:
        """What every clip is after preparation."""
        mels = None if self.mels is None else Predicted(self.mels, self.mel, self.mels_fingerprint)
        return Shape(self.mel.sample_rate, self.mel.top, self.trim, self.loudness, mels)

    @property
    def sizes(self) -> dict[str, Any]:
        """Keyword arguments of the generator."""
        given = {name: getattr(self, name) for name in ("channels", "upsampling", "layers", "dim")}
        return {name: value for name, value in given.items() if value is not None}


AT_16_KHZ = MelConfig(sample_rate=16000)

TINY = Config(
    clips=40,
    folds=(1, 2, 3),
    test=4,
    validation=4,
    trim=True,
    mel=AT_16_KHZ,
    generator="source_filter",
    recipe="stft",
    epochs=6,
    batch=8,
    segments_per_clip=2,
    lr=2e-3,
    lr_decay=0.9,
    validate_every=3,
    search=LocalConfig(interval=1, rounds=5, spread=0.5, branches=3, bounds=Bounds(1, 32)),
)

TINY_GAN = replace(
    TINY,
    folds=(1,),
    channels=32,
    epochs=4,
    segments_per_clip=1,
    validate_every=4,
    search=replace(TINY.search, rounds=3),
)
"""Seconds of training for a generator that makes samples by upsampling, which learns to speak in hours."""

PRESETS = {
    # Words are understood after seconds of training on one core; the search runs through all its rounds.
    "tiny": TINY,
    "tiny-bigvgan": replace(TINY_GAN, generator="bigvgan_base"),
    "tiny-causal": replace(TINY_GAN, generator="causal_hifi_gan"),
    # A published network on all of the embedded speech, without discriminators.
    "small": Config(
        trim=True,
        mel=AT_16_KHZ,
        generator="hifi_gan_v2",
        recipe="stft",
        epochs=60,
        segments_per_clip=4,
        lr=1e-3,
        lr_decay=0.97,
        search=LocalConfig(interval=5, rounds=10, spread=0.5, branches=3, bounds=Bounds(1, 32)),
    ),
    # HiFi-GAN's schedule, 2.5 million steps of 16 segments, and the sizes of its parts.
    "ljspeech": Config(
        dataset="ljspeech",
        test=150,
        validation=150,
        epochs=3100,
        validate_every=10,
        search=LocalConfig(interval=100, rounds=10, spread=0.5, branches=3, bounds=Bounds(1, 64)),
    ),
    # Own recordings.
    "folder": Config(dataset="folder", trim=True),
}

PAPER = ("ljspeech",)
"""Presets with the data and settings of papers."""
