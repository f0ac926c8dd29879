"""The identity of data: what is the same data, what is not, and what a second look costs."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.records.identity import BLOCK, BLOCKS, WHOLE, Identity, identify
from tasks.spec import DataFiles

Identify = Callable[[Path], Identity | None]

LARGE = 10 * WHOLE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def look(toy: ModuleType) -> Identify:
    """The identity of a folder: labels *.txt, inputs *.bin."""
    return lambda root: identify(toy.TASK, toy.Config(root=root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "a" / "mine"
    folder.mkdir(parents=True)
    (folder / "x.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "large.bin").write_bytes(b"0123456789abcdef" * (LARGE // 16))
    (folder / "y.txt").write_text("cut\nmix\n")
    (folder / "long.txt").write_text("background\n" * (LARGE // 11))
    return folder


def change(path: Path, place: int) -> None:
    """One byte, without a trace in size and times of change."""
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(place)
        old = file.read(1)
        file.seek(place)
        file.write(bytes([old[0] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def reference(root: Path) -> str:
    """The definition, slowly: names and SHA-256 of contents, of a large input its size and 17 blocks of 4096 bytes."""
    digests = []
    for path in sorted([*root.glob("*.bin"), *root.glob("*.txt")], key=lambda path: path.name):
        content = path.read_bytes()
        if path.suffix == ".bin" and len(content) > 17 * 4096:
            starts = [number * (len(content) - 4096) // 16 for number in range(17)]
            content = str(len(content)).encode() + b"".join(content[start : start + 4096] for start in starts)
        digests.append([path.name, hashlib.sha256(content).hexdigest()])
    return hashlib.sha256(json.dumps(digests, separators=(",", ":")).encode()).hexdigest()[:16]


def test_it_is_made_of_names_and_contents(look: Identify, root: Path) -> None:
    assert look(root) == (reference(root), "mine")


def test_the_same_data_is_the_same_wherever_it_lies(look: Identify, root: Path, tmp_path: Path) -> None:
    before = look(root)
    assert before is not None
    copy = tmp_path / "b" / "Their Data (2)"
    copy.mkdir(parents=True)
    for path in sorted(root.iterdir(), reverse=True):
        shutil.copyfile(path, copy / path.name)  # other times
    assert look(copy) == (before.fingerprint, "their-data-2")
    (tmp_path / "link").symlink_to(root)
    assert look(tmp_path / "link") == before
    (root / "README.md").write_text("about my data")
    os.utime(root / "x.bin")
    assert look(root) == before
    root.rename(tmp_path / "renamed")
    assert look(tmp_path / "renamed") == (before.fingerprint, "renamed")


def test_a_folder_may_have_any_name(look: Identify, root: Path, tmp_path: Path) -> None:
    for name, shown in (("Ä", "data"), ("..x-", "x"), ("x" * 99, "x" * 30)):
        shutil.copytree(root, tmp_path / "odd" / name)
        found = look(tmp_path / "odd" / name)
        assert found is not None
        assert found.folder == shown


def middle(size: int) -> int:
    return (BLOCKS // 2) * (size - BLOCK) // (BLOCKS - 1)


@pytest.mark.parametrize(
    "act",
    [
        lambda root: change(root / "y.txt", 0),
        lambda root: change(root / "long.txt", LARGE // 17 // 2),  # every byte of a label counts
        lambda root: change(root / "x.bin", 500),
        lambda root: change(root / "large.bin", 0),
        lambda root: change(root / "large.bin", middle(LARGE)),
        lambda root: change(root / "large.bin", LARGE - 1),
        lambda root: (root / "large.bin").write_bytes(b"0123456789abcdef" * (LARGE // 16 + 1)),
        lambda root: (root / "x.bin").rename(root / "z.bin"),
        lambda root: (root / "x.bin").unlink(),
        lambda root: (root / "new.bin").write_bytes(b""),
    ],
)
@pytest.mark.parametrize("settled", [False, True])
def test_changed_data_is_other_data(
    look: Identify, root: Path, act: Callable[[Path], object], settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settled:
        later(monkeypatch)
    before = look(root)
    act(root)
    after = look(root)
    assert after is not None
    assert after != before
    assert after == (reference(root), "mine")


def test_the_middle_of_a_large_input_is_its_middle() -> None:
    assert middle(LARGE) <= LARGE // 2 < middle(LARGE) + BLOCK


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files were written a while ago."""
    now = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: now() + 10**10)


def test_a_second_look_opens_no_file(look: Identify, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    before = look(root)

    def refuse(path: object, *arguments: object, **options: object) -> None:
        raise AssertionError(f"{path} was opened")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        assert look(root) == before
        with pytest.raises(AssertionError, match=r"x\.bin was opened"):
            os.utime(root / "x.bin")
            look(root)


def test_what_is_kept_may_be_broken_or_refused(
    look: Identify, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    before = look(root)
    (kept,) = cache.rglob("*.json")
    for text in ("{", "[]", '{"x.bin": 3}', '{"x.bin": [1, 2, 3, true]}'):
        kept.write_text(text)
        assert look(root) == before
        json.loads(kept.read_text())["x.bin"]
    shutil.rmtree(cache)
    cache.touch()  # a file where the folder should be
    assert look(root) == before


def test_what_has_no_files_here_has_no_identity(
    look: Identify, toy: ModuleType, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert look(tmp_path / "missing") is None
    assert not caplog.messages, "nothing is read"
    assert identify(toy.TASK, toy.Config()) is None
    plain = dataclasses.replace(toy.TASK, data_files=None)
    assert identify(plain, toy.Config(root=root)) is None

    def public(config: object) -> object:
        return dataclasses.replace(toy.data_files(config), own=False)

    named = identify(dataclasses.replace(toy.TASK, data_files=public), toy.Config(root=root))
    assert named == (reference(root), None)


def test_what_is_no_regular_file_is_not_opened(look: Identify, root: Path) -> None:
    os.mkfifo(root / "pipe.txt")
    (root / "endless.txt").symlink_to("/dev/zero")
    before = look(root)
    for name in ("pipe.txt", "endless.txt"):
        (root / name).unlink()
        (root / name).symlink_to("nowhere")
    assert look(root) == before


def test_a_name_that_no_file_can_have_is_a_missing_file(toy: ModuleType, root: Path) -> None:
    def files(config: object) -> DataFiles:
        return DataFiles(root, (), (root / "x.bin", root / "a\0b", root / "\udcff", root / ("x" * 999), root), own=True)

    assert files(None).state()[1:4] == (None, None, None)
    assert identify(dataclasses.replace(toy.TASK, data_files=files), toy.Config()) is not None
