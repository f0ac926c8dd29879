"""Command lines: warnings of a good one are said, a refused value and a missing file are one line each."""

import argparse
import sys
from dataclasses import dataclass

import pytest

from tasks.command_line import add_device, parse, parse_or_end, status_of
from tasks.spec import DataError


@dataclass(frozen=True)
class Options:
    """Of a command."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count must be positive")
        if self.count > 100:
            print("that takes long", file=sys.stderr)


def test_what_is_said_while_a_command_line_is_read_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(Options, ["--count", "101"]) == Options(101)
    assert capsys.readouterr().err.count("that takes long\n") == 2  # here and in the line above


def test_a_refused_value_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_or_end(Options, ["--count", "0"])
    assert capsys.readouterr().err == "error: count must be positive\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "a.pt"),
            1,
            "a.pt: No such file or directory; check the name",
        ),
        (PermissionError(13, "Permission denied", "a.pt"), 1, "a.pt: Permission denied"),
        (OSError(28, "cannot write a.pt: No space left on device"), 1, "cannot write a.pt: No space left on device"),
        (DataError("a.png: is empty; get it again"), 3, "a.png: is empty; get it again"),
    ],
)
def test_what_a_command_says_of_files(
    error: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise error

    assert status_of(work) == status
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize("name", ["cuda:99", "cuda:-1", "cdua", "meta", ""])
def test_a_device_that_is_not_here_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_device(parser)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--device", name])
    assert end.value.code == 2
    assert f"device {name!r} is not here; give one of auto, cpu" in capsys.readouterr().err
    assert parser.parse_args(["--device", "cpu"]).device == "cpu"
