"""Settings of a training, and the named presets."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from rfnext import Bounds, LocalConfig
from tasks.ranges import COUNT, DROPOUT, NOT_NEGATIVE, POSITIVE, Range, check_ranges

DatasetName = Literal[
    "elecdemand",
    "taylor",
    "calls",
    "births",
    "departures",
    "motorway",
    "stops",
    "treering",
    "sunspots",
    "ridership",
    "temperature",
    "tweets",
    "etth1",
    "etth2",
    "folder",
]
Head = Literal["mse", "quantile"]

QUANTILES = (0.1, 0.5, 0.9)
"""What the head "quantile" forecasts; the middle one is scored as the forecast."""

ORIGINS = (1, 2, 3, 4, 5)
"""Folds that a series without ends of its parts is cut into."""

LAYERS = 20
"""Most layers: the last one's dilation by design is half a million steps."""

RANGES = {
    **dict.fromkeys(("horizon", "width", "epochs", "steps", "validate_every", "seasons"), COUNT),
    **dict.fromkeys(("burn_in", "trailing"), NOT_NEGATIVE),
    "layers": Range(least=1, most=LAYERS),
    "dropout": DROPOUT,
    "lr": POSITIVE,
}

SEARCH = LocalConfig(interval=3, rounds=10, spread=0.5, branches=3, bounds=Bounds(1, 512))
"""The local search, counted in epochs. 512 half hours are ten days."""


@dataclass(frozen=True)
class Config:
    """Settings of one training. The defaults are a small network on the embedded data."""

    dataset: DatasetName = "elecdemand"
    """elecdemand: embedded half-hourly demand of Victoria in 2014, with working days and temperature. taylor: embedded
    half-hourly demand of England and Wales. calls: embedded calls to a bank per five minutes. births: embedded births
    in the United States per day. departures: embedded flights that left New York per hour. motorway: embedded
    emissions of the cars on a motorway per hour. stops: embedded stops by police per hour. treering: embedded
    widths of tree rings per year, which have no season. sunspots: embedded sunspots per month. ridership: embedded
    passengers of a station in Chicago per day. temperature: embedded temperature at an airport per hour. tweets:
    embedded tweets by Donald Trump per hour. etth1, etth2: hourly oil temperature of two transformers. folder: your
    own series.csv (`python -m tasks.load_forecasting.check PATH` validates it)."""
    root: Path | None = field(default=None, metadata={"protocol": False})
    """Data folder; by default $RFNEXT_DATA/<dataset>, or data/<dataset> in this repository."""
    time: str = "time"
    """Column of series.csv with the time stamps."""
    target: str = "target"
    """Column of series.csv that is forecast; all other columns are covariates."""
    known: tuple[str, ...] = ()
    """Covariates of series.csv that are known in advance, such as working days: the network reads their value at the
    time that it forecasts, and others' up to the present."""
    folds: tuple[int, ...] = ORIGINS
    """Origins. Fold k tests on the k-th of the last five tenths of the series, validates on the tenth before it, and
    trains on all that is older."""
    split: tuple[int, ...] = ()
    """Ends of the training, validation and test part in steps, instead of origins; then the only fold is 1."""
    horizon: int = 48
    """Steps from the present to the time that is forecast."""
    seasons: tuple[int, ...] = (48, 336)
    """Steps of a day and of a week, say: the persistence forecasts repeat the value of so long ago."""
    burn_in: int = 672
    """First positions of the series, which are not trained on: they have too little past. The same for all
    structures."""

    layers: int = 3
    """Residual blocks, each with one conv of kernel 3 that is searched. By design, their dilations are 1, 2, 4, ..."""
    width: int = 24
    """Channels of every block."""
    dropout: float = 0.1
    """Dropout of every block; whole channels."""
    trailing: int = 0
    """If above 0, the mean of the target's last so many values is taken out of its input and added to the forecast, so
    that a level that drifts does not matter. At most as many as the training part has."""
    head: Head = "mse"
    """mse: the mean is forecast. quantile: the quantiles 0.1, 0.5 and 0.9, by the pinball loss."""

    epochs: int = 50
    """Epochs of one training."""
    steps: int = 10
    """Steps of an epoch; each is on the whole training part."""
    lr: float = 0.01
    """Learning rate of Adam; it falls to zero along half a cosine."""
    validate_every: int = 2
    """Epochs between two scorings of the validation part, from which the best epoch is chosen."""

    search: LocalConfig = field(default_factory=lambda: SEARCH)
    """Local search, counted in epochs."""

    def __post_init__(self) -> None:
        if self.dataset not in get_args(DatasetName) or self.head not in get_args(Head):
            known = f"{', '.join(get_args(DatasetName))}; {', '.join(get_args(Head))}"
            raise ValueError(f"unknown dataset {self.dataset!r} or head {self.head!r}; known: {known}")
        check_ranges(self, RANGES)
        if self.trailing == 1:  # without its last value, a series is zero
            raise ValueError(f"trailing is {self.trailing}; it must be 0 or at least 2")
        if not self.folds or len(set(self.folds)) < len(self.folds) or not set(self.folds) <= set(ORIGINS):
            raise ValueError(f"folds are {self.folds}; they must be different ones of {', '.join(map(str, ORIGINS))}")
        if self.split and (len(self.split) != 3 or not 0 < self.split[0] < self.split[1] < self.split[2]):
            raise ValueError(
                f"split is {self.split}; it must be three ascending ends, of training, validation and test"
            )

    def without_effect(self) -> dict[str, str]:
        """Fields that change nothing in this config, and where that is so: a command line that sets one is refused."""
        return {"folds": "where split gives the ends of the parts"} if self.split else {}


ETT = Config(
    target="OT",
    time="date",
    folds=(1,),
    split=(8640, 11520, 14400),
    horizon=24,
    seasons=(24, 168),
    burn_in=336,
    trailing=168,
)
"""Hourly data; the split is that of Zhou et al., "Informer", AAAI 2021: 12, 4 and 4 months of 30 days."""

HOURLY = Config(horizon=24, seasons=(24, 168), burn_in=336)
"""Hourly data of a year."""

DAILY = Config(dataset="births", horizon=7, seasons=(7, 364), burn_in=728, trailing=364)
"""Daily data of many years, over which the level drifts."""

PRESETS = {
    # For tests and first tries: a few seconds per training on one core; the search runs through all its rounds.
    "tiny": Config(
        width=16, epochs=24, search=LocalConfig(interval=2, rounds=10, spread=0.5, branches=3, bounds=Bounds(1, 512))
    ),
    "small": Config(),
    "taylor": Config(dataset="taylor", burn_in=336),
    "calls": Config(dataset="calls", horizon=169, seasons=(169, 845), burn_in=1690),
    "births": DAILY,
    "departures": replace(HOURLY, dataset="departures"),
    "motorway": replace(HOURLY, dataset="motorway"),
    "stops": replace(HOURLY, dataset="stops"),
    "treering": Config(dataset="treering", horizon=1, seasons=(), burn_in=512),
    # A year, and a cycle of eleven.
    "sunspots": Config(dataset="sunspots", horizon=12, seasons=(12, 132), burn_in=264),
    "ridership": replace(DAILY, dataset="ridership"),
    # Weather has no week. The level drifts over the year, as that of the transformers does.
    "temperature": replace(HOURLY, dataset="temperature", seasons=(24, 72), trailing=168),
    "tweets": replace(HOURLY, dataset="tweets"),
    "etth1": replace(ETT, dataset="etth1"),
    "etth2": replace(ETT, dataset="etth2"),
    "folder": Config(dataset="folder"),
}
