"""Numbers that no setting can be: each is one line that names the setting, in every task and by every command."""

import argparse
import dataclasses
import importlib
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import tasks
from benchmarks import run
from tasks.ranges import Range, check_ranges, number_in

HUGE = "1" + "0" * 400


def numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The number fields of a config and of those in it: their dotted names, and whether they are floats."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), str(hints[field.name])
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{prefix}{field.name}.")
        elif "float" in hint or ("int" in hint and "str" not in hint) or hints[field.name] in (int, float):
            yield prefix + field.name, "float" in hint


def with_value(config: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    old = getattr(config, first)
    return dataclasses.replace(config, **{first: with_value(old, rest, value) if rest else value})


def fields() -> list[Any]:
    configs = {name: next(iter(tasks.load(name).presets.values())) for name in tasks.names()}
    return [
        pytest.param(config, *found, id=f"{t}-{found[0]}") for t, config in configs.items() for found in numbers(config)
    ]


UNLIMITED = ("rounds", "interval", "max")
"""Counts of the library that may be as large as one likes: a search just ends before."""


@pytest.mark.parametrize(("config", "name", "is_float"), fields())
def test_a_number_that_cannot_be_is_refused_by_its_name(config: Any, name: str, is_float: bool) -> None:
    last = name.rpartition(".")[2]
    wrong: list[Any] = [math.nan, math.inf, -math.inf, -1.0] if is_float else [-1]
    if last not in UNLIMITED:
        wrong.append(10**400)
    for value in wrong:
        if isinstance(now := _at(config, name), tuple):
            value = (*now, value)
        with pytest.raises(ValueError, match="bands" if last in ("fmin", "fmax") else last) as error:
            with_value(config, name, value)
        assert "\n" not in str(error.value)


def _at(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    ("task", "arguments", "said"),
    [
        ("action_segmentation", ["--dropout", "1.5"], "dropout is 1.5; it must be at least 0 and below 1"),
        ("action_segmentation", ["--validation", "nan"], "validation is nan; it must be above 0 and below 1"),
        ("coco_detection", ["--lr", "inf"], "lr is inf; it must be above 0 and at most 1e+09"),
        ("load_forecasting", ["--lr", "nan"], "lr is nan; it must be above 0 and at most 1e+09"),
        ("tts_vocoder", ["--lr-decay", "1.5"], "lr_decay is 1.5; it must be above 0 and at most 1"),
        ("tts_vocoder", ["--clips", "0"], "clips is 0; it must be at least 1 and at most 1e+09"),
        ("tts_vocoder", ["--search.spread", "nan"], "spread must be in (0, 1], got nan"),
        ("load_forecasting", ["--search.bounds.max", "0"], "Bounds.max is 0, below Bounds.min = 1"),
        (
            "load_forecasting",
            ["--gpus-per-trial", "nan"],
            "gpus_per_trial is nan; it must be at least 0 and at most 1024",
        ),
    ],
)
def test_the_command_says_it_in_one_line(
    task: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([task, "baseline", "--preset", "tiny", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_the_ends_of_a_range() -> None:
    assert [x in Range(least=0, below=1) for x in (-0.1, 0, 0.5, 1, math.nan)] == [False, True, True, False, False]
    assert [x in Range(above=0, most=1) for x in (0, 0.5, 1, 1.1, math.inf)] == [False, True, True, False, False]


def test_all_numbers_of_a_tuple_are_checked_and_none_is_no_number() -> None:
    @dataclasses.dataclass
    class Settings:
        steps: tuple[int, ...] = (1, 2)
        share: float | None = None

    ranges = {"steps": Range(least=1), "share": Range(above=0)}
    check_ranges(Settings(), ranges)
    with pytest.raises(ValueError, match=r"steps are \(1, 0\); each must be at least 1"):
        check_ranges(Settings(steps=(1, 0)), ranges)


WRONG = [
    ("benchmarks.suite", "tiny --workers", ["0", HUGE]),
    ("benchmarks.suite", "tiny --ray-address local --gpus-per-cell", ["nan", "-1", HUGE]),
    ("benchmarks.speed.command", "--seconds", ["nan", "-1", HUGE]),
    ("benchmarks.speed.command", "--threads", ["0", HUGE]),
    ("benchmarks.studies.planted_truth", "--seeds", ["0", HUGE]),
    ("benchmarks.studies.genetic_cost", "--seeds", ["-1", HUGE]),
    ("benchmarks.studies.search_time", "--rounds", ["0", HUGE]),
    ("benchmarks.studies.search_at_equal_cost", "--minutes", ["nan", "-1", HUGE]),
    ("benchmarks.studies.search_at_equal_cost", "--layers", ["-1", HUGE]),
    ("tasks.load_forecasting.baselines", "--horizon", ["0", HUGE]),
    ("tasks.tts_vocoder.speed", "--turns", ["0", HUGE]),
    ("tasks.tts_vocoder.speed", "--threads", ["-1", HUGE]),
    ("rfnext.cli.main", "plan --network torch.nn:Conv1d --input", ["1,-1", f"1,1,{HUGE}"]),
]


@pytest.mark.parametrize(("module", "arguments", "values"), WRONG, ids=lambda value: str(value)[:40])
def test_every_command_refuses_such_numbers_before_anything_runs(
    module: str, arguments: str, values: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    *rest, option = arguments.split()
    for value in values:
        try:
            status = importlib.import_module(module).main([*rest, f"{option}={value}"])
        except SystemExit as end:
            status = end.code
        last = capsys.readouterr().err.strip().rpartition("\n")[2]
        assert (status, option.strip("-").replace("-", "_") in last.replace("-", "_")) == (2, True), last
        assert len(last) < 300


def test_what_tyro_explains_is_still_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(["load_forecasting", "baseline", "--search.rounds", "x"])
    assert end.value.code == 2
    assert "Error parsing --search.rounds" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "x", "2"])
def test_an_argument_of_argparse_is_refused_with_its_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no number that is at least 0 and at most 1"):
        number_in(Range(least=0, most=1))(text)
    assert number_in(Range(least=0, most=1))("0.25") == 0.25
    assert number_in(Range(least=0, most=1), int)("1") == 1
    with pytest.raises(argparse.ArgumentTypeError, match="'0.5' is no whole number"):
        number_in(Range(least=0, most=1), int)("0.5")
