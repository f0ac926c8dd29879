"""results/trust/table.md: what was killed, crashed, filled, compared and fuzzed, and how much of it came out right.

    python -m tests.faults.trust                 # all measurements: about an hour on 2 cores
    python -m tests.faults.trust points ranks    # some; the others keep what was measured before

Each measurement is a script of its own that prints JSON lines. They go to results/trust/measurements.jsonl with the
command, the commit and the date, as soon as the script ends; the table is made from these.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator
from tabulate import tabulate

from benchmarks.records.places import ROOT
from benchmarks.studies import measurements
from rfnext.files import write_text

Line = dict[str, Any]

FOLDER = ROOT / "results" / "trust"


class Measurement(NamedTuple):
    """A script, what its lines count, and how many of that came out right.

    what: in the table. command: module and arguments. count, right: of one line.
    """

    what: str
    command: str
    count: Callable[[Line], int]
    right: Callable[[Line], int]


def _equal(name: str) -> tuple[Callable[[Line], int], Callable[[Line], int]]:
    """Of lines that say how many there were by this name, and whether all came out equal. One that failed before there
    was any counts as one."""
    return lambda line: max(
        line.get(name, 0), not line["equal"]
    ), lambda line: line.get(name, 0) if line["equal"] else 0


def _compared(line: Line) -> int:
    """Statistics of batch norm differ per rank, and float32 rounds: these lines explain and promise nothing."""
    promised = "float32" not in line["name"] and "batch norm" not in line["name"]
    return int(promised and ("difference" in line or "error" in line))


MEASUREMENTS = {
    "kills": Measurement(
        "kill -9 of cells of the tasks at random moments, each continued: kills after which record and "
        "network are those of an undisturbed run, digit for digit",
        "tests.faults.kill9 --kills 12 --seed 0",
        *_equal("kills"),
    ),
    "points": Measurement(
        "a crash before every change of a file, and with half of it written: crashes after which the cell ends as an "
        "undisturbed one",
        "tests.faults.points",
        *_equal("crashes"),
    ),
    "wandb": Measurement(
        "a crash before every change of the files of an offline run of Weights & Biases: crashes after which the cell "
        "ends as an undisturbed one, with a run to upload",
        "tests.faults.points --method local_single --logger wandb --only wandb",
        *_equal("crashes"),
    ),
    "full_disk": Measurement(
        "a disk that is full at any point: refusals by one line, and the same digits once there is space",
        "tests.faults.full_disk",
        *_equal("refused"),
    ),
    "resume": Measurement(
        "trainings by the published detection configs, in all modes, interrupted: tensors of the last checkpoint that "
        "are those of an uninterrupted one",
        "tests.tasks.coco_detection.resume_table",
        lambda line: line["tensors"],
        lambda line: line["tensors"] - line["different"],
    ),
    "ranks": Measurement(
        "searches on 2 and 4 processes against one on the whole batch, in float64: equal to 1e-10",
        "tests.faults.ranks",
        _compared,
        lambda line: int(line.get("difference", 1) < 1e-10 and line["equal_structures"]) if _compared(line) else 0,
    ),
    "fuzz": Measurement(
        "damaged files given to every reader: a value or one error of the reader's own, within limits of memory and "
        "time",
        "tests.faults.fuzz --seconds 300 --seed 1",
        lambda line: line["inputs"],
        lambda line: line["inputs"] - sum(line["findings"].values()),
    ),
    "records": Measurement(
        "folders with a damaged record given to the tables: named or readable, and no traceback",
        "tests.faults.record_mutations --count 100",
        lambda line: line["odd records"],
        lambda line: line["odd records"] - line["faults"],
    ),
    "kernels": Measurement(
        "calls of the compiled kernels under address and undefined-behaviour sanitizers: right results, no report",
        "tests.rfnext.ops.sanitized_kernels --calls 400",
        lambda line: line["calls"],
        lambda line: line["calls"] - line["wrong"] - line["reports"],
    ),
}


def _counted(line: Line) -> Line:
    one = MEASUREMENTS.get(line.get("measurement", ""))
    if one is None:
        raise ValueError(f"measurement is none of {', '.join(MEASUREMENTS)}")
    if missing := {"command", "commit", "date", "status"} - line.keys():
        raise ValueError(f"has no {min(missing)}")
    try:
        fine = 0 <= one.right(line) <= one.count(line)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot be counted: {error}") from error
    if not fine:
        raise ValueError("has more that is right than was tried")
    return line


LINE = Annotated[Line, AfterValidator(_counted)]


def _commit() -> str:
    """The commit, and -dirty if tracked files differ from it, besides those that the measurements before wrote."""

    def said(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        return done.stdout.strip()

    changed = said("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){FOLDER.relative_to(ROOT)}")
    return said("describe", "--always") + ("-dirty" if changed else "")


def run(name: str) -> list[Line]:
    """The lines of one script. What it says on standard error goes on."""
    command = MEASUREMENTS[name].command
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    about = {"measurement": name, "command": command, "commit": _commit(), "date": date.today().isoformat()}
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in found:
        line.pop("kept", None)  # a folder of this machine
    return [about | line | {"status": done.returncode} for line in found]


def table(lines: Sequence[Line]) -> str:
    """The page: one row per measurement that was taken."""
    rows = []
    for name, one in MEASUREMENTS.items():
        own = [line for line in lines if line["measurement"] == name]
        if own:
            count, right = sum(map(one.count, own)), sum(map(one.right, own))
            when = f"{own[0]['date']}, {own[0]['commit']}"
            early = "" if {line["status"] for line in own} <= {0, 1} else ", ended early"
            rows.append([one.what, f"{right:,} of {count:,}{early}", f"`python -m {own[0]['command']}`", when])
    body = tabulate(rows, ["what", "as promised", "command", "date, commit"], tablefmt="github")
    return (
        "# What is promised, tried many times\n\nShort forms of these run with the tests. Made by "
        "`python -m tests.faults.trust`, which runs the commands and counts their lines in measurements.jsonl.\n\n"
        f"{body}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if anything was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.trust", description=__doc__)
    names = ", ".join(MEASUREMENTS)
    parser.add_argument("name", nargs="*", help=f"measurements to take: {names}; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: results/trust")
    given = parser.parse_args(arguments)
    if unknown := set(given.name) - MEASUREMENTS.keys():
        parser.error(f"unknown measurement {min(unknown)!r}; known: {names}")
    measurements.read_or_end(given.folder, LINE)  # before hours are spent
    refused = False
    for name in given.name or MEASUREMENTS:
        taken = run(name)
        try:
            list(map(_counted, taken))
        except ValueError as error:  # the script could not measure: for want of a compiler, say
            print(f"{name}: a line of its script {error}; what was measured before is kept", file=sys.stderr)
            refused = True
            continue
        kept = [line for line in measurements.read_or_end(given.folder, LINE) if line["measurement"] != name]
        if taken:
            order = list(MEASUREMENTS)
            lines = sorted([*kept, *taken], key=lambda line: order.index(line["measurement"]))
            measurements.write(given.folder, lines)
        else:
            print(f"{name}: its script printed no line; what was measured before is kept", file=sys.stderr)
    lines = measurements.read_or_end(given.folder, LINE)
    write_text(given.folder / "table.md", table(lines))
    print(table(lines))
    wrong = [line for line in lines if (one := MEASUREMENTS[line["measurement"]]).count(line) != one.right(line)]
    return int(bool(wrong) or refused)


if __name__ == "__main__":
    sys.exit(main())
