"""What studies have measured: one line each."""

from pathlib import Path

import pytest

from benchmarks.studies import measurements


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert measurements.read(tmp_path) == []
    measured = [{"seed": 0, "lags": [1, 2], "accuracy": 90.12}, {"seed": 1, "commit": None}]
    measurements.write(tmp_path, measured)
    assert measurements.read(tmp_path) == measured


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    measurements.write(tmp_path, [{"seed": 0}])
    path = tmp_path / measurements.NAME
    path.write_text(path.read_text() + "{")
    with pytest.raises(ValueError, match=rf"{measurements.NAME}:2: not JSON"):
        measurements.read(tmp_path)
