"""What a results folder holds, its readers and past findings: records, their lines, found searches, markers."""

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.methods.method import Found
from benchmarks.methods.stored import FOUND, read_found, write_found
from benchmarks.methods.training import read_purpose
from benchmarks.records.folder import read_all
from benchmarks.records.places import ROOT
from benchmarks.records.record import Cost
from rfnext import Structure
from tests.faults.fuzz.mutations import Sample
from tests.faults.fuzz.samples import DEEP, HUGE, each

PRESET = "action_segmentation-tiny"
LINES = f"{PRESET}/records.jsonl"
KEY = "0123456789abcdef"


def records() -> list[Sample]:
    """Committed records in one .jsonl file, and two of them as files of their own."""
    lines = (ROOT / "results" / LINES).read_text("utf-8").splitlines()[:9]
    sample = {LINES: "".join(f"{line}\n" for line in lines).encode()}
    contexts = {found.pop("context"): found for line in lines if "context" in (found := json.loads(line))}
    for line in lines:
        whole = json.loads(line)
        if "context" in whole or len(sample) > 2:
            continue
        context = dict(contexts[whole.pop("in_context")])
        layers = context.pop("layers", None)
        if layers is not None:
            whole["structure"] = dict(zip(layers, whole["structure"], strict=True))
        whole |= context
        place = "/".join(str(whole[name]) for name in ("task", "preset", "method"))
        name = f"runs/{place}/fold{whole['fold']}-seed{whole['seed']}.json"
        sample[name] = json.dumps(whole, indent=2).encode()
    return [sample]


def past_records() -> list[Sample]:
    """Nesting, numbers without a bound, lines that are none."""
    (good,) = records()
    own = next(name for name in good if name.startswith("runs/"))
    lines = good[LINES].decode().splitlines()
    texts = [DEEP, HUGE, "{}", "[]", '{"context": []}', '{"in_context": {}}', '{"context": 0}', "x" * 2**21]
    samples = [good | {LINES: "\n".join([*lines, text]).encode()} for text in texts]
    for field, value in (("metrics", {"accuracy": 1e400}), ("fold", 10**400), ("structure", []), ("history", {})):
        samples.append(good | {own: json.dumps(json.loads(good[own]) | {field: value}).encode()})
    return samples + each(good, LINES) + each(good, own)


def read_records(folder: Path, told: Any) -> None:
    """Read all records of the folder; what is broken is named, and the others stay."""
    found = read_all(folder)
    told(found.broken)
    for record in found.all:
        str(record.key), record.model_dump_json()


def found() -> list[Sample]:
    """What two searches found: a structure for axes of one and of two, with and without a history."""
    samples = []
    for structure, history in (({"a": (4,)}, []), ({"a": (4,), "b": (2, 3)}, [{"step": 1}])):
        with tempfile.TemporaryDirectory() as folder:
            made = Found(Path(folder), Cost(epochs=2), False, Structure(structure), history)
            write_found(Path(folder), KEY, made, "1a2b")
            samples.append({FOUND: (Path(folder) / FOUND).read_bytes()})
    return samples


def past_found() -> list[Sample]:
    """Nesting, numbers without a bound, fields of another type."""
    good = found()[0]
    samples = [{FOUND: text.encode()} for text in (DEEP, "[]", HUGE)]
    for change in (
        {"resumed": "no"},
        {"history": 3},
        {"history": [1]},
        {"cost": []},
        {"cost": {"seconds": float("nan")}},
        {"structure": {"a": "44"}},
        {"structure": {"a": [10**400]}},
        {"structure": []},
    ):
        samples.append({FOUND: json.dumps(json.loads(good[FOUND]) | change).encode()})
    return samples + each(good, FOUND)


def read_found_search(folder: Path) -> None:
    """A stored search is whole, or there is none; the methods use what it holds without looking again."""
    one = read_found(folder, KEY)
    if one is None:
        return
    if type(one.resumed) is not bool or not all(isinstance(entry, dict) for entry in one.history):
        raise AssertionError(f"taken over as it is: {one.resumed!r:.80}, {one.history!r:.80}")
    str(one.structure), one.cost.model_dump_json(), json.dumps(one.history)


def markers() -> list[Sample]:
    """What a training's folder is of."""
    return [{"training.json": json.dumps({"protocol": KEY, "code": "1a2b", "structure": {"a": [1]}}).encode()}]


def past_markers() -> list[Sample]:
    """Anything that is no text."""
    return each(markers()[0], "training.json")


def read_marker(folder: Path) -> None:
    """A marker is compared as text, whatever it holds."""
    read_purpose(folder / "training.json")
