"""Settings that cannot be, each refused by its name."""

import math
from typing import Any

import pytest

from tasks.load_forecasting.config import Config


@pytest.mark.parametrize(
    "field",
    [
        {"folds": ()},
        {"folds": (1, 9)},
        {"folds": (2, 2)},
        {"horizon": 0},
        {"seasons": (0,)},
        {"split": (1, 2)},
        {"split": (3, 2, 1)},
        {"trailing": 1},
        {"trailing": -1},
        {"layers": 0},
        {"layers": 40},
        {"dropout": 1.5},
        {"dropout": math.nan},
        {"lr": math.nan},
        {"lr": -1.0},
        {"burn_in": -1},
    ],
)
def test_a_setting_that_cannot_be_is_named(field: dict[str, Any]):
    with pytest.raises(ValueError, match=f"^{next(iter(field))} (is|are) "):
        Config(**field)
