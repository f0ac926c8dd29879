"""Nothing is sent: no command and no logger looks a name up or opens a connection, in no process that it starts."""

import functools
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tasks
from rfnext.cli.main import main as rfnext_command
from tests.faults.fuzz import own_data as own
from tests.faults.fuzz import samples, scenes, sounds
from tests.faults.fuzz.fuzzer import write
from tests.faults.fuzz.mutations import Sample

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; it sees all processes' calls"),
]

SERIES = ["time,target", *(f"2024-01-{1 + k // 24:02} {k % 24:02}:00,{k % 5}" for k in range(600))]

DATA: dict[str, Callable[[], Sample]] = {
    "videos": lambda: samples.videos()[0] | samples.checkpoints()[0],
    "images": lambda: scenes.scenes()[0],
    "features": lambda: {"v.npy": samples.array(np.arange(240).reshape(6, 40))} | samples.checkpoints()[0],
    "detector": lambda: scenes.scenes()[0] | samples.detectors()[0],
    "clips": lambda: {f"clips/{name}": data for name, data in sounds.clips()[0].items()},
    "mel": lambda: sounds.mels()[0] | samples.checkpoints()[3],
    "labels": lambda: own.labelled()[0] | samples.segmenters()[0],
    "series": lambda: {"series.csv": "\n".join(SERIES).encode()},
}

COMMANDS: dict[str, tuple[str, str]] = {
    "check videos": ("videos", "tasks.action_segmentation.check {}"),
    "score videos": ("videos", "tasks.action_segmentation.score {}/predicted {}/groundTruth"),
    "check images": ("images", "tasks.coco_detection.check {} --panoptic --pixels"),
    "check clips": ("clips", "tasks.tts_vocoder.check {}/clips --fmax 4000"),
    "check labels": ("labels", "tasks.semantic_segmentation.check {}"),
    "score clips": ("clips", "tasks.tts_vocoder.score {}/clips/wavs {}/clips/wavs --sample-rate 8000"),
    "speak": ("series", "tasks.tts_vocoder.recordings.espeak {}/spoken"),
    "check a series": ("series", "tasks.load_forecasting.check {}"),
    "baselines of a series": ("series", "tasks.load_forecasting.baselines --preset tiny"),
    "doctor": ("series", "rfnext doctor"),
    "completion": ("series", "rfnext completion bash"),
    "cells of a suite": ("series", "benchmarks.suite tiny --list --results {}/results"),
}
"""Data, and a command on it that does not train."""

OWN_TESTS: dict[str, tuple[str, str]] = {
    "rfnext plan": ("rfnext/cli/test_commands.py", "plan_shows"),
    "rfnext show": ("rfnext/cli/test_commands.py", "show_reads"),
    "rfnext apply": ("rfnext/cli/test_commands.py", "apply_puts"),
    "rfnext merge": ("rfnext/cli/test_commands.py", "merge_computes"),
    "rfnext export": ("rfnext/cli/test_commands.py", "export_needs"),
    "rfnext convert": ("rfnext/cli/test_commands.py", "convert_goes"),
    "tasks.coco_detection.train_published": (
        "tasks/coco_detection/test_train_published.py",
        "searches_scores_and_resumes or test_estimate",
    ),
    "benchmarks.run --from": ("benchmarks/test_repeat.py", "a_record_runs_again_from_itself"),
}
"""Commands that are traced in tests of their own: a file below tests/, and which of its tests."""

LONG = (
    "benchmarks.speed",
    "benchmarks.speed.growth",
    "benchmarks.studies.does_search_pay",
    "benchmarks.studies.full_size",
    "benchmarks.studies.genetic_cost",
    "benchmarks.studies.planted_truth",
    "benchmarks.studies.search_at_equal_cost",
    "benchmarks.studies.search_time",
    "benchmarks.studies.segmentation_at_equal_cost",
    "tasks.action_segmentation.speed",
    "tasks.coco_detection.speed",
    "tasks.tts_vocoder.speed",
)
"""Commands that run for minutes: traced up to their help, which needs all that they import. They train and time with
the code that is traced elsewhere."""

EXCUSED = {
    "rfnext new-task": "writes a file into this repository's tasks/",
    "tasks.coco_detection.published": "fetches what it is asked for, from the links of published.toml",
}
"""Commands that are not traced, and why."""

HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        assert not ended.code, name
"""

OFFLINE = """
import sys
from pathlib import Path
import wandb
from rfnext.integrations.wandb import init_arguments
with wandb.init(**init_arguments(Path(sys.argv[1]), name="a", group="b")) as run:
    run.log({"a": 1.0})
"""


@functools.cache
def tracer() -> tuple[str, ...]:
    """strace of all children; where the kernel can choose the calls, they alone stop a process."""
    quick = ("strace", "-f", "-qq", "--seccomp-bpf")
    tried = subprocess.run([*quick, "-o", os.devnull, "true"], capture_output=True, check=False)
    return quick if tried.returncode == 0 else quick[:-1]


def connections(folder: Path, *command: str, **environment: str) -> list[str]:
    """The calls by which a command and its children reach out: to all but this machine."""
    calls = folder / "calls.txt"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    traced = [*tracer(), "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(calls)]
    subprocess.run(
        [*traced, sys.executable, *command],
        cwd=ROOT,
        env=kept | {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", "PYTHONPATH": str(ROOT)} | environment,
        check=True,
        capture_output=True,
        timeout=250,
    )
    found = re.findall(r".*AF_INET6?,.*", calls.read_text())
    return [call for call in found if not re.search(r'"127\.0\.0\.1"|"::1"', call)]


def test_the_trace_sees_a_look_up(tmp_path: Path) -> None:
    ask = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('example.org', 80)"
    if not Path("/etc/resolv.conf").exists():
        pytest.skip("without a name server nobody is asked")
    assert connections(tmp_path, "-c", ask)


def test_an_offline_run_of_wandb_reaches_nobody(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    assert connections(tmp_path, "-c", OFFLINE, str(tmp_path)) == []


def test_what_an_offline_run_says_of_its_machine_can_be_left_out(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    connections(tmp_path, "-c", OFFLINE, str(tmp_path), RFNEXT_WANDB_PRIVATE="1")
    (run,) = tmp_path.glob("wandb/offline-run-*")
    uploaded = [next(run.glob("*.wandb")), *(path for path in (run / "files").rglob("*") if path.is_file())]
    held = b"".join(path.read_bytes() for path in uploaded)
    for said in (str(tmp_path), str(ROOT), sys.executable, str(Path.home()) + "/"):
        assert said.encode() not in held


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_on_data_reaches_out(name: str, tmp_path: Path) -> None:
    made, line = COMMANDS[name]
    folder = tmp_path / "data"
    write(DATA[made](), folder)
    words = [word.replace("{}", str(folder)) for word in line.split()]
    assert connections(tmp_path, "-m", *words, RFNEXT_CACHE=str(tmp_path / "cache")) == []


PREDICT = {
    "action_segmentation": ("features", "tasks.action_segmentation.predict {}/model.pt {}/v.npy --out {}/out"),
    "coco_detection": (
        "detector",
        "tasks.coco_detection.predict {}/train2017/0.jpg --checkpoint {}/model.pt --out {}/out",
    ),
    "semantic_segmentation": (
        "labels",
        "tasks.semantic_segmentation.predict {}/images/0.png --checkpoint {}/model.pt --out {}/out --labels {}/labels",
    ),
    "tts_vocoder": ("mel", "tasks.tts_vocoder.synthesize {}/a.npy {}/out.wav --checkpoint {}/model.pt"),
}
"""Data with a network, and what the network says of it."""


@pytest.mark.slow
@pytest.mark.parametrize("task", PREDICT)
def test_no_prediction_reaches_out(task: str, tmp_path: Path) -> None:
    made, line = PREDICT[task]
    folder = tmp_path / "data"
    write(DATA[made](), folder)
    words = [word.replace("{}", str(folder)) for word in line.split()]
    assert connections(tmp_path, "-m", *words, RFNEXT_CACHE=str(tmp_path / "cache")) == []
    assert [path for path in folder.iterdir() if path.name.startswith("out")]


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(set(tasks.names()) - {"action_segmentation"}))  # that trains below
def test_no_task_reaches_out_when_it_trains(task: str, tmp_path: Path) -> None:
    few = {"coco_detection": "--scenes 12 --image 64", "load_forecasting": "--steps 1", "tts_vocoder": "--clips 12"}
    line = f"{task} baseline --preset tiny --epochs 1 {few.get(task, '')} --results {tmp_path}/results"
    assert connections(tmp_path, "-m", "benchmarks.run", *line.split()) == []


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["none", "csv", "tensorboard", "wandb"])
def test_no_training_reaches_out(logger: str, tmp_path: Path) -> None:
    line = "action_segmentation local_single --epochs 2 --search.interval 1 --search.rounds 2 --layers 2 --stages 2"
    words = [*line.split(), "--maps", "8", "--results", str(tmp_path / "results"), "--logger", logger]
    assert connections(tmp_path, "-m", "benchmarks.run", *words) == []


def commands() -> set[str]:
    """Every command: `rfnext` and its own, and the modules that are one."""
    found: list[str] = []
    for package in ("rfnext", "tasks", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text(encoding="utf-8"):
                found.append(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit), io.StringIO() as text:
        patch.setattr(sys, "stdout", text)
        try:
            rfnext_command(["--help"])
        finally:
            own = re.findall(r"^    ([a-z][a-z-]+)(?= |$)", text.getvalue(), re.MULTILINE)
    assert len(own) > 5
    return {*found, *(f"rfnext {name}" for name in own), "benchmarks.run --from"} - {"rfnext"}


def test_every_command_is_traced_or_excused() -> None:
    lines = [line for _, line in (*COMMANDS.values(), *PREDICT.values())]
    traced = {" ".join(line.split()[: 2 if line.startswith("rfnext ") else 1]) for line in lines}
    traced |= {*OWN_TESTS, *LONG, "benchmarks.run", *(f"benchmarks.{name}" for name in OVER_RECORDS)}
    assert commands() - set(EXCUSED) == traced


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted({file for file, _ in OWN_TESTS.values()}))
def test_no_command_reaches_out_in_its_own_tests(file: str, tmp_path: Path) -> None:
    chosen = " or ".join(names for of, names in OWN_TESTS.values() if of == file)
    words = f"-m pytest -q -n 0 -p no:cacheprovider --basetemp {tmp_path}/tests tests/{file} -k".split()
    assert connections(tmp_path, *words, chosen) == []


@pytest.mark.slow
def test_no_long_command_reaches_out_before_it_begins(tmp_path: Path) -> None:
    assert connections(tmp_path, "-c", HELP, *LONG) == []


OVER_RECORDS = ("report", "compare", "suite")


@pytest.mark.slow
@pytest.mark.parametrize("command", OVER_RECORDS)
def test_no_command_over_records_reaches_out(command: str, tmp_path: Path) -> None:
    results = str(tmp_path / "results")
    shutil.copytree(ROOT / "results", results)
    words = {"report": ["--results", results], "compare": [results, results]}
    assert connections(tmp_path, "-m", f"benchmarks.{command}", *words.get(command, ["--list"])) == []
