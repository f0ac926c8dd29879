"""Odd records: one line or file of a results folder is changed, and every command that reads records is run.

    python -m tests.faults.record_mutations [--count 400] [--seed 0]

Prints one JSON line: how many were tried, how many were named, and the tracebacks.
"""

import argparse
import contextlib
import copy
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import suite
from benchmarks.records.lines import read_lines
from benchmarks.records.places import ROOT
from benchmarks.records.record import write
from benchmarks.report import build, compare

TABLE = "action_segmentation-tiny"

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1.5,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "text",
        "../../x",
        "a\nb",
        "$\\x$",
        "\x00",
    ),
    *([], {}, [[]], {"a": None}, [1, "a"], "x" * 100_000),
)
"""What takes the place of a value. JSON has no NaN and no infinity, but json.loads reads them."""


def folder(root: Path) -> Path:
    """A results folder with one table: most of its cells as lines, those of one method as whole records."""
    results = root / "results"
    (results / TABLE).mkdir(parents=True)
    shutil.copy(ROOT / "results" / TABLE / "records.jsonl", results / TABLE)
    for record in read_lines(results / TABLE / "records.jsonl").records.values():
        if record.method == "local_single":
            step = [{"step": step, "structure": record.structure} for step in range(3)]
            write(record.model_copy(update={"history": step}), results)
    return results


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value; of a list only those in its first entry."""
    if path:
        yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def mutated(text: str, chance: random.Random) -> tuple[str, bytes]:
    """What was done to a JSON object, and the bytes that it has become."""
    content = json.loads(text)
    where = chance.choice(list(places(content)))
    kind = chance.choice(
        ["value"] * 8 + ["missing", "renamed", "more", "half", "bytes", "deep", "twice", "nothing", "long"]
    )
    name = f"{kind} {'.'.join(map(str, where))}"
    parent = content
    for step in where[:-1]:
        parent = parent[step]
    last = where[-1]
    if kind == "value":
        parent[last] = copy.deepcopy(chance.choice(VALUES))
        name += f" = {str(parent[last])[:20]!r}"
    elif kind == "missing":
        del parent[last]
    elif kind == "renamed" and isinstance(parent, dict):
        parent["another"] = parent.pop(last)
    elif kind == "more" and isinstance(parent, dict):
        parent["more"] = 1
    elif kind == "half":
        return name, text[: len(text) // 2].encode()
    elif kind == "bytes":
        return name, b"\xff\xfe" + text.encode()
    elif kind == "deep":
        return name, ("[" * 100_000 + "]" * 100_000).encode()
    elif kind == "twice":
        return name, text.encode() + b"\n" + text.encode()
    elif kind == "nothing":
        return name, b""
    elif kind == "long":
        return name, text[:-1].encode() + b', "more": "' + b"x" * 2**25 + b'"}'
    return name, json.dumps(content).encode()


def damage(results: Path, chance: random.Random) -> tuple[str, Path]:
    """Change one line or one file; returns what was done, and to which file."""
    lines = results / TABLE / "records.jsonl"
    path = chance.choice([lines, lines, *sorted((results / "runs").rglob("*.json"))])
    if path != lines:
        name, data = mutated(path.read_text(), chance)
        path.write_bytes(data)
        return name, path
    every = path.read_bytes().split(b"\n")[:-1]
    number = chance.randrange(len(every))
    name, every[number] = mutated(every[number].decode(), chance)
    path.write_bytes(b"".join(line + b"\n" for line in every))
    return f"line {number + 1}, {name}", path


def answers(results: Path, whole: Path) -> list[tuple[str, int, str]]:
    """Command, exit status and what it said on stderr, of all commands that read records."""
    commands = {
        "report": lambda: build.main(["--results", str(results)]),
        "compare": lambda: compare.main([str(whole), str(results)]),
        "list": lambda: suite.main(["tiny", "--task", "action_segmentation", "--list", "--results", str(results)]),
    }
    found = []
    for name, command in commands.items():
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = command()
            except Exception:
                traceback.print_exc()
                status = -1
        found.append((name, status, said.getvalue()))
    return found


def main() -> int:
    """Command line; 1 if a command ended in a traceback, or passed over what another has named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    faults, named = [], 0
    for number in range(given.seed, given.seed + given.count):
        with tempfile.TemporaryDirectory() as scratch:
            fault, broken = attempt(Path(scratch), random.Random(number))
        named += broken
        if fault:
            faults.append(f"seed {number}: {fault}")
            print(faults[-1], file=sys.stderr, flush=True)
    print(json.dumps({"odd records": given.count, "named": named, "faults": len(faults)}))
    return 1 if faults else 0


def attempt(root: Path, chance: random.Random) -> tuple[str | None, bool]:
    """Damage one folder and run the commands: what is wrong with their answers, and whether they named the damage."""
    results, whole = folder(root), folder(root / "whole")
    name, path = damage(results, chance)
    before = path.read_bytes()
    found = answers(results, whole)
    for command, status, said in found:
        if status not in (0, 1, 2) or "Traceback" in said:
            return f"{command} of {name}: {said[-600:]}", False
        if status == 1 and f"{path}" not in said and "protocols" not in said:
            return f"{command} of {name} names no file: {said[-300:]}", False
    named = found[0][1] == 1
    if named and path.read_bytes() != before:
        return f"report of {name} has changed the broken file", named
    return None, named


if __name__ == "__main__":
    sys.exit(main())
