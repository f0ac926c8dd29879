"""Small valid files of every kind that users give to this project, made on the fly, and past findings beside them."""

import dataclasses
import functools
import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import torch
from torch import nn

import tasks
from rfnext import Bounds, LocalConfig, LocalSearch, Structure, keep_branches
from rfnext.tensor_files import serialised
from tasks import checkpoint
from tasks.plain import plain
from tasks.tts_vocoder.config import Config as Vocoder
from tasks.tts_vocoder.mels.mel import MelConfig
from tests.faults.fuzz.mutations import FIFO, FOLDER, LOOP, MISSING, PICKLES, SPARSE, ZEROS, Sample

MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0)
SEARCH = {"step": 1, "max_step": 4, "search_interval": 1, "exp_rate": 0.5, "mmin": 1, "mmax": 24, "num_branches": 3}
DEEP, HUGE = "[" * 100_000 + "]" * 100_000, "1" + "0" * 400


def each(sample: Sample, name: str) -> list[Sample]:
    """The sample with one of its files in the place of anything that is no file, and with contents that are no text."""
    odd = (
        FIFO,
        FOLDER,
        ZEROS,
        LOOP,
        MISSING,
        b"",
        b"\0" * 999,
        b"\xff\xfe",
        b"a" * 2**21,
        b"\xef\xbb\xbf" + sample[name],
    )
    return [sample | {name: content} for content in odd]


def saved(content: Any, *, legacy: bool = False) -> bytes:
    """As torch.save writes it, also in its old format."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def bombs(good: bytes) -> list[bytes]:
    """A checkpoint as archives that unpack to much more, and as programs."""
    parts = {
        name: zipfile.ZipFile(io.BytesIO(good)).read(name) for name in zipfile.ZipFile(io.BytesIO(good)).namelist()
    }
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    stored = next(name for name in parts if "/data/" in name)
    found = []
    for changes, method in (
        ({}, zipfile.ZIP_DEFLATED),
        ({stored: bytes(2**28)}, zipfile.ZIP_DEFLATED),
        *(({pickled: program}, zipfile.ZIP_STORED) for program in PICKLES),
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, content in (parts | changes).items():
                archive.writestr(name, content)
        found.append(buffer.getvalue())
    return [*found, *PICKLES, bytes(2**20)]


class Small(nn.Module):
    """Two convs, for the published checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 2, (3, 5), padding=(1, 2))


def structures() -> list[Sample]:
    """Structure files of three generations and our own."""
    entries = {"module.first": [2, 2], "module.second": [1, 3]}
    own = {
        "format": "rfnext-structure",
        "version": 2,
        "structure": {"first": 2},
        "anchor": {"first": ["centre", "last"]},
    }
    contents = [
        {"format": "rfnext-structure", "version": 1, "structure": {"first": [2, 2], "second": [1, 3]}},
        own | {"structure": {"first": [2, 2]}},
        {"search": SEARCH | {"skip_layer": ["head"]}, "structure": entries},
        {"search": {**SEARCH, "S": 3, "normlize": "absavg"}, "model": {"module.first": 2, "module.second": [1, 3]}},
    ]
    return [{"structure.json": json.dumps(content).encode()} for content in contents]


def past_structures() -> list[Sample]:
    """Numbers, nesting and names that ended readers."""
    texts = [
        DEEP,
        '{"structure": ' + DEEP + "}",
        '{"structure": {"first": 2147483648}}',
        f'{{"structure": {{"first": {HUGE}}}}}',
        '{"structure": {"first": 1e400}}',
        '{"structure": {"first": [1, 1], "first": [2, 2]}}',
        '{"structure": {"\\ud800": 0}}',
        '{"search": {"mmin": 1e400, "mmax": 1, "exp_rate": 1, "num_branches": 1000000000}, "structure": {"first": 1}}',
        f'{{"search": {{"mmin": {HUGE}, "mmax": 1, "exp_rate": 1, "num_branches": 3}}, "structure": {{"first": 1}}}}',
        "{" + ",".join(f'"a{i}": 1' for i in range(50_000)) + ', "a49999": 1}',
    ]
    return [{"structure.json": text.encode()} for text in texts] + each(structures()[0], "structure.json")


def published() -> list[Sample]:
    """Checkpoints under mmcv's operator, of RFConv2d, of Global2Local's operator, and of plain convs."""
    torch.manual_seed(0)
    plain_state = Small().state_dict()
    file = structures()[2]
    wrapped = {f"module.{name.replace('.', '.op_layer.')}": value for name, value in plain_state.items()}
    search = f"dict({', '.join(f'{name}={value!r}' for name, value in SEARCH.items())})"
    config = f"custom_hooks = [dict(type='RFSearchHook', mode='search', config=dict(search={search}))]"
    meta = {"epoch": 1, "iter": 1, "config": config}
    names = ("first", "second")
    operator = wrapped | {f"module.{name}.branch_weights": torch.full((3,), 0.01) for name in names}
    local = wrapped | {f"module.{name}.weights": torch.full((3,), 0.01) for name in names}
    rates = {
        "rates": torch.ones(3, 2, dtype=torch.int32),
        "num_rates": torch.tensor([2]),
        "sample_weights": torch.ones(3),
    }
    rf = dict(plain_state) | {f"first.{entry}": value for entry, value in rates.items()}
    rf["first.rates"] = torch.tensor([[1, 1], [2, 2], [1, 1]], dtype=torch.int32)
    return [
        {"a.pth": saved({"meta": meta, "state_dict": operator}, legacy=True)} | file,
        {"a.pth": saved({"state_dict": operator})} | file,
        {"a.pth": saved({"state_dict": local})} | {"structure.json": file["structure.json"].replace(b"0.5", b"0.1")},
        {"a.pth": saved({"meta": {"epoch": 1}, "state_dict": dict(plain_state)})} | file,
        {"a.pth": saved(rf)},
    ]


def past_published() -> list[Sample]:
    """Bombs, and tensors that no conv can be made of."""
    first, *_, rf = published()
    samples = [first | {"a.pth": bomb} for bomb in bombs(published()[1]["a.pth"])]
    state = torch.load(io.BytesIO(rf["a.pth"]), weights_only=True)
    for key, value in (
        ("rates", torch.full((3, 2), float("inf"))),
        ("num_rates", torch.tensor([float("inf")])),
        ("rates", torch.full((3, 2), 2**31)),
        ("rates", torch.zeros(1).expand(2**30, 2)),
        ("num_rates", torch.tensor([1 + 1j])),
        ("rates", torch.ones(3, 2) * 1j),
    ):
        samples.append({"a.pth": saved(state | {f"first.{key}": value})})
    for text in (
        "{[1]: 2}",
        "dict(" * 150 + ")" * 150,
        "(" * 10**5,
        "-" * 10**5 + "1",
        "x" + ".x" * 10**5,
        "a = " + "9" * 5000,
        "'\\d'",
        "x = {}\n" * 10**5,
        "\0",
    ):
        content = torch.load(io.BytesIO(first["a.pth"]), weights_only=True)
        content["meta"]["config"] += "\n" + text
        samples.append(first | {"a.pth": saved(content)})
    return samples + each(first, "a.pth")


def checkpoints() -> list[Sample]:
    """Networks of the Lightning tasks: as designed, with branches, in search."""
    torch.manual_seed(0)
    segmentation = tasks.load("action_segmentation").presets["tiny"]
    facts = {"features": 6, "classes": ["pour", "stir", "wait"]}
    vocos = Vocoder(dataset="folder", mel=MEL, segment=2048, generator="vocos", dim=16, layers=2)
    hifi = dataclasses.replace(vocos, generator="hifi_gan_v3", channels=16, upsampling=(8, 8), dim=None, layers=None)
    search = LocalConfig(interval=1, rounds=1, branches=3, spread=0.5, bounds=Bounds(1, 2048))
    samples = []
    for name, config, told in (
        ("action_segmentation", segmentation, facts),
        ("tts_vocoder", vocos, {}),
        ("tts_vocoder", hifi, {}),
        ("load_forecasting", tasks.load("load_forecasting").presets["tiny"], {"columns": ["a", "b", "c"]}),
    ):
        task = tasks.load(name)
        for form in ("designed", "multi", "searching"):
            model = task.build(config) if task.rebuild is None else task.rebuild(config, told)
            if form == "multi":
                keep_branches(model, Structure.read(model, task.where), search)
            elif form == "searching":
                LocalSearch(model, search, task.where)
            samples.append({"model.pt": _checkpoint(name, config, model, told)})
    return samples


@functools.cache
def detectors() -> list[Sample]:
    """The detector of a cell, as it is searched there."""
    torch.manual_seed(0)
    task, facts = tasks.load("coco_detection"), {"classes": ["a", "b"], "things": 2}
    config = task.presets["tiny"]
    assert task.rebuild is not None
    model = task.rebuild(config, facts)
    LocalSearch(model, config.search, task.where)
    return [{"model.pt": _checkpoint(task.name, config, model, facts)}]


def segmenters() -> list[Sample]:
    """A network of two classes of semantic segmentation."""
    torch.manual_seed(0)
    task, facts = tasks.load("semantic_segmentation"), {"classes": ["ground", "square"]}
    config = task.presets["tiny"]
    assert task.rebuild is not None
    return [{"model.pt": _checkpoint(task.name, config, task.rebuild(config, facts), facts)}]


def past_detectors() -> list[Sample]:
    """Classes without a bound, none, and other things than classes."""
    changes: list[tuple[str, str, Any]] = [
        ("facts", "classes", ["a"] * 10**5),
        ("facts", "classes", []),
        ("facts", "classes", 7),
        ("facts", "things", -1),
        ("facts", "things", 10**400),
        ("config", "image", 10**30),
    ]
    samples = []
    for part, key, value in changes:
        content = torch.load(io.BytesIO(detectors()[0]["model.pt"]), weights_only=True)
        content[part][key] = value
        samples.append({"model.pt": saved(content)})
    return samples


def _checkpoint(name: str, config: Any, model: nn.Module, facts: dict[str, Any]) -> bytes:
    from rfnext.description import describe

    content = {
        "format": checkpoint.FORMAT,
        "version": checkpoint.VERSION,
        "task": name,
        "config": plain(config, "config"),
    }
    return serialised(content | {"facts": facts, "convs": describe(model), "state_dict": model.state_dict()})


def past_checkpoints() -> list[Sample]:
    """Bombs, values that refer to themselves, and numbers without a bound."""
    good = checkpoints()
    samples = [{"model.pt": bomb} for bomb in bombs(good[0]["model.pt"])]
    for sample in good[:4]:
        for part, key, value in (
            ("config", "mel", {"n_fft": 10**400}),
            ("config", "dim", 10**30),
            ("config", "epochs", float("nan")),
            ("facts", "classes", [[]] * 3),
            ("facts", "features", 2**20),
            ("version", None, DEEP),
        ):
            content = torch.load(io.BytesIO(sample["model.pt"]), weights_only=True)
            if key is None:
                content[part] = value
            else:
                content[part][key] = value
            samples.append({"model.pt": saved(content)})
    return samples + each(good[0], "model.pt")


def array(values: Any) -> bytes:
    """As numpy.save writes it, float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, np.float32))
    return buffer.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    """Of a .npy file, without numbers."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def videos() -> list[Sample]:
    """A data folder in the MS-TCN layout."""
    sample = {"mapping.txt": b"0 cut\n1 mix\n"}
    for k in range(4):
        frames = 20 + k
        sample[f"features/v{k}.npy"] = array(np.arange(3 * frames).reshape(3, frames))
        sample[f"groundTruth/v{k}.txt"] = ("cut\n" * 9 + "mix\n" * (frames - 9)).encode()
        sample[f"predicted/v{k}.txt"] = ("### Frame level recognition: ###\n" + "cut " * frames).encode()
    sample["splits/train.split1.bundle"] = b"v0.txt\nv1.txt\nv2.txt\n"
    return [sample | {"splits/test.split1.bundle": b"v3.txt\n"}]


def past_videos() -> list[Sample]:
    """Files that claim gigabytes, endless lines, numbers of thousands of digits."""
    (good,) = videos()
    samples = [
        good | {"features/v0.npy": SPARSE + struct.pack("<Q", 4 * 2048 * n) + header((2048, n))}
        for n in (400_000, 200_000)
    ]
    samples += [
        good | {"mapping.txt": text}
        for text in (b"1" * 5000 + b" cut\n", "٣ cut\n".encode(), b"0 cut\n" + b"99999999999 mix\n")
    ]
    samples += [
        good | {"groundTruth/v0.txt": text}
        for text in (b"cut " * 2**20, b"a\n" * 2**23, SPARSE + struct.pack("<Q", 2**33))
    ]
    samples += [
        good | {"splits/test.split1.bundle": text}
        for text in (b"a" * 2**22, b"../v0.txt\n", b"/etc/passwd\n", b"\n" * 2**23)
    ]
    samples += [good | {"predicted/v0.txt": b"a " * 2**24}]
    for name in (
        "mapping.txt",
        "features/v0.npy",
        "groundTruth/v0.txt",
        "splits/test.split1.bundle",
        "predicted/v0.txt",
    ):
        samples += each(good, name)
    return samples


def lightning() -> list[Sample]:
    """A checkpoint of a training, with the state of its search."""
    model = Small()
    search = LocalSearch(model, LocalConfig(rounds=1, interval=1))
    content = {
        "epoch": 1,
        "global_step": 3,
        "state_dict": model.state_dict(),
        "callbacks": {"search": search.state_dict()},
        "run": {"seed": 0},
    }
    return [{"last.ckpt": saved(content)}]


def past_lightning() -> list[Sample]:
    """Bombs."""
    (good,) = lightning()
    return [{"last.ckpt": bomb} for bomb in bombs(good["last.ckpt"])] + each(good, "last.ckpt")
