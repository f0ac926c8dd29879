"""What checks of own data collect: few of many problems of a file, and files that are there twice."""

import random
from pathlib import Path

import pytest

from tasks import findings
from tasks.findings import LINES, Findings


def write(folder: Path, contents: list[bytes]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:02}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def test_of_a_file_with_many_problems_the_first_ones_and_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    report = Findings()
    report(Path("b"), None, "is odd", "mend it")
    for line in range(1, 1_000_001):
        report(Path("a"), line, "is no number", "write one")
    assert report.end("unused") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["b: is odd; mend it", "a:1: is no number; write one"]
    assert len(lines) == 1 + LINES + 1
    assert lines[-1] == "a: 999,980 more problems; mend the first ones"


def test_without_problems_remarks_and_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    report = Findings()
    report.remark(Path("a"), "is large")
    assert report.end("3 files") == 0
    assert capsys.readouterr().out == "a: is large\nfine: 3 files\n"


@pytest.mark.parametrize("seed", range(20))
def test_the_same_files_are_those_of_the_same_bytes(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    drawn = [[draw.choice((b"", b"a", b"b", b"aa", b"ab", b"abc")) for _ in range(draw.randint(0, 6))] for _ in "12"]
    tested, trained = (write(tmp_path / name, some) for name, some in zip("ab", drawn, strict=True))
    report = Findings()
    report.check_twins(tmp_path, tested, trained)
    number = sum(one in drawn[1] for one in drawn[0])
    assert [problem.what.split(":")[0] for problem in report.problems] == (
        [f"{number} of {len(tested)} files are in the training part, too, byte for byte"] if number else []
    )
    for pair in report.problems[0].what.split(": ")[1].split(", ") if number else []:
        one, other = pair.split(" as ")
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()

    alone = Findings()
    alone.check_twins(tmp_path, tested)
    again = sum(one in drawn[0][:k] for k, one in enumerate(drawn[0]))
    assert [problem.what[: len(str(again))] for problem in alone.problems] == ([str(again)] if again else [])


def test_few_are_a_remark_and_missing_files_are_passed_over(tmp_path: Path) -> None:
    files = write(tmp_path / "a", [bytes([k]) for k in range(100)])
    (copy,) = write(tmp_path / "b", [bytes([7])])
    report = Findings()
    report.check_twins(tmp_path / "a", files, [copy, tmp_path / "none", tmp_path])
    assert report.remarks == [
        f"{tmp_path}/a: 1 of 100 files are in the training part, too, byte for byte: 07 as ../b/00",
    ]
    report.check_twins(tmp_path / "a", files[:99], [copy])
    (problem,) = report.problems
    assert problem.fix.startswith("take them out of one of the two")


def test_only_some_pairs_are_named(tmp_path: Path) -> None:
    report = Findings()
    report.check_twins(tmp_path, write(tmp_path / "a", [b"x"] * 13))
    assert report.problems[0].what.endswith("a/09 as a/00, a/10 as a/00, and 2 more")


def test_files_of_other_sizes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = findings._digest
    monkeypatch.setattr(findings, "_digest", lambda path: read.append(path) or real(path))
    one, two = write(tmp_path / "a", [b"a", b"bb"]), write(tmp_path / "b", [b"cc", b"ddd"])
    Findings().check_twins(tmp_path, one, two)
    assert sorted(read) == [one[1], two[0]]
    read.clear()
    Findings().check_twins(tmp_path, [*one, two[0]])
    assert sorted(read) == [one[1], two[0]]
