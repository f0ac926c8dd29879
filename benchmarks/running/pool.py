"""Pools: calls run in this process or in local worker processes; `running.cluster` has those of a Ray cluster.

    with pool.local(["cuda:0", "cuda:1"]) as workers:
        for structure, future in zip(structures, workers.run(evaluate, structures), strict=True):
            ...

Calls are those of `multiprocessing.Pool`, with its rule that functions, items and results can be pickled: `submit` is
its `apply_async`, `run` its `map`. Both give futures, so that no result is lost: an item that fails is an exception of
its own future and does not stop the others. An item whose worker process dies (killed, out of memory, its node lost) is
tried once more, by any free worker.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any, Literal, Protocol, TypeVar

from benchmarks.cell import Cell
from benchmarks.records.machine import count_gpus
from benchmarks.running.worker import Work, in_worker
from benchmarks.running.worker import start as start_worker

log = logging.getLogger(__name__)

Item = TypeVar("Item")

ATTEMPTS = 2
"""How often an item is tried before the end of its worker process counts as its own failure."""

START_SECONDS = 300.0
"""How long items wait for a worker while there is none, before they fail."""


class WorkerDied(RuntimeError):
    """The worker process of an item died, each time it was tried."""


class NoWorkerLeft(WorkerDied):
    """Every worker died before the item's turn, and no other could be started."""


def choose_devices(workers: int | Literal["auto"]) -> list[str]:
    """The device of each worker on this machine; auto: one per GPU, or one per core."""
    gpus = count_gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = (gpus or cores) if workers == "auto" else workers
    return [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(count)]


class Worker(Protocol):
    """One process that runs one call at a time."""

    @property
    def deaths(self) -> tuple[type[BaseException], ...]:
        """What a call's future raises when its process died."""
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
    """Some workers and the calls that they run. Ends them when left as a context; of one thread only.

    on_gpus: whether they compute on GPUs. elsewhere: whether they are processes of their own.
    """

    def __init__(self, workers: Sequence[Worker], *, on_gpus: bool = False, elsewhere: bool = True) -> None:
        self.on_gpus, self.elsewhere = on_gpus, elsewhere
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
            with _undisturbed(kind is not None and self.elsewhere), ThreadPoolExecutor(len(workers)) as all_at_once:
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
        return _fail(
            call.result, WorkerDied("its worker process died (killed, no memory, or a crash of compiled code)")
        )

    def _assign(self) -> None:
        for future in [future for future in self._starting if future.done()]:
            self._started(self._starting.pop(future), future.exception())
        while self._idle and self._waiting:
            with _ctrl_c_later(self.elsewhere):
                worker, call = self._idle.popleft(), self._waiting.popleft()
                call.attempts += 1
                self._running[worker.submit(call.function, *call.arguments)] = worker, call


@contextlib.contextmanager
def _ctrl_c_later(holds: bool) -> Iterator[None]:
    """Have Ctrl-C wait for the end of the block, so that no worker is lost that is neither idle nor running.

    A process that is started meanwhile never sees Ctrl-C: this one ends it in order.
    """
    if not holds:
        yield
        return
    resource_tracker.ensure_running()  # when it starts, it lets signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _undisturbed(ends_now: bool) -> Iterator[None]:
    """Ignore Ctrl-C while processes are ended right now: a second one would leave them half ended."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ends_now else None
    try:
        yield
    finally:
        if ends_now:
            signal.signal(signal.SIGINT, before)


def _fail(future: "Future[Any]", error: BaseException) -> "Future[Any]":
    future.set_exception(error)
    return future


@dataclass(frozen=True)
class _Here:
    """Work for a cell in this process."""

    work: Work
    cell: Cell

    def __call__(self, item: Any) -> Any:
        return self.work(self.cell, item)


def run_for_cell(pool: Pool, work: Work, cell: Cell, items: Iterable[Any]) -> "list[Future[Any]]":
    """Do a cell's work with every item, by the pool's workers; returns when all are done, futures in their order."""
    return pool.run(in_worker(work, cell) if pool.elsewhere else _Here(work, cell), items)


def in_process() -> Pool:
    """A pool whose only worker is this process, which works while something is submitted."""
    return Pool([_ThisProcess()], elsewhere=False)


def local(devices: Sequence[str]) -> Pool:
    """A pool of one spawned process per device, each with one thread of torch."""
    on_gpus = any(name.startswith("cuda") for name in devices)
    return Pool([_Process(name, len(devices)) for name in devices], on_gpus=on_gpus)


class _ThisProcess:
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

    def __init__(self, name: str, processes: int) -> None:
        self.device, self.processes = name, processes
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> "Future[None]":
        if self._pool is not None:
            self._pool.shutdown()
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _start_process, (self.device, self.processes))
        return _done()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        assert self._pool is not None
        return self._pool.submit(_call, function, *arguments)

    def stop(self, *, now: bool) -> None:
        if self._pool is None:
            return
        if now:
            processes = list((self._pool._processes or {}).values())
            for process in processes:
                process.terminate()
            deadline = time.monotonic() + 5  # temporary files are removed first
            for process in processes:
                process.join(max(0, deadline - time.monotonic()))
                if process.is_alive():
                    process.kill()
        # Also waits for the pool's thread: Python's end wakes it up, which fails where the thread ends right then.
        self._pool.shutdown(cancel_futures=True)


def _done() -> "Future[None]":
    future: Future[None] = Future()
    future.set_result(None)
    return future


def _start_process(name: str, processes: int) -> None:
    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _end)
    start_worker(name, processes)


_calling = _ending = False


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function; end the process instead of returning if `_end` was called before."""
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
