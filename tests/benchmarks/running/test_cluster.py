"""A Ray cluster: what cannot be reached is one clear error, and a killed worker costs no result."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.records.folder import read_all
from benchmarks.records.record import Record
from benchmarks.running import cluster as clusters

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]
Kill = Callable[[str], int | None]


@pytest.mark.usefixtures("only_toy")
def test_a_cluster_that_cannot_be_reached_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for given in (address, f"ray://{address}"):
            assert suite.main(["tiny", "--results", str(tmp_path), "--ray-address", given]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"error: no Ray cluster found at {given} (")
            assert "ray start --head" in error
            assert len(error.splitlines()) == 1
    with pytest.raises(clusters.ClusterError, match="'nonsense' is no cluster address"):
        clusters.on_ray("nonsense")


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(clusters.ClusterError, match="pip install"):
        clusters.on_ray("local")


def done(results: Path) -> list[Record]:
    records = read_all(results)
    assert not records.broken
    assert {record.status for record in records.all} == {"done"}
    return records.all


@pytest.mark.slow
@pytest.mark.fault
def test_a_cluster_runs_the_suite_though_a_worker_is_killed(
    start: Start, project: Path, kill: Kill, cluster: str
) -> None:
    process = start("benchmarks.suite", "slow", "--seeds", "0", "--method", "baseline", "--ray-address", cluster)
    killed = None
    deadline = time.monotonic() + 200
    while killed is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        if list((project / "results/work").rglob("last.ckpt")):  # in the middle of a training
            killed = kill("ray::PoolActor.run_batch")
    out, err = process.communicate(timeout=240)
    assert killed is not None, err
    assert process.returncode == 0, err
    assert "2 cells: 0 kept, 2 to run, 0 unavailable; workers: 2;" in out
    assert err.count("its item is tried once more") == 1
    assert [record.fold for record in done(project / "results")] == [1, 2]


@pytest.mark.slow
@pytest.mark.fault
def test_a_cluster_trains_the_candidates_though_a_worker_is_killed(
    start: Start, call: Call, project: Path, kill: Kill, cluster: str
) -> None:
    line = ("benchmarks.run", "toy", "genetic_single", "--preset", "slow", "--results", "two")
    process = start(*line, "--ray-address", cluster)
    deadline = time.monotonic() + 200
    killed = None
    while killed is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        finished = list((project / "two").rglob("candidate-*-1.json"))
        if finished and len(list((project / "two").rglob("candidate-*/last.ckpt"))) >= len(finished):
            killed = kill("ray::PoolActor.run_batch")
    _, err = process.communicate(timeout=240)
    assert killed is not None, err
    assert process.returncode == 0, err
    assert "with 2 workers" in err
    assert err.count("its item is tried once more") == 1
    assert call("benchmarks.run", "toy", "genetic_single", "--results", "alone").returncode == 0
    (beside,), (alone,) = done(project / "two"), done(project / "alone")
    for part in ("metrics", "metrics_last", "structure", "history"):
        assert getattr(beside, part) == getattr(alone, part)
    assert beside.search.epochs == alone.search.epochs
