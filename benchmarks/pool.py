"""Where work runs: in this process, in local worker processes, or on a Ray cluster.

    with pool.local(["cuda:0", "cuda:1"]) as workers:
        for structure, future in zip(structures, workers.run(evaluate, structures), strict=True):
            ...

Calls are those of `multiprocessing.Pool`, with its rule that functions, items and results can be pickled: `submit` is
its `apply_async`, `run` its `map`. Both give futures, so that no result is lost: an item that fails is an exception of
its own future and leaves the others be. An item whose worker process dies (killed, out of memory, its node lost) is
tried once more, by whichever worker is free.
"""

import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch

from benchmarks.record import ROOT, SHIPPED_COMMIT, commit, work_folder
from rfnext.files import write_text

log = logging.getLogger(__name__)

Item = TypeVar("Item")

ATTEMPTS = 2
"""How often an item is given to a worker before the death of its worker counts as its own failure."""

START_SECONDS = 300.0
"""How long items wait for a worker while there is none, before they fail."""


class WorkerDied(RuntimeError):
    """The worker process of an item died, each time it was tried."""


class NoWorkerLeft(WorkerDied):
    """Every worker died before the item's turn, and no other could be started."""


class ClusterError(RuntimeError):
    """The cluster cannot be used; the message says why and what to do."""


_device = "auto"


def device() -> str:
    """The device of the worker process that asks: "cpu", "cuda", "cuda:1"; "auto" in any other process."""
    return _device


def choose_devices(workers: int | Literal["auto"]) -> list[str]:
    """The device of each worker on this machine; auto: one per GPU, or one per core."""
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = (gpus or cores) if workers == "auto" else workers
    return [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(count)]


MARK = "mark.txt"


def mark(results: Path) -> str:
    """Mark a results folder, by a file in its work folder; returns what the file says."""
    path = work_folder(results) / MARK
    if not path.exists():
        write_text(path, uuid.uuid4().hex)
    return path.read_text("utf-8")


def sees(results: Path, marked: str) -> bool:
    """Whether this process sees the very results folder that was marked, not one of that name on another machine."""
    path = results / "work" / MARK
    return path.is_file() and path.read_text("utf-8") == marked


def print_to(path: Path) -> None:
    """Append what this process prints from here on to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as file:  # libraries write to the descriptors too
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


class Worker(Protocol):
    """One process that runs one call at a time."""

    @property
    def deaths(self) -> tuple[type[BaseException], ...]:
        """What a call's future raises when the process died under it."""
        ...

    def start(self) -> "Future[None]":
        """Start the process, anew if it died; the future is done when it is ready."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Run a call; only when the worker is ready and the call before it is done."""
        ...

    def stop(self, *, now: bool) -> None:
        """End the process, when it is idle or right now."""
        ...


@dataclass(eq=False)
class _Call:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    result: "Future[Any]" = field(default_factory=Future)
    attempts: int = 0


class Pool:
    """Some workers and the calls that they run. Ends them when left as a context; of one thread only."""

    def __init__(self, workers: Sequence[Worker], *, on_gpus: bool = False) -> None:
        self.on_gpus = on_gpus
        self._starting = {worker.start(): worker for worker in workers}
        self._idle: deque[Worker] = deque()
        self._running: dict[Future[Any], tuple[Worker, _Call]] = {}
        self._waiting: deque[_Call] = deque()
        self._busy_until = time.monotonic()  # when a worker was last there to take a call

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        workers = [*self._starting.values(), *self._idle, *(worker for worker, _ in self._running.values())]
        if workers:
            with ThreadPoolExecutor(len(workers)) as all_at_once:
                list(all_at_once.map(lambda worker: worker.stop(now=kind is not None), workers))
        self._starting, self._running = {}, {}
        self._idle.clear()

    @property
    def size(self) -> int:
        """Workers that are there or being started."""
        return len(self._starting) + len(self._idle) + len(self._running)

    @property
    def room(self) -> int:
        """How many more calls would not have to wait for another."""
        return self.size - len(self._running) - len(self._waiting)

    def run(self, function: Callable[[Item], Any], items: Iterable[Item]) -> "list[Future[Any]]":
        """Have function(item) run for every item; returns when all are done, their futures in the items' order."""
        futures = [self.submit(function, item) for item in items]
        while not all(future.done() for future in futures):
            self.wait()
        return futures

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Have function(*arguments) run by the next free worker. The future is done only inside of `wait`."""
        call = _Call(function, arguments)
        self._waiting.append(call)
        self._assign()
        return call.result

    def wait(self, timeout: float | None = None) -> "list[Future[Any]]":
        """Wait until a submitted call is finished, or for `timeout` seconds, and return those that are.

        Returns nothing at once if nothing was submitted.
        """
        finished: list[Future[Any]] = []
        deadline = None if timeout is None else time.monotonic() + timeout
        while not finished and (self._running or self._waiting):
            if self._running or self._idle:
                self._busy_until = time.monotonic()
            elif not self._starting or time.monotonic() > self._busy_until + START_SECONDS:
                reason = "every worker died, and no other could be started"
                return [_fail(self._waiting.popleft().result, NoWorkerLeft(reason)) for _ in list(self._waiting)]
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if left <= 0:
                break
            for future in wait([*self._starting, *self._running], left, FIRST_COMPLETED).done:
                if future in self._starting:
                    self._started(self._starting.pop(future), future.exception())
                elif done := self._ended(*self._running.pop(future), future):
                    finished.append(done)
            self._assign()
        return finished

    def _started(self, worker: Worker, error: BaseException | None) -> None:
        if error is None:
            self._idle.append(worker)
        else:
            log.warning("a worker could not be started and is left out: %s", error)

    def _ended(self, worker: Worker, call: _Call, future: "Future[Any]") -> "Future[Any] | None":
        error = future.exception()
        if error is None or not isinstance(error, worker.deaths):
            self._idle.append(worker)
            if error is None:
                call.result.set_result(future.result())
                return call.result
            return _fail(call.result, error)
        self._starting[worker.start()] = worker
        if call.attempts < ATTEMPTS:
            log.warning("a worker process died (%s); its item is tried once more", type(error).__name__)
            self._waiting.appendleft(call)
            return None
        return _fail(call.result, WorkerDied("its worker process died (killed, or out of memory?)"))

    def _assign(self) -> None:
        for future in [future for future in self._starting if future.done()]:
            self._started(self._starting.pop(future), future.exception())
        while self._idle and self._waiting:
            worker, call = self._idle.popleft(), self._waiting.popleft()
            call.attempts += 1
            self._running[worker.submit(call.function, *call.arguments)] = worker, call


def _fail(future: "Future[Any]", error: BaseException) -> "Future[Any]":
    future.set_exception(error)
    return future


def in_process() -> Pool:
    """A pool whose only worker is this process, which works while something is submitted."""
    return Pool([_Here()])


def local(devices: Sequence[str]) -> Pool:
    """A pool of one spawned process per device, each with one thread of torch."""
    return Pool([_Process(name) for name in devices], on_gpus=any(name.startswith("cuda") for name in devices))


def on_ray(address: str, *, workers: int | Literal["auto"] = "auto", gpus_per_worker: float | None = None) -> Pool:
    """A pool of `ray.util.multiprocessing` on a Ray cluster, each worker an actor with one CPU.

    The workers get this repository's code with the connection, so the nodes need the packages of requirements.txt but
    no copy of it. A data folder is found by the same RFNEXT_DATA as here.

    Args:
        address: "local" (starts Ray here), "auto" (the cluster that this machine is a node of), "host:port" or
            "ray://host:port".
        workers: as many at a time; auto: as many as the cluster has room for.
        gpus_per_worker: may be a fraction; None: 1 if the cluster has GPUs, else 0.

    Raises ClusterError if ray is not installed, the cluster cannot be reached or has no room.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError('Ray is not installed; pip install "ray>=2.40"')
    import ray

    if not ray.is_initialized():
        _connect(address)
    resources = ray.cluster_resources()
    gpus = (1.0 if resources.get("GPU") else 0.0) if gpus_per_worker is None else gpus_per_worker
    if gpus < 0:
        raise ClusterError(f"GPUs per trial must not be negative, got {gpus}")
    fit = int(resources.get("CPU", 0))
    if gpus:
        fit = min(fit, int(resources.get("GPU", 0) / gpus))
    count = fit if workers == "auto" else min(workers, fit)
    if count < 1:
        has = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        raise ClusterError(f"the cluster at {address} has {has}: no room for a worker of 1 CPU and {gpus:g} GPUs")
    return Pool([_Actor(gpus) for _ in range(count)], on_gpus=gpus > 0)


def _connect(address: str) -> None:
    import ray

    mend = "start one by `ray start --head`, or give another --ray-address"
    server = address.removeprefix("ray://")
    if server not in ("auto", "local"):  # Ray tries for half a minute, then ends in pages of text
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise ClusterError(f"{address!r} is no cluster address: local, auto, HOST:PORT or ray://HOST:PORT")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ClusterError(f"no Ray cluster answers at {address} ({error}); {mend}") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own sends nothing home
    environment = {
        "OMP_NUM_THREADS": "1",
        "RFNEXT_DATA": os.environ.get("RFNEXT_DATA") or str(ROOT / "data"),
        SHIPPED_COMMIT: commit() or "",
        **{name: value for name, value in os.environ.items() if name.startswith("WANDB_")},
    }
    packages = [str(ROOT / name) for name in ("rfnext", "tasks", "benchmarks")]
    try:
        ray.init(
            address=address,
            runtime_env={"py_modules": packages, "env_vars": environment, "excludes": ["**/__pycache__"]},
            log_to_driver=False,
            logging_level=logging.WARNING,
            include_dashboard=False if address == "local" else None,
        )
    except Exception as error:  # of many kinds, by version and kind of address
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(f"cannot use the Ray cluster at {address} ({reason}); {mend}") from error


class _Here:
    deaths = ()

    def start(self) -> "Future[None]":
        return _done()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def stop(self, *, now: bool) -> None:
        pass


class _Process:
    deaths = (BrokenProcessPool,)

    def __init__(self, name: str) -> None:
        self.device = name
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> "Future[None]":
        if self._pool is not None:
            self._pool.shutdown()
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _start_process, (self.device,))
        return _done()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        assert self._pool is not None
        # The first call starts the process, which inherits that Ctrl-C is ignored: the parent ends it in order.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return self._pool.submit(_call, function, *arguments)
        finally:
            signal.signal(signal.SIGINT, before)

    def stop(self, *, now: bool) -> None:
        if self._pool is None:
            return
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=not now, cancel_futures=True)
        if now:
            for process in processes:
                process.terminate()
            deadline = time.monotonic() + 5  # files that are being written are put away first
            for process in processes:
                process.join(max(0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()


class _Actor:
    def __init__(self, gpus: float) -> None:
        from ray import exceptions

        self.deaths = (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
        )
        self._gpus = gpus
        self._pool: Any = None

    def start(self) -> "Future[None]":
        """On a thread: Ray waits for a node with room, which after the loss of one there may not be."""
        future: Future[None] = Future()
        lost, self._pool = self._pool, None

        def connect() -> None:
            from ray.util import multiprocessing as ray_multiprocessing

            try:
                if lost is not None:
                    lost.terminate()
                self._pool = ray_multiprocessing.Pool(
                    1,
                    initializer=_start_worker,
                    initargs=("cuda" if self._gpus else "cpu",),
                    ray_remote_args={"num_cpus": 1, "num_gpus": self._gpus},
                )
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=connect, daemon=True).start()
        return future

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        from ray.util.multiprocessing.pool import PoolTaskError

        future: Future[Any] = Future()

        def fail(error: Exception) -> None:
            future.set_exception(error.underlying if isinstance(error, PoolTaskError) else error)  # type: ignore

        self._pool.apply_async(function, arguments, callback=future.set_result, error_callback=fail)
        return future

    def stop(self, *, now: bool) -> None:
        if self._pool is not None:
            self._pool.terminate()


def _done() -> "Future[None]":
    future: Future[None] = Future()
    future.set_result(None)
    return future


def _start_process(name: str) -> None:
    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _end)
    _start_worker(name)


_calling = _ending = False


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function; end the process instead of returning if `_end` has been asked to."""
    global _calling
    _calling = True
    try:
        return function(*arguments)
    finally:
        _calling = False
        if _ending:
            os._exit(128 + signal.SIGTERM)


def _end(*_: object) -> None:
    """End the process as Ctrl-C would: what is being written atomically leaves no temporary file behind."""
    global _ending
    _ending = True
    if not _calling:
        os._exit(128 + signal.SIGTERM)
    raise KeyboardInterrupt


def _start_worker(name: str) -> None:
    global _device
    _device = name
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
