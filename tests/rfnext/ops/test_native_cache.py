"""The folder of the compiled kernels: who may write it, what is loaded from it, whose turn it is to compile."""

import contextlib
import ctypes
import errno
import fcntl
import grp
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rfnext.ops import native_cache
from rfnext.ops.native_cache import Unsafe, digest, kept, load, private_folder, scratch_space

MODULE = str(Path(native_cache.__file__).parent)
OTHER = 12345
"""A user and group that nobody here has."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def test_a_folder_is_made_for_this_user_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "native")
        with scratch_space(folder, 1) as scratch:
            assert scratch is not None
            native_cache.write(scratch, folder / "kernels.so", b"content")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"lock": 0o600, "kernels.so": 0o600}


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_folders_that_others_can_only_read_are_fine(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    folder.parent.chmod(mode)
    assert private_folder(folder) == folder.resolve()


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702])
@pytest.mark.parametrize("which", ["the folder", "one above it"])
def test_folders_that_others_can_write_are_refused(which: str, mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True, mode=0o700)
    open_one = folder if which == "the folder" else tmp_path / "cache"
    open_one.chmod(mode)
    with pytest.raises(Unsafe, match=f"other users can write {open_one}: .*chmod go-w"):
        private_folder(folder)
    open_one.chmod(mode & ~0o022)
    private_folder(folder)


def test_folders_in_which_only_owners_rename_are_fine_above_but_not_as_the_cache(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    private_folder(tmp_path / "tmp" / "mine")
    with pytest.raises(Unsafe, match="other users can write"):
        private_folder(tmp_path / "tmp")


@as_root
@pytest.mark.parametrize("which", ["the folder", "one above it"])
def test_folders_of_other_users_are_refused(which: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True, mode=0o700)
    theirs = folder if which == "the folder" else tmp_path / "cache"
    os.chown(theirs, OTHER, OTHER)
    with pytest.raises(Unsafe, match=f"{theirs} belongs to another user: .*RFNEXT_CACHE"):
        private_folder(folder)


@as_root
def test_a_group_may_write_if_nobody_else_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "native"
    folder.mkdir()
    folder.chmod(0o770)
    private_folder(folder)  # of root and its group
    acl = [(1, 7, -1), (2, 7, OTHER), (4, 5, -1), (16, 7, -1), (32, 0, -1)]  # tag, rights, who: see acl(5)
    packed = b"\2\0\0\0" + b"".join(struct.pack("<HHi", *entry) for entry in acl)
    with contextlib.suppress(OSError):  # of a file system without such lists
        os.setxattr(folder, "system.posix_acl_access", packed)
        # The rights of the other user look like those of the group.
        with pytest.raises(Unsafe, match="other users can write"):
            private_folder(folder)
        os.removexattr(folder, "system.posix_acl_access")
    folder.chmod(0o770)
    for group in (OTHER, next(group.gr_gid for group in grp.getgrall() if group.gr_gid and not group.gr_mem)):
        os.chown(folder, -1, group)
        with pytest.raises(Unsafe, match="other users can write"):
            private_folder(folder)


@as_root
def test_the_own_group_may_not_write_if_somebody_else_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "native"
    folder.mkdir()
    folder.chmod(0o770)
    own = grp.getgrgid(os.getegid())
    for members, fine in (([own.gr_name], True), ([own.gr_name, "somebody"], False)):
        listed = grp.struct_group((own.gr_name, "x", own.gr_gid, members))
        monkeypatch.setattr(grp, "getgrgid", lambda number, listed=listed: listed)
        with contextlib.nullcontext() if fine else pytest.raises(Unsafe, match="other users can write"):
            private_folder(folder)


def test_links_count_as_where_they_lead(tmp_path: Path) -> None:
    closed, opened = tmp_path / "closed", tmp_path / "opened"
    for folder in (closed, opened):
        folder.mkdir(mode=0o700)
        (tmp_path / f"to-{folder.name}").symlink_to(folder)
    opened.chmod(0o777)
    assert private_folder(tmp_path / "to-closed" / "native") == (closed / "native").resolve()
    with pytest.raises(Unsafe, match=f"{opened}:"):
        private_folder(tmp_path / "to-opened" / "native")
    # A link in a folder of others is followed once: afterwards it may lead anywhere.
    (opened / "link").symlink_to(closed)
    assert private_folder(opened / "link" / "native") == (closed / "native").resolve()


def test_what_is_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        private_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        private_folder(tmp_path / "file" / "native")


def put(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    """A kept library of that content."""
    path = folder / f"kernels-{digest(data)}.so"
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_only_whole_files_of_this_user_are_taken(tmp_path: Path) -> None:
    put(tmp_path, b"good")
    put(tmp_path, b"of another name").rename(tmp_path / f"other-{digest(b'of another name')}.so")
    put(tmp_path, b"cut off").write_bytes(b"cut")
    put(tmp_path, b"others write", 0o666)
    put(tmp_path, b"the group writes", 0o620)
    linked = tmp_path / f"kernels-{digest(b'linked')}.so"
    (tmp_path / "elsewhere").write_bytes(b"linked")
    linked.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "kernels-folder.so").mkdir()
    os.mkfifo(tmp_path / f"kernels-{digest(b'')}.so")  # which nobody writes: opening it could take for ever
    if os.geteuid() == 0:
        os.chown(put(tmp_path, b"of another user"), OTHER, -1)
    assert list(kept(tmp_path, "kernels")) == [b"good"]
    assert not list(kept(tmp_path / "missing", "kernels"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    def compile_source(source: str) -> bytes:
        folder = tmp_path_factory.mktemp("source")
        (folder / "source.c").write_text(source)
        command = ["gcc", "-shared", "-fPIC", str(folder / "source.c"), "-o", str(folder / "library.so")]
        subprocess.run(command, check=True)
        return (folder / "library.so").read_bytes()

    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    return compile_source


def value(library: ctypes.CDLL) -> int:
    return library.value()


@pytest.mark.parametrize("from_memory", [True, False])
def test_each_library_is_the_one_of_its_bytes(
    from_memory: bool, compiled: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not from_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    libraries = [load(compiled(f"int value(void) {{ return {number}; }}")) for number in range(3)]
    assert [value(library) for library in libraries] == [0, 1, 2]
    with pytest.raises(OSError, match="noexec"):
        load(b"no library")


ATTACK = """
import os, sys
good, evil, place = sys.argv[1:]
print("ready", flush=True)
while True:
    for source in (evil, good):
        os.link(source, place + ".new")
        os.replace(place + ".new", place)
        os.path.exists(place + ".new") and os.unlink(place + ".new")  # both are links of one file
"""

VICTIMS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import native_cache
values = []
for _ in range(100):
    child = os.fork()  # the system takes a library that is loaded twice from one path for the same one
    if not child:
        os._exit(next((native_cache.load(data).value() for data in native_cache.kept(Path(sys.argv[2]), "kernels")), 0))
    values.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(*values)
"""


@pytest.mark.fault
def test_a_file_that_is_replaced_while_it_is_loaded_is_loaded_as_it_was_checked(
    tmp_path: Path, compiled: Callable[[str], bytes]
) -> None:
    """Checked and then opened by its path, it is the attacker's within 20 tries."""
    good = compiled("int value(void) { return 1; }")
    ran = tmp_path / "ran"
    evil = compiled(
        "#include <stdio.h>\nint value(void) { return 2; }\n"
        f'__attribute__((constructor)) void run(void) {{ fclose(fopen("{ran}", "w")); }}'
    )
    sources = {name: put(tmp_path, data).rename(tmp_path / name) for name, data in (("good", good), ("evil", evil))}
    arguments = [str(path) for path in (sources["good"], sources["evil"], put(tmp_path, good))]
    with subprocess.Popen([sys.executable, "-c", ATTACK, *arguments], stdout=subprocess.PIPE) as attacker:
        assert attacker.stdout is not None
        attacker.stdout.readline()
        try:
            done = subprocess.run(
                [sys.executable, "-c", VICTIMS, MODULE, str(tmp_path)], capture_output=True, text=True, check=True
            )
        finally:
            attacker.kill()
    values = done.stdout.split()
    assert set(values) == {"0", "1"}  # found and not found, and never the attacker's
    assert min(values.count("0"), values.count("1")) > 5
    assert not ran.exists()
    load(evil)
    assert ran.exists()


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import native_cache
with native_cache.scratch_space(Path(sys.argv[2]), 60) as scratch:
    (scratch / "half.s").write_text("half")
    print(scratch, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose turn it is. It imports the module alone, which needs no torch."""
    command = [sys.executable, "-c", HOLDER, MODULE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert Path(process.stdout.readline().strip()).is_dir()
        yield process
        process.kill()


@pytest.mark.fault
def test_a_turn_ends_with_its_process_and_what_it_left_is_removed(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    (left,) = tmp_path.glob("building-*")
    holder.send_signal(signal.SIGKILL)
    with scratch_space(tmp_path, 60) as scratch:
        assert scratch is not None
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.fault
def test_a_process_that_hangs_is_not_waited_for_without_end(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGSTOP)
    with scratch_space(tmp_path, 0.2) as scratch:
        assert scratch is None
    assert len(list(tmp_path.glob("building-*"))) == 1
    # Who comes later does not wait as long again.
    os.utime(tmp_path / "lock", (time.time() - 100,) * 2)
    start = time.monotonic()
    with scratch_space(tmp_path, 60) as scratch:
        assert scratch is None
    assert time.monotonic() - start < 30


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_space(tmp_path, 60) as one, scratch_space(tmp_path, 60) as two:
        assert one is not None
        assert two is not None
        assert one != two
        assert one.is_dir()  # not taken for something left behind


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"), scratch_space(tmp_path, 60):
        pass
    assert not (tmp_path / "elsewhere").exists()
