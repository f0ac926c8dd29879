"""The toy task as a value, and a copy of the project in which it is the only task."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tasks
from benchmarks.arguments import preset_name
from benchmarks.cell import Cell
from benchmarks.methods.method import Method
from benchmarks.methods.table import METHODS
from benchmarks.records import record as stored
from benchmarks.records.identity import identify
from benchmarks.records.record import Cost, Record
from benchmarks.running.execute import make_record
from tests import python_processes

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOY = HERE / "toy_task.py"
WHEN = "2026-01-01T00:00:00+00:00"


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_task", TOY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy_task"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def only_toy(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy is the only task that this process knows."""
    monkeypatch.setattr(tasks, "names", lambda: ["toy"])
    monkeypatch.setattr(tasks, "load", lambda name: toy.TASK)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def cell(toy: ModuleType, results: Path) -> Callable[..., Cell]:
    """Makes cells of the toy task that keep their results in the test's folder."""

    def make(
        method: str | Method = "baseline", *, preset: str = "tiny", fold: int = 1, seed: int = 0, **other: Any
    ) -> Cell:
        task = other.pop("task", toy.TASK)
        base = other.pop("base", preset if preset in task.presets else "tiny")
        config = other.pop("config", None) or task.presets[base]
        other = {"results": results, "device": "cpu"} | other
        row = METHODS[method] if isinstance(method, str) else method
        return Cell(task, preset, config, row, fold, seed, base=base, **other)

    return make


@pytest.fixture
def mine(tmp_path: Path) -> list[Path]:
    """Two folders of data that have the name "mine"; only a label differs."""
    folders = [tmp_path / name / "mine" for name in "ab"]
    for folder, label in zip(folders, ("cut", "mix"), strict=True):
        folder.mkdir(parents=True)
        (folder / "labels.txt").write_text(label)
        (folder / "x.bin").write_bytes(bytes(100))
    return folders


@pytest.fixture
def own(cell: Callable[..., Cell], toy: ModuleType) -> Callable[..., Cell]:
    """Makes a cell of the toy task on own data."""

    def make(root: Path, method: str = "baseline", **other: Any) -> Cell:
        config = toy.Config(root=root, **other.pop("fields", {}))
        identity = other.pop("identity", None) or identify(toy.TASK, config)
        name = other.pop("preset", None) or preset_name(toy.TASK, "tiny", config, None, identity)
        return cell(method, config=config, preset=name, identity=identity, **other)

    return make


METRICS = {"accuracy": 90.0, "loss": 0.25}


@pytest.fixture
def make(cell: Callable[..., Cell]) -> Callable[..., Record]:
    """Makes the record of a cell: done unless a reason is given; the rest are fields of the record."""

    def one(method: str = "baseline", *, reason: str | None = None, **other: Any) -> Record:
        of_cell = {name: other.pop(name) for name in list(other) if name not in Record.model_fields or name in OF_CELL}
        here = cell(method, **of_cell)
        if reason:
            return make_record(here, WHEN, reason=reason, **other)
        scores: dict[str, Any] = {"metrics": METRICS, "metrics_last": METRICS, "validation": METRICS}
        return make_record(here, WHEN, **scores | other)

    return one


OF_CELL = ("fold", "seed", "preset", "task", "base")


@pytest.fixture
def write(make: Callable[..., Record], results: Path) -> Callable[..., Record]:
    """Writes one record: accuracy given, or a reason for having none."""

    def one(method: str, fold: int, seed: int, accuracy: float | str, **other: Any) -> Record:
        if isinstance(accuracy, str):
            made = make(method, fold=fold, seed=seed, reason=accuracy, **other)
        else:
            values = {"accuracy": accuracy, "loss": 1 - accuracy / 100}
            found = {"metrics": values, "metrics_last": values | {"accuracy": accuracy - 1}, "validation": values}
            found["training"] = Cost(
                epochs=5, seconds=2.0 * fold, peak_memory_mb=500.0 + seed, memory_measure="resident"
            )
            made = make(method, fold=fold, seed=seed, **found | other)
        stored.write(made, results)
        return made

    return one


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the toy dropped in as its only task: nothing else is edited."""
    root = tmp_path / "project"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "rfnext", root / "rfnext", ignore=ignore)
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks", ignore=ignore)
    (root / "tasks" / "toy").mkdir(parents=True)
    for path in (ROOT / "tasks").glob("*.py"):
        shutil.copy(path, root / "tasks")
    shutil.copy(TOY, root / "tasks" / "toy" / "task.py")
    return root


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m <arguments>` in the copy of the project. What a failed test has not ended is killed."""
    started: list[subprocess.Popen[str]] = []

    def popen(*arguments: str, **other: Any) -> subprocess.Popen[str]:
        # What is told to have a session of its own is sent signals: that is tried with a process as users start it.
        kind = subprocess.Popen if other.get("start_new_session") else python_processes.Popen
        process = kind(
            [sys.executable, "-m", *arguments],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever started the tests in the background has switched Ctrl-C off for all their children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **other,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def call(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m <arguments>` in the copy of the project and waits for it."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        process = start(*arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return run


@pytest.fixture
def kill() -> Callable[[str], int | None]:
    """Kills one process whose command line contains a text and whose parent's parent is this one, if there is one.

    Such are the workers of a cluster that the test has started, and those of a project's command.
    """

    def one(text: str) -> int | None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found = text.encode() in process.joinpath("cmdline").read_bytes()
                if found and parent_of(parent_of(int(process.name))) == os.getpid():
                    os.kill(int(process.name), signal.SIGKILL)
                    return int(process.name)
            except OSError:  # it has ended
                continue
        return None

    return one


@pytest.fixture
def cluster() -> Iterator[str]:
    """Address of a Ray cluster on this machine: two nodes with room for one worker each. Skips without Ray."""
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = small | {"include_dashboard": False}
    made = pytest.importorskip("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
    try:
        made.add_node(**small)
        yield made.address
    finally:
        made.shutdown()


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def receptive_field() -> dict[str, Any]:
    """What a record keeps of a network that reads three positions of one axis."""
    return {
        "unit": "frames",
        "output": "the logit of a class",
        "inputs": 2,
        "part": "validation",
        "seconds": 0.1,
        "axes": [
            {
                "step": 4.0,
                "size": 64,
                "edges": [-6.0, -2.0, 2.0, 6.0],
                "share": [0.25, 0.5, 0.25],
                "radius": {"0.5": 0.0, "0.95": 4.0},
                "theoretical": [-12.0, 16.0],
                "farther_than": None,
            }
        ],
    }
