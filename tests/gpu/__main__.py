"""Everything that hardware decides, in one command that never stops at a failure: `bash tests/gpu.sh`.

With a CUDA device it writes results/gpu/<device>.md, within 8 minutes. Without one the same checks run on the CPU, on
small shapes and in Triton's interpreter, within a minute on a free core, and the report goes to a temporary folder. The
exit status is 1 if anything failed.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tests.gpu  # noqa: F401 (before anything of the benchmarks)
from benchmarks.records.machine import describe_device
from rfnext.files import write_text
from tests.gpu.findings import DEVICE, ON_GPU
from tests.gpu.report import markdown

ROOT = Path(__file__).parents[2]


class Section(NamedTuple):
    """Checks in a process of their own, which is ended after `seconds`."""

    name: str
    title: str
    seconds: int
    command: Sequence[str]
    interpreted: bool = False


def module(name: str, *more: str) -> list[str]:
    return ["-m", f"tests.gpu.{name}", *more]


# On a GPU these run side by side, since most of their time is compilation; then those that time something, one by one.
# Together within 8 minutes also if the machine has a single core.
UNTIMED = (
    Section("operator_values", "Operator against float64", 110, module("operator_values"), interpreted=True),
    Section("compilation", "torch.compile and CUDA graphs", 80, module("compilation")),
    Section("whole_search", "A whole search, twice", 30, module("whole_search")),
    Section(
        "tests", "Tests marked gpu", 110, ["-m", "pytest", "-q", "-m", "gpu", "-rf", "--tb=line", "tests/rfnext/ops"]
    ),
)
TIMED = (
    Section(
        "layer_speed", "Layers beside the plain conv", 90, module("layer_speed", "--seconds", "70"), interpreted=True
    ),
    Section("network_steps", "Whole networks", 50, module("network_steps")),
)
PATIENCE = 1 if ON_GPU else 6
"""Without a GPU nothing promises 8 minutes, and the machine may be busy."""


def run(section: Section) -> list[dict[str, Any]]:
    """The findings of a section; one that crashes or takes too long has one more, that says so."""
    if section.name == "tests" and (reason := no_tests()):
        return [{"what": {"check": "all"}, "outcome": "not run", "why": reason, "found": {}}]
    surroundings = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    surroundings.pop("RFNEXT_IMPLEMENTATION", None)
    if section.interpreted and not ON_GPU:
        surroundings["TRITON_INTERPRET"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, *section.command],
                cwd=ROOT,
                env=surroundings,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                status = process.wait(section.seconds * PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = None
        said = out.read_text(errors="replace")
        found = read_pytest(said) if section.name == "tests" else read_lines(said)
        return found + ended(section, status, found, said + err.read_text(errors="replace"))


def no_tests() -> str:
    """Why the tests cannot run here; empty if they can."""
    if not ON_GPU:
        return "they need a CUDA device; tests/rfnext/ops/test_triton.py runs them in the interpreter"
    missing = [name for name in ("pytest", "pytest_timeout", "hypothesis") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def read_lines(said: str) -> list[dict[str, Any]]:
    """Findings in what a section printed; the last line of one that was stopped may be cut."""
    found = []
    for line in said.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def read_pytest(said: str) -> list[dict[str, Any]]:
    """One finding per failed test, and the counts of the summary."""
    found: list[dict[str, Any]] = [
        {"what": {"check": test}, "outcome": "failed", "why": why or "see pytest", "found": {}}
        for test, why in re.findall(r"^FAILED (\S+)(?: - (.*))?$", said, re.MULTILINE)
    ]
    if counts := re.search(r"^.*\bpassed\b.*$", said, re.MULTILINE):
        found.append({"what": {"check": "all"}, "outcome": "passed", "why": "", "found": {"pytest": counts[0]}})
    return found


def ended(section: Section, status: int | None, found: list[dict[str, Any]], said: str) -> list[dict[str, Any]]:
    """A finding about the process itself, if it did not end as it should."""
    if status is None:
        why = f"ended after {section.seconds * PATIENCE} s; {len(found)} checks were done"
    elif not found or (status and not any(one["outcome"] == "failed" for one in found)):
        why = f"exit status {status}: {(said.strip().splitlines() or ['it printed nothing'])[-1][:300]}"
    else:
        return []
    return [{"what": {"check": "the section itself"}, "outcome": "failed", "why": why, "found": {}}]


def main() -> int:
    """Run all sections and write the report; prints where it is, and what failed."""
    parser = argparse.ArgumentParser(prog="bash tests/gpu.sh", description=__doc__)
    parser.parse_args()
    start = time.monotonic()
    workers = min(len(UNTIMED), max(1, (os.cpu_count() or 1) // 2)) if ON_GPU else 1
    with ThreadPoolExecutor(workers) as pool:
        found = {section.title: checks for section, checks in zip(UNTIMED, pool.map(run, UNTIMED), strict=True)}
    found |= {section.title: run(section) for section in TIMED}
    device = describe_device(DEVICE)["name"]
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".md"
    text = markdown(device, found, time.monotonic() - start)
    path = (ROOT / "results/gpu" if ON_GPU else Path(tempfile.mkdtemp(prefix="rfnext-gpu-"))) / name
    write_text(path, text)
    print(text.partition("\n## ")[0])
    print(path)
    return int(any(one["outcome"] == "failed" for checks in found.values() for one in checks))


if __name__ == "__main__":
    sys.exit(main())
