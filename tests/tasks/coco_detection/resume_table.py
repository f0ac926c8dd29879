"""Interrupted trainings of the published configs against uninterrupted ones: one JSON line per config.

    python -m tests.tasks.coco_detection.resume_table [--detectors D ...] [--modes M ...] [--processes 1 2] [--signals]

Each config, at a tiny size, is trained whole, and again with three interruptions: within the first epoch, within the
second, and between the second and third. All of the last checkpoint must be equal, bit for bit. Interruptions are
exceptions in one process (of each rank); with --signals every part is a command line of its own, ended by SIGKILL,
SIGINT and SIGKILL.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config as MMConfig
from mmengine.runner import Runner

from tasks.coco_detection import configs, datasets, train_published
from tasks.coco_detection.config import Config
from tests.checkpoints import differences
from tests.tasks.coco_detection import small_configs
from tests.tasks.coco_detection.small_configs import EPOCHS, small

IMAGES = 8
NUMBERS = itertools.count()
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGKILL)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def config_of(detector: Any) -> Config:
    """Ten scenes of training, of which two are validation in the benchmark but not here."""
    return Config(scenes=IMAGES, digits=3, size="tiny", image=64, batch=4, detector=detector)


def stops(processes: int) -> list[dict[str, Any]]:
    """Where the training is interrupted; an iteration takes 2 images a process."""
    epoch = -(-IMAGES // (2 * processes))
    return [{"at": 1}, {"at": epoch + 1}, {"at": 2 * epoch, "epoch": True}]


def measure(detector: str, mode: str, processes: int, folder: Path, signals: bool) -> dict[str, Any]:
    """Train whole and in parts, and compare."""
    start = time.time()
    paths = write(detector, mode, processes, folder, signals)
    arguments = ["--data", str(datasets.layout_of(config_of(detector), 1).root), "--resume"]
    for path, part in zip(paths, ("whole", *["parts"] * 4), strict=True):
        train([str(path), *arguments, "--work-dir", str(folder / part)], processes, signals)
    last = f"epoch_{EPOCHS}.pth"
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 has written the checkpoints
    whole, parts = (torch.load(folder / part / last, weights_only=True) for part in ("whole", "parts"))
    first = torch.load(folder / "whole/epoch_1.pth", weights_only=True)
    different = differences(whole, parts)
    return {
        "what": f"{detector}_{mode}",
        "processes": processes,
        "stopped by": "signals" if signals else "exceptions",
        "tensors": tensors(whole),
        "moved": len(differences(first["state_dict"], whole["state_dict"], "state_dict")),
        "different": len(different),
        "first": different[:3],
        "seconds": round(time.time() - start),
    }


def write(detector: str, mode: str, processes: int, folder: Path, signals: bool) -> list[Path]:
    """The config of the whole training and those of its four parts."""
    folder.mkdir(parents=True, exist_ok=True)
    structure = None
    if mode.startswith("fixed"):
        structure = folder / "structure.json"
        searching = small(config_of(detector), "search")
        structure.write_text(json.dumps({"structure": widened(searching)}))
    paths = []
    for i, stop in enumerate((None, *stops(processes), None)):
        config = small(config_of(detector), mode, structure)
        config.experiment_name = f"{detector}{next(NUMBERS)}"
        if stop is not None:
            by = int(SIGNALS[i - 1]) if signals else None
            config.custom_hooks = [*config.get("custom_hooks", []), {"type": "Stop", "by": by, **stop}]
        paths.append(folder / f"{detector}_{i}.py")
        if int(os.environ.get("RANK", 0)) == 0:
            small_configs.write(config, paths[-1])
    return paths


def widened(config: Any) -> dict[str, list[int]]:
    """A structure of the searched network: all dilations one more than they are."""
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    from rfnext.integrations.mmengine import RFSearchHook
    from tasks.coco_detection import small_res2net  # noqa: F401  (registers it)

    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model)
    hook = RFSearchHook(**{key: value for key, value in config.custom_hooks[0].items() if key != "type"}).prepare(model)
    assert hook is not None
    return {name: [d + 1 for d in dilation] for name, dilation in hook.search.structure().items()}


def train(arguments: list[str], processes: int, signals: bool) -> None:
    """One part, until it ends or is ended."""
    if not signals:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # rank 0 has written the config
        with contextlib.suppress(KeyboardInterrupt), contextlib.redirect_stdout(io.StringIO()):
            train_published.main(arguments)
        return
    start = [sys.executable] if processes == 1 else [*TORCHRUN, str(processes)]
    command = [*start, "-m", "tasks.coco_detection.train_published", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    whole = "whole" in arguments[-1] or "_4" in arguments[0]
    if (done.returncode == 0) != whole:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def tensors(value: Any) -> int:
    """How many tensors a checkpoint holds."""
    if isinstance(value, dict):
        return sum(tensors(entry) for entry in value.values())
    if isinstance(value, (list, tuple)):
        return sum(tensors(entry) for entry in value)
    return int(isinstance(value, torch.Tensor))


def main() -> int:
    """Command line; under torchrun, one rank of it."""
    parser = argparse.ArgumentParser(description="Interrupted trainings of the published configs, compared.")
    parser.add_argument("--detectors", nargs="+", default=configs.DETECTORS, choices=configs.DETECTORS)
    parser.add_argument("--modes", nargs="+", default=configs.MODES, choices=configs.MODES)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--signals", action="store_true", help="end real processes by signals")
    parser.add_argument("--folder", type=Path, help="of one rank")
    given = parser.parse_args()
    if not given.signals:  # what takes mmengine most of the time: formatting configs, asking compilers for versions
        MMConfig.pretty_text = property(repr)  # type: ignore[assignment,method-assign]
        Runner._log_env = lambda runner, env_cfg: None  # type: ignore[method-assign]
    if given.folder is not None:
        torch.distributed.init_process_group("gloo")
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for processes in given.processes:
            if given.folder is None and processes > 1 and not given.signals:
                ranks = [*TORCHRUN, str(processes), "-m", __spec__.name, "--folder", temporary]
                ranks += ["--processes", str(processes), "--detectors", *given.detectors, "--modes", *given.modes]
                failed += subprocess.run(ranks, check=False).returncode != 0
                continue
            for detector, mode in itertools.product(given.detectors, given.modes):
                folder = (given.folder or Path(temporary)) / f"{detector}_{mode}_{processes}"
                line = measure(detector, mode, processes, folder, given.signals)
                failed += bool(line["different"])
                if int(os.environ.get("RANK", 0)) == 0:
                    print(json.dumps(line), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
