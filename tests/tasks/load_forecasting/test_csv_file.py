"""A series of one's own: what is read, and every problem with its line."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tasks.load_forecasting.check import main
from tasks.load_forecasting.csv_file import read_csv
from tasks.spec import DataError, fail

START = datetime(2024, 1, 1)


def lines(count: int = 8) -> list[str]:
    """A header and half-hourly lines; line k + 2 of the file is step k."""
    rows = [f"{START + timedelta(minutes=30 * k)},{k % 5},{k * 0.5}" for k in range(count)]
    return ["time,target,temperature", *rows]


def write(folder: Path, content: list[str]) -> Path:
    path = folder / "series.csv"
    path.write_text("\n".join(content) + "\n")
    return path


def test_the_target_comes_first_and_other_columns_follow(tmp_path: Path):
    path = write(
        tmp_path, ["a,when,b,c", "1,2024-01-01 00:00,2,3", "4,2024-01-01T01:00,5,6", "7,2024-01-01 02:00:00,8,9"]
    )
    found = read_csv(path, "when", "b", fail)
    assert found is not None
    assert found.columns == ("b", "a", "c")
    assert found.values.tolist() == [[2, 5, 8], [1, 4, 7], [3, 6, 9]]
    assert (found.start, found.step) == (START, 3600.0)


def test_a_byte_order_mark_and_empty_lines_do_not_matter(tmp_path: Path):
    path = tmp_path / "series.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines(), "", ""]).encode())
    found = read_csv(path, "time", "target", fail)
    assert found is not None
    assert found.values.shape == (2, 8)


def changed(number: int, line: str) -> list[str]:
    """The file with another text in one line, counted from 1."""
    content = lines()
    content[number - 1] = line
    return content


FAULTS = {
    "a gap": (
        [*lines()[:4], *lines()[6:]],
        ":5: 2 steps are missing between 2024-01-01 01:00:00 and 2024-01-01 02:30:00; fill them in; if clocks were put",
    ),
    "a repeated time": ([*lines()[:4], lines()[3], *lines()[4:]], ":5: 2024-01-01 01:00:00 is there twice"),
    "an earlier time": (
        [*lines()[:4], lines()[2], *lines()[5:]],
        ":5: 2024-01-01 00:30:00 is before 2024-01-01 01:00:00",
    ),
    "a step of another length": (
        changed(5, "2024-01-01 01:40:00,1,1"),
        ":5: 2400 s after the line above, others 1800 s",
    ),
    "months": (
        ["time,target", *[f"2024-{month:02}-01,{month}" for month in range(1, 9)]],
        ":4: 2.5056e+06 s after the line above, others 2.6784e+06 s; resample to one step; months and years differ in",
    ),
    "an empty value": (changed(3, "2024-01-01 00:30:00,,1"), ":3: 'target' is '', not a finite number"),
    "nan": (changed(3, "2024-01-01 00:30:00,nan,1"), ":3: 'target' is 'nan', not a finite number"),
    "infinity": (changed(3, "2024-01-01 00:30:00,1,1e400"), ":3: 'temperature' is '1e400', not a finite number"),
    "a word": (changed(4, "2024-01-01 01:00:00,1,warm"), ":4: 'temperature' is 'warm'"),
    "no time": (changed(4, "01.01.2024 1 Uhr,1,1"), ":4: '01.01.2024 1 Uhr' is no time stamp"),
    "too few values": (changed(4, "2024-01-01 01:00:00,1"), ":4: 2 values, but the header has 3"),
    "a mixed time zone": (changed(4, "2024-01-01T01:00:00+00:00,1,1"), ": some time stamps have a time zone"),
    "a constant column": (
        [line.rsplit(",", 1)[0] + (",x" if k == 0 else ",7") for k, line in enumerate(lines())],
        ": column 'x' is 7 in every line",
    ),
    "no such column": (
        ["when,target", *[line.rsplit(",", 1)[0] for line in lines()[1:]]],
        ":1: there is no column 'time'",
    ),
    "semicolons": (["time;target", "2024-01-01;1"], ":1: there is no column 'time'; the header has 'time;target'; sep"),
    "a column without a name": ([f",{line}" for line in lines()], ":1: column 1 has no name; name it, or leave"),
    "a value out of range": (changed(3, "2024-01-01 00:30:00,1,1e101"), ":3: 'temperature' is '1e101', above 1e+100"),
    "a number that only Python reads": (changed(3, "2024-01-01 00:30:00,1_0,1"), ":3: 'target' is '1_0', not"),
    "integers beyond 2^53": (
        [line.replace(",", f",{2**53 // 10}", 1) if k else line for k, line in enumerate(lines())],
        ": column 'target' varies by only 4 around 9.0072e+15, too little for 16 digits; subtract",
    ),
    "a column twice": (["time,target,target", *lines()[1:]], ":1: column 'target' appears twice"),
    "an empty file": ([], ":1: there is no column 'time'; the header has no column"),
    "a header alone": (lines(0), ": 0 lines of values"),
    "an endless cell": (changed(3, "2024-01-01 00:30:00,1," + "9" * 200_000), ": it cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_says_where_and_what_to_do(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    content, expected = FAULTS[fault]
    path = write(tmp_path, content)
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{path}{expected}"), out
    assert all("; " in line for line in out)


def test_time_and_target_are_two_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, lines())
    assert main([str(tmp_path), "--target", "time"]) == 1
    assert capsys.readouterr().out.startswith(f"{path}:1: column 'time' is both time and target; ")


def test_no_more_is_read_than_a_series_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.load_forecasting.csv_file.STEPS", 5)
    path = write(tmp_path, [*lines(), "not,looked,at"])
    with pytest.raises(DataError, match=":7: it has more than 5 steps"):
        read_csv(path, "time", "target", fail)


@pytest.mark.parametrize("data", [b"time,target\n\xff\xfe,1\n", b"time,target\n2024-01-01\x00,1\n"])
def test_bytes_that_are_no_text_are_refused(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "series.csv").write_bytes(data)
    assert main([str(tmp_path)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_every_problem_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    content = lines()
    content[3], content[5] = "2024-01-01 01:00:00,,1", "2024-01-01 02:00:00,1,-inf"
    write(tmp_path, content)
    assert main([str(tmp_path)]) == 1
    assert [line.split(": ")[0][-2:] for line in capsys.readouterr().out.splitlines()] == [":4", ":6"]


def test_of_many_wrong_lines_the_first_ones_and_a_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, [line.replace(".", "::") for line in lines(500)])
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 21
    assert out[-1] == f"{path}: 480 more problems; mend the first ones"


def test_good_data_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, lines())
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == (
        "fine: 8 steps of 1800 s from 2024-01-01 00:00:00, target 'target', 1 covariates: temperature; "
        "a day has 48 steps (--horizon, --seasons)\n"
    )


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 1
    assert "no such file" in capsys.readouterr().out


@pytest.mark.parametrize(("mark", "said"), [("-9999", True), ("9999", True), ("0", False), ("5", False)])
def test_a_mark_of_missing_values_is_said(mark: str, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    content = lines(40)
    for number in (5, 17):
        time, _, temperature = content[number].split(",")
        content[number] = f"{time},{mark},{temperature}"
    found = read_csv(write(tmp_path, content), "time", "target", fail)
    assert found is not None
    text = f"column 'target' is {mark} in 2 steps and 0 to 4 in all others"
    assert (text in caplog.text, bool(caplog.text)) == (said, said)
