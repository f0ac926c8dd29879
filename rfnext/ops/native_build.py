"""Compiling `native.c`: on the machine that runs it, once, kept in the cache folder.

The compiler is the one that the environment variable CC names, else gcc, cc or clang. The compiled library is kept in
`native` in the folder RFNEXT_CACHE (~/.cache/rfnext). Its file name holds a hash of what it depends on (source,
compiler, processor, user) and a hash of its own content. `rfnext.ops.native_cache` says which folders and files are
trusted.

A folder that others can write is named in a warning, and not used: the kernels are kept in a folder of this user beside
other temporary files, or for this process alone. They are the same there, so that nothing is gained by doing without,
which would change how results are rounded. Of several processes one compiles, and the others wait for it. Without
kernels, which is a warning too, "auto" takes other implementations.
"""

import contextlib
import ctypes
import errno
import functools
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rfnext.files import cache_folder

if os.name == "posix":
    from rfnext.ops import native_cache

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
SECONDS = 120.0
"""That the compiler may take, for all attempts together. It needs two or three; a machine may be busy."""
SECONDS_REMEMBERED = 600.0
"""In which nobody tries a compiler again that took too long."""


class _Unavailable(Exception):
    """Why there can be no library."""


class _TooLong(_Unavailable):
    """The compiler has not come to an end."""


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


forgotten = 0
"""How often the library was."""


def forget() -> None:
    """Drop the loaded library: it is searched for, or compiled, anew when it is next needed. See `native.forget`."""
    global forgotten
    forgotten += 1
    _library.cache_clear()


@functools.cache
def _library() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        if os.name != "posix":
            raise _Unavailable(f"this is for Linux and macOS, not for {platform.system()}")
        return _find(), None
    except Exception as error:
        # Any fault at all: a program that does not need this library must work without it.
        reason = f"{_SOURCE.name} could not be compiled or loaded: {error}"
        what = "on CPUs, searched convs are slower, and rounded otherwise than where there are compiled kernels"
        logger.warning("%s; %s", reason, what)
        return None, reason


def _find() -> ctypes.CDLL:
    """A kept library, or a new one, which is kept if that is possible."""
    reason = ""
    for data in _libraries(key()):
        try:
            return _load(data)
        except OSError as error:  # one that is kept may be of a machine with other libraries
            reason = str(error)
            logger.info("compiled kernels cannot be loaded: %s", error)
    raise _Unavailable(reason)


def _libraries(name: str) -> Iterator[bytes]:
    """What is kept, then a new one: each is only looked for if the one before it cannot be loaded."""
    for folder in folders():
        yield from native_cache.kept(folder, name)
        try:
            with native_cache.scratch_space(folder, SECONDS + 10) as scratch:
                if scratch is None:
                    logger.info("another process does not let go of %s; this one keeps nothing there", folder)
                    break
                yield from native_cache.kept(folder, name)  # another process may have compiled meanwhile
                yield _build(scratch, folder, name)
                return
        except OSError as error:  # read-only, a full disk
            logger.info("compiled kernels cannot be kept in %s: %s", folder, error)
    with tempfile.TemporaryDirectory(prefix="rfnext-", ignore_cleanup_errors=True) as scratch:
        yield _compile(Path(scratch))


def folders() -> Iterator[Path]:
    """Where libraries can be kept, and what is measured: the cache folder, else one beside other temporary files."""
    for parent, name in ((cache_folder, "native"), (tempfile.gettempdir, f"rfnext-{os.geteuid()}")):
        try:
            yield native_cache.private_folder(Path(parent(), name))
        except native_cache.Unsafe as error:
            logger.warning("%s; until then, compiled kernels are neither kept there nor taken from there", error)
        except (OSError, RuntimeError) as error:  # no home, no permission
            logger.info("no place for compiled kernels: %s", error)


def _build(scratch: Path, folder: Path, name: str) -> bytes:
    """Compile, and keep the library; or a note, if the compiler hangs."""
    note = folder / f"{name}.txt"
    if said := native_cache.recent(note, SECONDS_REMEMBERED):
        raise _Unavailable(f"{said}; not tried again for {SECONDS_REMEMBERED / 60:g} minutes, or until {note} is gone")
    try:
        data = _compile(scratch)
    except _TooLong as error:
        with contextlib.suppress(OSError):
            native_cache.write(scratch, note, str(error).encode())
        raise
    native_cache.write(scratch, folder / f"{name}-{native_cache.digest(data)}.so", data)
    return data


def _compilers() -> list[list[str]]:
    asked = os.environ.get("CC")
    if not asked:
        # gcc first: the OpenMP that it links is the one that torch's wheels bring along.
        return [[name] for name in ("gcc", "cc", "clang") if shutil.which(name)]
    try:
        return [shlex.split(asked)]
    except ValueError as error:
        raise _Unavailable(f"CC={asked!r}: {error}") from error


def _compile(scratch: Path) -> bytes:
    """A new library, made in scratch space; OSError if it has no room."""
    built = scratch / "native.so"
    end = time.monotonic() + SECONDS
    failures: list[str] = []
    for command in ([*compiler, *_FLAGS, *flags] for compiler in _compilers() for flags in FLAGS_TRIED):
        said = _run([*command, str(_SOURCE), "-o", str(built)], scratch, end)
        if said is None and "-fopenmp" in command and _brings_another_openmp(built):
            said = "links another OpenMP runtime than torch's"
        if said is None:
            logger.info("compiled by %s", shlex.join(command))
            return built.read_bytes()
        failures.append(f"{shlex.join(command)}: {said}")
    if not failures:
        raise _Unavailable("no C compiler: install gcc or clang, or name one in CC")
    raise _Unavailable("; ".join(dict.fromkeys((failures[0], failures[-1]))))


def _run(command: list[str], scratch: Path, end: float) -> str | None:
    """Run a compiler, with all that it starts and writes; what it complains of, or None if it succeeds.

    Raises:
        _TooLong: if it has not come to an end at that time (of the monotonic clock).
        OSError: if the scratch space has no room.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            errors="replace",
            env={**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C"},
            start_new_session=True,  # to end those with it that it starts
        )
    except OSError as error:
        return str(error)
    with process:
        try:
            _, said = process.communicate(timeout=max(0, end - time.monotonic()))
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise _TooLong(f"{shlex.join(command)} took more than {SECONDS:g} seconds") from error
            raise
    if not process.returncode:
        return None
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(number) in said:
            raise OSError(number, os.strerror(number), str(scratch))
    lines = said.strip().splitlines() or [f"failed with status {process.returncode}"]
    return next((line for line in lines if "error" in line), lines[0])


_RUNTIME = re.compile(r"lib(?:i?omp5?)[-.\w]*?\.(?:so[.\d]*|dylib)")
"""OpenMP runtimes of LLVM and Intel, of which a second one ends the process when it is first used."""


def _brings_another_openmp(built: Path) -> bool:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return True  # it cannot be known
    here = set(_RUNTIME.findall(maps.read_text(errors="replace")))
    wanted = set(_RUNTIME.findall(built.read_bytes().decode("latin-1")))
    return bool(here and wanted - here)


def key() -> str:
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
    return f"native-{native_cache.digest(chr(0).join(map(str, parts)).encode())}"


def _load(data: bytes) -> ctypes.CDLL:
    loaded = native_cache.load(data)
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    for dtype in ("float", "double"):
        for name, result, arguments in (
            ("space", integer, [pointer] * 4 + [integer]),
            ("forward", None, [pointer] * 11 + [integer]),
            ("backward", None, [pointer] * 4 + [ctypes.c_double, integer] + [pointer] * 11 + [integer]),
        ):
            function = getattr(loaded, f"{name}_{dtype}")
            function.argtypes, function.restype = arguments, result
    return loaded
