"""A pool on a Ray cluster: each worker an actor with one CPU."""

import importlib.util
import logging
import math
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

from benchmarks.records.machine import SHIPPED_COMMIT, commit
from benchmarks.records.places import ROOT
from benchmarks.running.pool import Pool
from benchmarks.running.worker import start as start_worker


class ClusterError(RuntimeError):
    """The cluster cannot be used; the message says why and what to do."""


def on_ray(address: str, *, workers: int | Literal["auto"] = "auto", gpus_per_worker: float | None = None) -> Pool:
    """A pool of `ray.util.multiprocessing` on a Ray cluster, each worker an actor with one CPU.

    The workers get this repository's code with the connection, so the nodes need the packages of requirements.txt but
    no copy of it. A data folder is found by the same RFNEXT_DATA as here.

    Args:
        address: "local" (starts Ray here), "auto" (the cluster that this machine is a node of), "host:port" or
            "ray://host:port".
        workers: as many at a time; auto: as many as fit on the cluster.
        gpus_per_worker: may be a fraction; None: 1 if the cluster has GPUs, else 0.

    Raises ClusterError if ray is not installed, the cluster cannot be reached or is too small.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterError('Ray is not installed; pip install "ray>=2.40"')
    import ray

    if not ray.is_initialized():
        _connect(address)
    resources = ray.cluster_resources()
    gpus = (1.0 if resources.get("GPU") else 0.0) if gpus_per_worker is None else gpus_per_worker
    if not 0 <= gpus < math.inf:
        raise ClusterError(f"GPUs per trial must be a number from 0 on, got {gpus}")
    fit = int(resources.get("CPU", 0))
    if gpus:
        fit = min(fit, int(resources.get("GPU", 0) / gpus))
    count = fit if workers == "auto" else min(workers, fit)
    if count < 1:
        has = f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
        raise ClusterError(f"the cluster at {address} has {has}: too small for a worker of 1 CPU and {gpus:g} GPUs")
    return Pool([_Actor(gpus, count) for _ in range(count)], on_gpus=gpus > 0)


def _connect(address: str) -> None:
    import ray

    fix = "start one by `ray start --head`, or give another --ray-address"
    server = address.removeprefix("ray://")
    if server not in ("auto", "local"):  # Ray tries for half a minute, then ends in pages of text
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise ClusterError(f"{address!r} is no cluster address: local, auto, HOST:PORT or ray://HOST:PORT")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ClusterError(f"no Ray cluster found at {address} ({error}); {fix}") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own sends no usage statistics
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
        raise ClusterError(f"cannot use the Ray cluster at {address} ({reason}); {fix}") from error


class _Actor:
    def __init__(self, gpus: float, workers: int) -> None:
        from ray import exceptions

        self.deaths = (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
        )
        self._gpus, self._workers = gpus, workers
        self._pool: Any = None

    def start(self) -> "Future[None]":
        """On a thread: Ray waits for a free node, and after the loss of one there may be none."""
        future: Future[None] = Future()
        lost, self._pool = self._pool, None

        def connect() -> None:
            from ray.util import multiprocessing as ray_multiprocessing

            try:
                if lost is not None:
                    lost.terminate()
                self._pool = ray_multiprocessing.Pool(
                    1,
                    initializer=start_worker,
                    initargs=("cuda" if self._gpus else "cpu", self._workers),
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
