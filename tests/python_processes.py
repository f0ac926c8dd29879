"""Python processes for tests of command lines: `Popen` and `run` as in subprocess, without waiting for torch.

Importing torch takes two seconds of computing in every process. Here one process per worker of pytest imports it, and
each command is a fork of that one. All else is as in a new process: arguments, folder, variables, output, signals,
process group, exit status, and the modules of this repository, which are imported anew. Variables that torch reads when
it is imported have no effect: OMP_NUM_THREADS=1 always holds. Nor have those that Python reads when it starts, such as
PYTHONHASHSEED and PYTHONWARNINGS: all commands of a worker hash alike. Ctrl-C has its effect, whoever started the
tests; that is all that a preexec_fn may be for, since a fork does not call it.

A test of what Python loads or frees, or of how much memory it takes, needs subprocess. So does what is not
`python [-W ignore|error]` and then -m, -c or a file: such a command, one with a shell, another user, a umask or a
process group of its own, and every one where the system is not Linux, is a real process here, too.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

PRELOADED = ("numpy", "pydantic", "rich.console", "tabulate", "torch", "torch._dynamo", "tyro")
"""What most commands import."""

LOCK = threading.Lock()
"""One request at a time."""

SUBREAPER = 36
"""Option of Linux's prctl: a process below this one whose parent ends becomes this one's child."""


class Popen(subprocess.Popen[Any]):
    """A command that begins with sys.executable, as subprocess.Popen starts it."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        # What subprocess asks of a platform: start the process and set its number. The order is that of Python 3.11 on.
        executable, _, close_fds, pass_fds, folder, variables = rest[:6]
        shell, handles, new_session = rest[8], rest[9:15], rest[20]
        plain = rest[16:20] == (None, None, None, -1) and rest[21:] in ((), (-1,))  # user, groups, umask; process group
        if executable or not close_fds or pass_fds or shell or not plain or not _is_forked(args):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        request = {
            "arguments": [os.fsdecode(argument) for argument in args[1:]],
            "folder": os.path.abspath(os.fsdecode(folder or ".")),
            "variables": dict(os.environ if variables is None else variables),
            "new_session": new_session,
        }
        theirs = [handle if handle >= 0 else own for own, handle in enumerate((handles[0], handles[3], handles[5]))]
        self.pid = _fork(json.dumps(request).encode(), theirs)
        self._child_created = True
        self._close_pipe_fds(*handles)  # type: ignore[attr-defined]


def run(
    command: Sequence[Any],
    *,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **other: Any,
) -> "subprocess.CompletedProcess[Any]":
    """As subprocess.run."""
    if capture_output:
        other |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **other) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _is_forked(command: Any) -> bool:
    words = [os.fsdecode(word) for word in ([command] if isinstance(command, (str, os.PathLike)) else command)]
    rest = words[3:] if words[1:2] == ["-W"] else words[1:]
    python = sys.platform == "linux" and words[0] == sys.executable and len(rest) > 0
    return python and (rest[0] in ("-m", "-c") or not rest[0].startswith("-"))


@functools.cache
def _server() -> socket.socket:
    """The connection to the process that forks, which ends with this one."""
    ours, theirs = socket.socketpair()
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")}
    command = [sys.executable, __file__, str(theirs.fileno())]
    variables["OMP_NUM_THREADS"] = "1"
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/", env=variables)
    theirs.close()

    def end() -> None:
        ours.close()
        process.kill()
        process.wait()

    atexit.register(end)
    return ours


def _fork(request: bytes, descriptors: Sequence[int]) -> int:
    """Have a process forked that becomes a child of this one; returns its number."""
    with LOCK, _adopting():
        server = _server()
        try:
            server.sendall(len(request).to_bytes(4))
            socket.send_fds(server, [b"."], descriptors)
            server.sendall(request)
            number = int.from_bytes(_received(server, 4))
        except (EOFError, OSError):
            _server.cache_clear()  # it has ended; the next command starts another
            raise
    if not number:
        raise OSError("the system has no place for another process")
    return number


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    library = ctypes.CDLL(None)
    library.prctl(SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        library.prctl(SUBREAPER, 0, 0, 0, 0)


def _received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Answer requests; returns in each process that is forked, with what it is to do and its descriptors."""
    while True:
        try:
            length = int.from_bytes(_received(connection, 4))
        except EOFError:
            os._exit(0)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        request = json.loads(_received(connection, length))
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            process = os.fork()
            if process == 0:
                return request, descriptors
            os.write(writing, process.to_bytes(4))
            os._exit(0)  # whoever asked adopts the process
        os.close(writing)  # else reading waits for ever where the second fork failed
        os.waitpid(between, 0)
        connection.sendall(os.read(reading, 4) or bytes(4))
        for descriptor in (reading, *descriptors):
            os.close(descriptor)


def _become(request: dict[str, Any], descriptors: Sequence[int], path: Sequence[str]) -> None:
    """Be the process of a request up to what it runs."""
    if request["new_session"]:
        os.setsid()
    copies = [os.dup(descriptor) for descriptor in descriptors]
    for own, copy in enumerate(copies):
        os.dup2(copy, own)
    os.closerange(3, 1024)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*given, *path]


def _run(kind: str, arguments: Sequence[str]) -> None:
    """What python does with its arguments."""
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = list(arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[1:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), module.__dict__)  # noqa: S102 (the test's own code)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        sys.argv = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


def _end(work: Callable[[], None]) -> NoReturn:
    """Do the work and end as Python does, but for freeing its memory, which would copy what is shared."""
    status, interrupted = 0, False
    try:
        work()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = 1 if isinstance(error.code, str) else error.code or 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if interrupted:  # as of a process that Ctrl-C has ended
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


def _main() -> None:
    _, *path = sys.path
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # a collection would copy all memory that is shared
    request, descriptors = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(request, descriptors, path)
    kind, *arguments = request["arguments"]
    if kind == "-W":
        warnings.simplefilter(arguments[0])
        kind, *arguments = arguments[1:]
    _end(functools.partial(_run, kind, arguments))


if __name__ == "__main__":
    _main()
