"""A fuzzer over the readers of users' files: python -m tests.faults.fuzz --seconds 60 --seed 0

Every reader gets its past findings, then valid files that seeded changes have broken. Inputs are read in a process
beside this one, within limits of memory and time, in which an audit hook refuses other programs, connections, unpickled
classes and files outside the folder of the input. Fine is a value, or one of the reader's own errors, which names the
file in a message that a person can read; all else is a finding, kept with its files.

Prints one JSON line. Exit status: 0 no finding, 1 some.
"""

import collections
import gc
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from tests.faults.fuzz.mutations import FIFO, FOLDER, LOOP, MISSING, SPARSE, ZEROS, Sample, mutated
from tests.faults.fuzz.readers import READERS, Reader

MEMORY = 2**30
"""Bytes by which a process may grow; the largest sample is a megabyte."""

TIME, WAITING = 20.0, 300.0
"""CPU seconds for one input, of which the slowest takes six, and seconds by the clock."""

LONGEST = 3000
"""Characters of a message."""

REFUSED = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "socket.",
    "pickle.find_class",
    "ftplib.",
    "urllib.",
)
CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.",
)


@dataclass(frozen=True)
class Options:
    """Read broken files until there is a finding."""

    seconds: float | None = None
    """Time for all readers together; None: as many inputs as --inputs says."""
    inputs: int = 200
    """Broken files for each reader, besides its past findings."""
    seed: int = 0
    """Of the changes."""
    reader: tuple[str, ...] = tuple(READERS)
    """Which readers."""
    keep: Path = Path(tempfile.gettempdir()) / "rfnext-fuzz"
    """Folder that gets the findings."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, in a word; the number of the input; and how it shows."""

    kind: str
    number: int
    detail: str


def inputs(reader: Reader, seed: int, first: int = 0) -> Iterator[tuple[int, Sample]]:
    """Past findings, numbered from 0, then changed samples without an end, from number `first` on."""
    past, good = reader.past(), reader.good()
    for number, sample in enumerate(past[first:], first):
        yield number, sample
    number = max(first, len(past))
    while True:
        rng = random.Random(f"{seed}/{reader.name}/{number}")
        yield number, mutated(rng.choice(good), good, rng)
        number += 1


def write(sample: Sample, folder: Path) -> None:
    """The files of a sample in an empty folder."""
    for name, data in sample.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data == FIFO:
            os.mkfifo(path)
        elif data == FOLDER:
            path.mkdir()
        elif data in (ZEROS, LOOP):
            path.symlink_to("/dev/zero" if data == ZEROS else path)
        elif data.startswith(SPARSE):
            start = len(SPARSE) + 8
            path.write_bytes(data[start:])
            os.truncate(path, len(data) - start + int.from_bytes(data[len(SPARSE) : start], "little"))
        elif data != MISSING:
            path.write_bytes(data)


def judged(reader: Reader, sample: Sample, folder: Path, forbidden: list[str]) -> tuple[str, str] | None:
    """Read one input; what kind of finding it is and how it shows, or None."""
    try:
        reader.read(folder)
    except reader.errors as error:
        text = str(error)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "unprintable", repr(text)[:500]
        if not any(Path(name).name in text for name in sample) and folder.name not in text:
            return "unnamed", "".join(traceback.format_exception(error))
        if len(text) > LONGEST or "\n" in text.strip():
            return "message", f"{len(text)} characters: {text[:1000]}"
    except BaseException as error:
        return type(error).__name__, "".join(traceback.format_exception(error))[-6000:]
    return ("forbidden", "; ".join(forbidden)) if forbidden else None


def _watch(inside: Path, forbidden: list[str], reading: list[bool]) -> None:
    """Refuse what no reader may do, while `reading` is not empty; a hook stays for the life of the process."""
    allowed = (str(inside), "/dev/null", "/dev/shm")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not reading:
            return
        bad = event.startswith(REFUSED)
        path = arguments[0] if arguments else None
        named = isinstance(path, str | bytes | os.PathLike)
        if event == "open" and named:
            changes = (
                arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                if isinstance(arguments[2], int)
                else 0
            )
            bad = os.fsdecode(path) == "/etc/passwd" or bool(changes and not os.fsdecode(path).startswith(allowed))
        elif event.startswith(CHANGES) and named:
            bad = not os.fsdecode(path).startswith(allowed)
        if bad:
            forbidden.append(f"{event} {arguments!r:.300}")
            raise PermissionError(f"{event} is not for readers of files")

    sys.addaudithook(hook)


def _work(reader: Reader, seed: int, first: int, last: int | None, inside: Path, pipe: Any) -> None:
    """In a process of its own: read inputs and say what came of each."""
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    forbidden: list[str] = []
    reading: list[bool] = []
    _watch(inside, forbidden, reading)
    for number, sample in inputs(reader, seed, first):
        if last is not None and number >= last:
            break
        forbidden.clear()
        with tempfile.TemporaryDirectory(dir=inside) as folder:
            write(sample, Path(folder))
            pipe.send((number, "started", None))
            reading.append(True)
            found = judged(reader, sample, Path(folder), forbidden)
            reading.clear()
        pipe.send((number, "done", found))
        gc.collect() if number % 50 == 0 else None
    pipe.send((0, "finished", None))


def _memory(pid: int | None) -> int:
    """Bytes of a process that no other has."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


def _computed(pid: int | None) -> float:
    """CPU seconds of a process: on a busy machine the clock would find what is not there."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Worker:
    """A process that reads the inputs of one reader from a number on."""

    reader: Reader
    seed: int
    first: int
    last: int | None
    inside: Path

    def run(self, until: float) -> tuple[int, bool, Finding | None]:
        """Number of the next input, whether the last one was read, and the finding that ended it."""
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(self.reader, self.seed, self.first, self.last, self.inside, theirs), daemon=True
        )
        process.start()
        theirs.close()
        try:
            return self._listen(ours, process.pid, until)
        finally:
            process.kill()
            process.join()
            ours.close()

    def _listen(self, pipe: Any, pid: int | None, until: float) -> tuple[int, bool, Finding | None]:
        number, since, computed, base = self.first, time.monotonic(), 0.0, 0
        while True:
            try:
                if pipe.poll(0.02):
                    number, event, found = pipe.recv()
                    if event == "finished":
                        return number, True, None
                    if event == "started":
                        since, computed, base = time.monotonic(), _computed(pid), base or _memory(pid)
                        continue
                    if found is not None:
                        return number + 1, False, Finding(found[0], number, found[1])
                    if time.monotonic() > until:
                        return number + 1, True, None
            except EOFError:
                return number + 1, False, Finding("crash", number, "the process ended")
            if _computed(pid) - computed > TIME:
                return number + 1, False, Finding("time", number, f"more than {TIME} s of computing")
            if time.monotonic() - since > WAITING:
                return number + 1, False, Finding("time", number, f"more than {WAITING} s")
            if base and _memory(pid) > base + MEMORY:
                return number + 1, False, Finding("memory", number, f"more than {MEMORY} bytes")


def fuzz(options: Options) -> tuple[int, dict[str, list[Finding]]]:
    """How many inputs were read, and the findings by reader."""
    count, findings = 0, collections.defaultdict[str, list[Finding]](list)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as inside:
        for index, name in enumerate(options.reader):
            reader = READERS[name]
            _warm_up(reader, Path(inside))
            until, last = float("inf"), len(reader.past()) + options.inputs
            if options.seconds is not None:
                until, last = start + options.seconds * (index + 1) / len(options.reader), None
            number, done = 0, False
            while not done:
                number, done, found = Worker(reader, options.seed, number, last, Path(inside)).run(until)
                if found is not None:
                    findings[name].append(found)
                    _keep(found, reader, options)
                    done = time.monotonic() > until or (last is not None and number >= last)
            count += number if options.seconds is not None else last or 0
    return count, findings


def _warm_up(reader: Reader, inside: Path) -> None:
    """Read the valid samples: they must be fine, and what they import is there before the hook."""
    for sample in reader.good():
        with tempfile.TemporaryDirectory(dir=inside) as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(sample, Path(folder))
            reader.read(Path(folder))


def _keep(found: Finding, reader: Reader, options: Options) -> None:
    folder = options.keep / f"{reader.name}-{options.seed}-{found.number}-{found.kind}"
    _, sample = next(inputs(reader, options.seed, found.number))
    for name, data in sample.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "finding.txt").write_text(found.detail, errors="backslashreplace")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m tests.faults.fuzz")
    torch.set_num_threads(1)
    start = time.monotonic()
    count, findings = fuzz(options)
    kinds = collections.Counter(f"{name}: {found.kind}" for name, own in findings.items() for found in own)
    print(
        json.dumps(
            {
                "study": "fuzz",
                "inputs": count,
                "findings": dict(kinds),
                "seed": options.seed,
                "seconds": round(time.monotonic() - start, 1),
                "readers": list(options.reader),
                "kept": str(options.keep) if kinds else None,
            }
        )
    )
    return 1 if kinds else 0
