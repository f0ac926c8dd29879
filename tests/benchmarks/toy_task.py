"""A complete task in miniature: frame by frame, the sign of the sum of two far-off samples of a signal.

Frame t is 1 where x[t - 6] + x[t + 6] > 0, so the two-layer network needs the right dilations. Its presets
also carry the faults that the runner has to survive: they happen inside a real training.
"""

import copy
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from rfnext import Bounds, LocalConfig, reproducible
from rfnext.files import write_bytes
from rfnext.tensor_files import serialised
from tasks import checkpoint
from tasks.spec import SELECTED, DataFiles, Metric, Probe, Run, Split, Task


@dataclass(frozen=True)
class Config:
    """Settings of the toy task."""

    epochs: int = 5
    """Epochs of one training."""
    width: int = 8
    """Channels of the hidden layer."""
    bias: bool = True
    """Whether the first layer has biases."""
    lr_drop_epoch: int | None = None
    """From this epoch on, the learning rate is a tenth; None: never."""
    folds: tuple[int, ...] = (1, 2)
    """Official splits."""
    fault: str = "none"
    """none; raise, die, exit, nan, interrupt: strike in fold 2 only; mixed: the first four of them, by
    seed; slow; missing."""
    root: Path = field(default=Path("unused"), metadata={"protocol": False})
    """A path, which belongs to no protocol; an absolute one is a folder of own data: inputs *.bin, labels *.txt."""
    search: LocalConfig = field(
        default_factory=lambda: LocalConfig(interval=1, rounds=3, branches=3, bounds=Bounds(1, 16))
    )
    """Local search."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 1")


def build(config: Config) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, config.width, 3, padding=2, dilation=2, bias=config.bias),
        nn.ReLU(),
        nn.Conv1d(config.width, 2, 3, padding=4, dilation=4),
        nn.Conv1d(2, 2, 1),
    )


def data(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals (16, 1, 64) and labels (16, 64)."""
    part = ("train", "validation", "test").index(split.part)
    x = torch.randn(16, 1, 64, generator=torch.Generator().manual_seed(10 * split.fold + part))
    y = (x.roll(6, -1) + x.roll(-6, -1) > 0).long().squeeze(1)
    return x, y


def fit(model: nn.Module, config: Config, run: Run) -> None:
    with reproducible(torch.device("cpu")):
        train(model, config, run)


def train(model: nn.Module, config: Config, run: Run) -> None:
    torch.manual_seed(run.seed)
    x, y = data(Split("train", run.fold))
    fault = config.fault if run.fold == 2 else "none"
    if fault == "mixed":
        fault = FAULTS[run.seed]
    groups = run.search.parameter_groups() if run.search else [{"params": list(model.parameters())}]
    optimizer = torch.optim.Adam(groups, lr=0.02)
    last, best, start = run.folder / "last.ckpt", -1.0, 0
    if run.resume and last.exists():
        state = torch.load(last, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, best = state["epoch"], state["best"]
        if run.search is not None:
            run.search.load_state_dict(state["search"])
    for epoch in range(start, config.epochs):
        if config.fault == "slow":
            time.sleep(0.4)
        if epoch == config.lr_drop_epoch:
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if run.search is not None:
            run.search.after_step()
        if fault == "raise":
            raise RuntimeError("the toy was told to fail")
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exit":
            raise SystemExit(7)
        accuracy = evaluate(model, config, Split("validation", run.fold))["accuracy"]
        if accuracy > best:
            best = accuracy
            checkpoint.save(run.folder / SELECTED, "toy", config, model)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch + 1,
            "best": best,
            "search": run.search.state_dict() if run.search is not None else {},
        }
        write_bytes(last, serialised(state))
        if fault == "interrupt" and epoch == 2 and not run.resume:
            raise KeyboardInterrupt
    if fault == "nan":
        broken = copy.deepcopy(model)
        with torch.no_grad():
            for weight in broken.parameters():
                weight.fill_(float("nan"))
        checkpoint.save(run.folder / SELECTED, "toy", config, broken)


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    x, y = data(split)
    with torch.no_grad(), reproducible(torch.device("cpu")):
        logits = model(x)
    accuracy = 100.0 * (logits.argmax(1) == y).double().mean().item()
    return {"accuracy": accuracy, "loss": nn.functional.cross_entropy(logits, y).item()}


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    path = folder / "accuracy.svg"
    accuracy = evaluate(model, config, split)["accuracy"]
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><text y="20">{accuracy:.1f}</text></svg>')
    return [path]


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    x, _ = data(split)
    return Probe(lambda x: model(x)[:, :1], [x[:1], x[1:2]], "samples", (1.0,), "the first logit")


def data_files(config: Config) -> DataFiles | None:
    if not isinstance(config, Config) or not config.root.is_absolute():  # tests of protocols have configs of their own
        return None
    return DataFiles(config.root, tuple(config.root.glob("*.txt")), tuple(config.root.glob("*.bin")), own=True)


FAULTS = ("raise", "die", "exit", "nan", "interrupt", "mixed", "slow", "missing")

TASK = Task(
    name="toy",
    version=1,
    metrics=(Metric("accuracy"), Metric("loss", higher_is_better=False, decimals=3, unit="nats")),
    presets={
        "tiny": Config(),
        "wide": Config(width=9),
        "missing-wide": Config(width=9, fault="missing"),
        **{fault: Config(fault=fault) for fault in FAULTS},
    },
    build=build,
    fit=fit,
    evaluate=evaluate,
    where=lambda name, conv: True,
    unavailable=lambda config: "download toy.zip and unpack it" if config.fault == "missing" else None,
    folds=lambda config: config.folds or (1,),
    data_label=lambda config: "synthetic toy signals" if data_files(config) is None else f"own {config.root.name}",
    published=lambda config: None,
    data_files=data_files,
    illustrate=illustrate,
    probe=probe,
    donor=lambda config: replace(config, width=config.width + 1),
    roles=lambda model: {"0": "first", "2": "second"},
    suites={"paper": ("missing", "missing-wide"), "both": ("tiny", "wide")},
)
