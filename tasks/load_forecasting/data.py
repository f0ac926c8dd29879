"""A series cut in time into training, validation and test part, as inputs and targets per position.

At position t, the network has read the series up to t, and the target is the value at t + horizon. A position
belongs to the part that holds the time of its target. So validation and test follow the training part, and nothing of
them is read in training. Forecasts of a part may read what came before it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.load_forecasting.config import ORIGINS
from tasks.load_forecasting.series import Series
from tasks.spec import DataError, Part


class Sizes(NamedTuple):
    """Steps from the present to the target, first positions that are not trained on, and ends of the three parts, if
    not by origins."""

    horizon: int
    burn_in: int
    split: tuple[int, ...] = ()


class Fold(NamedTuple):
    """Inputs and targets of all positions of one fold.

    inputs: (columns, N) float64 in the series' units, the target's own past first. Columns that are known in advance
        are those of the time that is forecast.
    targets: (N,), the target `horizon` steps later.
    ends: steps at which training, validation and test part end.
    burn_in: first positions that are not trained on.
    """

    inputs: NDArray[np.float64]
    targets: NDArray[np.float64]
    horizon: int
    ends: tuple[int, int, int]
    burn_in: int

    def positions(self, part: Part) -> slice:
        """The positions that a part is scored on, or trained on."""
        train, validation, test = (end - self.horizon for end in self.ends)
        return {
            "train": slice(self.burn_in, train),
            "validation": slice(train, validation),
            "test": slice(validation, test),
        }[part]

    def spread(self) -> float:
        """Standard deviation of the target in the training part, the unit of the errors."""
        return float(self.inputs[0, : self.ends[0]].std())


def sizes_of(length: int, sizes: Sizes, fold: int) -> tuple[int, int, int]:
    """Ends of the parts of a fold, in steps.

    Without a split, fold k of 1 to 5 tests on the (5 + k)-th tenth of the series, validates on the one before it, and
    trains on all before.

    Raises:
        DataError: if there is no such fold, or the series is too short.
    """
    if sizes.split:
        ends = (sizes.split[0], sizes.split[1], sizes.split[2])
        if fold != 1:
            raise DataError(f"there is no fold {fold}: with --split, the only one is 1")
    elif fold not in ORIGINS:
        raise DataError(f"there is no fold {fold}; there are {', '.join(map(str, ORIGINS))}")
    else:
        ends = (length * (3 + fold) // 10, length * (4 + fold) // 10, length * (5 + fold) // 10)
    least = sizes.burn_in + 2 * sizes.horizon
    if ends[2] > length:
        raise DataError(f"the series has {length} steps, and the test part is to end at {ends[2]}; change --split")
    if ends[0] < least:
        raise DataError(
            f"the training part of fold {fold} has {ends[0]} steps, fewer than the first {sizes.burn_in}, which are "
            f"not trained on, and two horizons of {sizes.horizon}; lower --burn-in or --horizon, or leave fold "
            f"{fold} out"
        )
    if not ends[0] < ends[1] < ends[2]:
        raise DataError(f"the series has {length} steps, too few for parts of a tenth; give --split")
    return ends


def split(series: Series, known: tuple[str, ...], sizes: Sizes, fold: int) -> Fold:
    """Cut a series for one fold. Raises DataError; see `sizes_of`."""
    ends = sizes_of(series.values.shape[1], sizes, fold)
    horizon, values = sizes.horizon, series.values[:, : ends[2]]
    positions = values.shape[1] - horizon
    inputs = values[:, :positions].copy()
    for row, name in enumerate(series.columns):
        if name in known:
            inputs[row] = values[row, horizon:]
    return Fold(inputs, values[0, horizon:].copy(), horizon, ends, sizes.burn_in)
