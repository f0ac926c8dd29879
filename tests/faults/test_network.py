"""Nothing is sent: no command and no logger looks a name up or opens a connection, in no process that it starts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed; it sees all processes' calls"),
]

OFFLINE = """
import sys
from pathlib import Path
import wandb
from rfnext.integrations.wandb import init_arguments
with wandb.init(**init_arguments(Path(sys.argv[1]), name="a", group="b")) as run:
    run.log({"a": 1.0})
"""


def connections(folder: Path, *command: str, **environment: str) -> list[str]:
    """The calls by which a command and its children reach out: to all but this machine."""
    calls = folder / "calls.txt"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    traced = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(calls)]
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
@pytest.mark.parametrize("logger", ["none", "csv", "tensorboard", "wandb"])
def test_no_training_reaches_out(logger: str, tmp_path: Path) -> None:
    line = "action_segmentation local_single --epochs 2 --search.interval 1 --search.rounds 2 --layers 2 --stages 2"
    words = [*line.split(), "--maps", "8", "--results", str(tmp_path / "results"), "--logger", logger]
    assert connections(tmp_path, "-m", "benchmarks.run", *words) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "compare", "suite"])
def test_no_command_over_records_reaches_out(command: str, tmp_path: Path) -> None:
    results = str(tmp_path / "results")
    shutil.copytree(ROOT / "results", results)
    words = {"report": ["--results", results], "compare": [results, results]}
    assert connections(tmp_path, "-m", f"benchmarks.{command}", *words.get(command, ["--list"])) == []
