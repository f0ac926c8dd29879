"""Files are written whole or not at all, whatever fails."""

import contextlib
import errno
import io
import os
import resource
import sys
from pathlib import Path

import pytest
import torch

from rfnext import files, tensor_files
from tests import python_processes


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_editors_end_them(end: str) -> None:
    assert files.lines_of(end.join(["a", "", "b\u2028c\x0b", " d", "", " ", ""])) == ["a", "", "b\u2028c\x0b", " d"]
    assert files.lines_of("") == files.lines_of(f" {end}") == []


def test_a_file_is_written_into_new_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "fold1" / "record.json"
    files.write_text(path, "\u00b1 1.5\n")
    assert path.read_bytes() == b"\xc2\xb1 1.5\n"
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["record.json"]


def test_a_write_cut_off_by_the_system_keeps_the_old_file(tmp_path: Path) -> None:
    """The real thing, as far as it can be had without a disk of one's own: the system refuses the 101st byte."""
    path = tmp_path / "record.json"
    files.write_text(path, "old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
        with pytest.raises(OSError, match="File too large") as caught:
            files.write_text(path, "new" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_power_loss_takes_neither_the_file_nor_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that the system is asked for: content, name, then the folders in which a name is new, and no others."""
    done: list[Path | str] = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda file: (done.append(Path(os.readlink(f"/proc/self/fd/{file}"))), flush(file))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("renamed"), rename(*paths)))
    path = tmp_path / "runs" / "fold1" / "record.json"
    files.write_text(path, "new")
    first, *rest = done
    assert isinstance(first, Path)
    assert first.name.startswith(".record.json.")
    assert rest == ["renamed", path.parent, path.parent.parent, tmp_path]
    done.clear()
    files.write_text(path, "newer")
    assert done[1:] == ["renamed", path.parent]


def test_a_folder_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, said in ((errno.EINVAL, None), (errno.EIO, "may be lost")):

        def flush(file: int, number: int = number) -> None:
            if os.path.isdir(f"/proc/self/fd/{file}"):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", flush)
        with pytest.raises(OSError, match=said) if said else contextlib.nullcontext():
            files.write_text(tmp_path / "record.json", str(number))
        assert (tmp_path / "record.json").read_text() == str(number)


def test_an_interrupt_in_the_middle_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(file: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", interrupt)
        files.write_text(tmp_path / "record.json", "new")
    assert os.listdir(tmp_path) == []


def test_targets_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "structure.json", tmp_path / "folder"):
        with pytest.raises(OSError, match=f"cannot write {target}"):
            files.write_text(target, "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_files_can_be_read_by_others_as_the_umask_allows(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "record.json", b"content")
    finally:
        os.umask(old)
    assert (tmp_path / "record.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "record.json").read_bytes() == b"content"


def test_serialised_values_are_what_torch_reads(tmp_path: Path) -> None:
    value = {"weight": torch.arange(3.0), "step": 4}
    data = tensor_files.serialised(value)
    again = torch.load(io.BytesIO(data), weights_only=True)
    assert again["step"] == 4
    assert torch.equal(again["weight"], value["weight"])
    files.write_bytes(tmp_path / "checkpoint.pt", data)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4


def test_left_overs_of_dead_processes_are_swept(tmp_path: Path) -> None:
    """A process is killed between the first byte and the new name; another one, which lives, is writing."""
    die = "import os, sys\nfrom rfnext import files\nos.fsync = lambda file: os.kill(os.getpid(), 9)\n"
    die += "files.write_text(sys.argv[1] + '/runs/record.json', 'half')"
    assert python_processes.run([sys.executable, "-c", die, str(tmp_path)], check=False).returncode == -9
    (left,) = (tmp_path / "runs").iterdir()
    writing = tmp_path / f"{files.unfinished('other.json')}abcdefgh.tmp"
    writing.write_text("half")
    mine = tmp_path / ".vimrc.tmp"
    mine.write_text("no file of ours")
    assert files.sweep(tmp_path) == [left]
    assert not left.exists()
    assert writing.exists()
    assert mine.exists()


def test_what_another_machine_writes_is_swept_when_it_is_old(tmp_path: Path) -> None:
    """On a file system that machines share, a process number says nothing; a day without a change does."""
    young, old = (tmp_path / f".{name}.00000000-1-abcdefgh.tmp" for name in ("young", "old"))
    former = tmp_path / ".record.json.abc_1234.tmp"
    for path in (young, former):
        path.write_text("half")
    old.mkdir()
    (old / "image.png").write_text("half")
    for path in (old, former):
        os.utime(path, (0, 0))
    assert sorted(files.sweep(tmp_path)) == sorted((old, former))
    assert os.listdir(tmp_path) == [young.name]


def test_a_bounded_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    os.utime(tmp_path / "d")
    files.bound(tmp_path, 2, 60.0)
    assert sorted(os.listdir(tmp_path)) == ["a", "d"]
    for name in "efgh":
        (tmp_path / name).mkdir()
    files.bound(tmp_path, 2, 60.0)
    assert sorted(os.listdir(tmp_path)) == ["d", "e", "f", "g", "h"]  # all but the old one are in use


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a" * 101, "more than 100 bytes"),
        (b"a\0b", "zero bytes"),
        (b"\xff", "can't decode byte 0xff"),
    ],
)
def test_texts_from_outside_have_a_limit(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        files.read_text(tmp_path / "a.txt", longest=100)


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(OSError, match=f"a pipe or a device, not a file.*{name}"):
            files.read_text(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": 1, "b": 2, "a": 3}', "entry 'a' appears twice"),
        ('"\\ud800"', "no text"),
        ("1" + "0" * 5000, "digits"),
    ],
)
def test_json_from_outside(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files.parse_json(text)


def test_json_of_many_entries_of_which_one_is_twice_takes_no_time() -> None:
    text = "{" + ",".join(f'"a{i}": 0' for i in range(200_000)) + ', "a199999": 1}'
    with pytest.raises(ValueError, match="entry 'a199999' appears twice"):
        files.parse_json(text)


def test_json_at_its_limits() -> None:
    assert files.parse_json("[" * 64 + "]" * 64)
    found = files.parse_json('["\\ud83d\\ude00", 1e400, ' + "1" * 400 + "]")
    assert found == [
        "\U0001f600",
        float("inf"),
        int("1" * 400),
    ]
