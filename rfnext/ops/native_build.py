"""Compiling `native.c`: on the machine that runs it, once, kept in the cache folder.

The compiler is the one that the environment variable CC names, else gcc, cc or clang. The compiled library is kept in
the folder RFNEXT_CACHE (~/.cache/rfnext). Its file name holds a hash of what it depends on (source, compiler,
processor, user) and a hash of its own content. A file that is not whole, or that other users may have written, is never
loaded.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rfnext.files import cache_folder, write_bytes

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-ffp-contract=fast", "-shared", "-fPIC")
FLAGS_TRIED: tuple[tuple[str, ...], ...] = (
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    ("-mcpu=native",),
    ("-fopenmp",),
    (),
)
"""Tried in this order: not every compiler has OpenMP, and their options for the present processor differ."""


class _Unavailable(Exception):
    """Why there can be no library."""


def failure() -> str | None:
    """Why there is no library, or None if there is one."""
    return _library()[1]


# torch.compile takes the result as a constant and does not trace how it is found. torch.compiler.assume_constant_result
# does the same, but also imports the compiler into every program that imports rfnext.
failure._dynamo_marked_constant = True  # type: ignore[attr-defined]


def library() -> ctypes.CDLL:
    """The library, whose functions have their argument types; AssertionError unless `failure` is None."""
    found = _library()[0]
    assert found is not None
    return found


def forget() -> None:
    """Drop the loaded library: it is searched for, or compiled, anew when it is next needed. See `native.forget`."""
    _library.cache_clear()


@functools.cache
def _library() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        return _find(), None
    except Exception as error:
        # Any fault at all: a program that does not need this library must work without it.
        reason = f"{_SOURCE.name} could not be compiled or loaded: {error}"
        logger.info("%s", reason)
        return None, reason


def _find() -> ctypes.CDLL:
    """The kept library, or a new one, which is kept if that is possible."""
    place: Path | None = None  # where it is kept, but for the hash of its content
    try:
        place = cache_folder() / f"native-{_key()}"
        for path in sorted(place.parent.glob(f"{place.name}-*.so")):
            if _is_ours_and_whole(path):
                return _load(path)
    except (OSError, RuntimeError) as error:  # no home, no permission, a file system that executes nothing
        logger.info("no compiled kernels from %s: %s", place or "the cache folder", error)
    with tempfile.TemporaryDirectory(prefix="rfnext-") as temporary:
        built = Path(temporary, "native.so")
        _compile(built)
        if place is not None:
            try:
                data = built.read_bytes()
                path = place.with_name(f"{place.name}-{_digest(data)}.so")
                write_bytes(path, data)
                path.chmod(0o600)
                return _load(path)
            except OSError as error:
                logger.info("the compiled kernels are not kept for the next process: %s", error)
        try:
            return _load(built)
        except OSError as error:
            hint = "do TMPDIR and RFNEXT_CACHE lie on file systems that execute nothing (noexec)?"
            raise _Unavailable(f"{error}; {hint}") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _is_ours_and_whole(path: Path) -> bool:
    """Whether only this user can have written it, and it is complete: loading a part of it would end the process."""
    status = path.stat()
    ours = status.st_uid == os.getuid() and not status.st_mode & 0o022
    return ours and _digest(path.read_bytes()) == path.stem.rpartition("-")[2]


def _compilers() -> list[list[str]]:
    asked = os.environ.get("CC")
    if not asked:
        # gcc first: the OpenMP that it links is the one that torch's wheels bring along.
        return [[name] for name in ("gcc", "cc", "clang") if shutil.which(name)]
    try:
        return [shlex.split(asked)]
    except ValueError as error:
        raise _Unavailable(f"CC={asked!r}: {error}") from error


def _compile(to: Path) -> None:
    if os.name != "posix":
        raise _Unavailable(f"this is for Linux and macOS, not for {platform.system()}")
    failures: list[str] = []
    for compiler in _compilers():
        for flags in FLAGS_TRIED:
            command = [*compiler, *_FLAGS, *flags, str(_SOURCE), "-o", str(to)]
            done = subprocess.run(command, capture_output=True, errors="replace", timeout=120, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"failed with status {done.returncode}"]
                failures.append(f"{shlex.join(command)}: {next((s for s in lines if 'error' in s), lines[0])}")
            elif "-fopenmp" in flags and _brings_another_openmp(to):
                failures.append(f"{shlex.join(command)}: links another OpenMP runtime than torch's")
            else:
                logger.info("compiled by %s", shlex.join(command))
                return
    if not failures:
        raise _Unavailable("no C compiler: install gcc or clang, or name one in CC")
    raise _Unavailable("; ".join(dict.fromkeys((failures[0], failures[-1]))))


_RUNTIME = re.compile(r"lib(?:i?omp5?)[-.\w]*?\.(?:so[.\d]*|dylib)")
"""OpenMP runtimes of LLVM and Intel, of which a second one ends the process when it is first used."""


def _brings_another_openmp(built: Path) -> bool:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return True  # it cannot be known
    here = set(_RUNTIME.findall(maps.read_text(errors="replace")))
    wanted = set(_RUNTIME.findall(built.read_bytes().decode("latin-1")))
    return bool(here and wanted - here)


def _key() -> str:
    """What the compiled file depends on: clusters share folders between machines with different processors."""
    processor = [platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        # Of the first core: what differs between cores, such as its clock, does not change the code.
        names = ("flags", "features", "model name", "cpu", "isa", "uarch", "cpu implementer", "cpu part")
        lines = cpuinfo.read_text(errors="replace").partition("\n\n")[0].splitlines()
        processor = [line for line in lines if line.partition(":")[0].strip().lower() in names]
    elif platform.system() == "Darwin":
        features = ("machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features")
        done = subprocess.run(["sysctl", *features], capture_output=True, errors="replace", timeout=20, check=False)
        processor = [done.stdout]
    parts: Sequence[object] = (
        _SOURCE.read_text("utf-8"), _FLAGS, FLAGS_TRIED, _compilers(), platform.system(), platform.machine(), processor,
        os.getuid() if hasattr(os, "getuid") else 0,
    )  # fmt: skip
    return _digest("\0".join(map(str, parts)).encode())


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    loaded.most_threads.argtypes, loaded.most_threads.restype = [integer], integer
    for dtype in ("float", "double"):
        for name, arguments in (
            ("space", [pointer] * 4 + [integer]),
            ("forward", [pointer] * 9 + [integer]),
            ("backward", [pointer] * 11 + [integer]),
        ):
            function = getattr(loaded, f"{name}_{dtype}")
            function.argtypes, function.restype = arguments, None
    return loaded
