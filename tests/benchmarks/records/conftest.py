"""Records with everything that one can have."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.records.record import Cost, Record


@pytest.fixture
def done(make: Callable[..., Record], receptive_field: dict[str, Any]) -> Record:
    """A finished record with everything that one can have."""
    return make(
        structure={"0": [2], "2": [4]},
        history=[{"step": 0, "structure": {"0": [2], "2": [4]}}],
        training=Cost(epochs=5, seconds=1.5, peak_memory_mb=600.25, memory_measure="resident"),
        pictures=["pictures/toy/tiny/baseline/accuracy.svg"],
        receptive_field=receptive_field,
    )


@pytest.fixture
def several(make: Callable[..., Record], done: Record) -> list[Record]:
    """Records of two methods, folds and machines, among them a failed one and one without a structure."""
    other = make("local_single", fold=2, structure={"0": [3], "2": [5]}, search=Cost(epochs=5, seconds=2.0))
    far = other.model_copy(update={"seed": 1, "device": other.device | {"name": "another"}, "resumed": True})
    return [done, make("local_single", reason="killed"), other, far, make("local_multi", fold=2)]
