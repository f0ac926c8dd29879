"""What searching costs: the searched convolution side by side with the plain one and with mmcv's operator.

    python -m benchmarks.speed            # about 10 minutes on 2 quiet cores
    python -m benchmarks.speed --quick    # about 1 minute: the layers and models with a target

Every row times one layer (forward and backward pass, gradients of everything) or one whole training step. All ways of
computing it take turns within each round, so that a busy machine slows them alike; what counts are the ratios to the
plain conv (the whole network without a search) of the same round: their median, and their quartiles as the spread.
Memory is the largest total that torch's allocator held beyond the arguments, scratch space of libraries not counted.

Writes tables/speed.md, tables/speed.csv and figures/speed.svg into the results folder.
"""

import copy
import csv
import datetime
import functools
import io
import logging
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The profiler, which is asked for memory only, otherwise reports on hardware that it does not find.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import matplotlib
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import ROOT, commit, describe_device, versions
from rfnext import Bounds, LocalConfig, LocalSearch, SearchConv, mixed_dilation_conv
from rfnext.files import write_bytes, write_text
from rfnext.ops import native_build as native_library
from rfnext.ops.choice import pin_implementation
from tasks.action_segmentation.models import ms_tcn, searched
from tasks.action_segmentation.training import loss

try:
    from mmcv.cnn.rfsearch.operator import Conv2dRFSearchOp
except ImportError:
    Conv2dRFSearchOp = None

PLAIN = "plain conv"
BRANCHES = "branches"
MMCV = "mmcv"
TORCH = "torch's modules"
COLUMNS = (PLAIN, BRANCHES, "taps", "dense", "native", "auto", MMCV, TORCH)

_CONV = {1: F.conv1d, 2: F.conv2d}


@dataclass(frozen=True)
class Layer:
    """One convolution and the numbers of branches to search it with.

    targets: branches -> largest ratio to the plain conv that we aim at; with `of_branches` the ratio is to "branches".
    """

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    kernel: int
    dilation: int = 1
    depthwise: bool = False
    branches: tuple[int, ...] = (3,)
    targets: Mapping[int, float] = field(default_factory=dict)
    of_branches: bool = False
    quick: bool = False

    @property
    def groups(self) -> int:
        return self.channels if self.depthwise else 1

    def __str__(self) -> str:
        size = "x".join(map(str, (self.batch, self.channels, *self.size)))
        return f"{self.name}, {size}, k {self.kernel}, d {self.dilation}"


ALL = (2, 3, 5, 9)

LAYERS = (
    *(
        Layer("MS-TCN", 8, 64, (length,), 3, dilation, branches=ALL if dilation == 16 else (3,))
        for length in (500, 6000)
        for dilation in (1, 16, 128, 512)
    ),
    Layer("MS-TCN", 8, 64, (2000,), 3, 16, branches=ALL, targets={3: 1.15, 5: 1.3, 9: 1.6}, quick=True),
    *(Layer("MS-TCN", 8, 64, (2000,), 3, dilation) for dilation in (1, 128, 512)),
    Layer("HiFi-GAN", 4, 256, (512,), 3, branches=ALL, targets={3: 1.3}, quick=True),
    Layer("HiFi-GAN", 4, 256, (512,), 7, targets={3: 1.3}, quick=True),
    Layer("HiFi-GAN", 4, 256, (512,), 11, targets={3: 1.3}, quick=True),
    *(Layer("HiFi-GAN", 4, 128, (2048,), kernel) for kernel in (3, 7, 11)),
    Layer("3x3", 4, 256, (32, 32), 3, branches=ALL, targets={2: 1.3, 3: 1.4}, quick=True),
    Layer("3x3", 4, 64, (64, 64), 3, branches=ALL, targets={2: 1.7, 3: 2.2}, quick=True),
    Layer("ResNet layer2", 4, 128, (28, 28), 3, branches=(2, 3)),
    Layer("ResNet layer3", 4, 256, (14, 14), 3, branches=(2, 3)),
    Layer("ResNet layer4", 4, 512, (7, 7), 3, branches=(2, 3)),
    Layer("Res2Net layer2 split", 4, 52, (28, 28), 3, branches=(2, 3)),
    Layer("Res2Net layer3 split", 4, 104, (14, 14), 3, branches=(2, 3)),
    Layer("Res2Net layer4 split", 4, 208, (7, 7), 3, branches=(2, 3)),
    *(
        Layer(f"HRNet-W18 branch {i}", 4, channels, (size, size), 3, branches=(2, 3))
        for i, (channels, size) in enumerate(((18, 56), (36, 28), (72, 14), (144, 7)), start=1)
    ),
    Layer("FPN", 2, 256, (56, 56), 3, branches=(2, 3)),
    *(
        Layer(
            f"{name} depthwise",
            4,
            channels,
            (size, size),
            kernel,
            depthwise=True,
            branches=(2, 3),
            targets={2: 0.75, 3: 0.75},
            of_branches=True,
            quick=size == 28,
        )
        for name, kernel, sizes in (
            ("PVTv2", 3, ((256, 56), (512, 28), (1280, 14))),
            ("ConvNeXt", 7, ((96, 56), (192, 28), (384, 14))),
        )
        for channels, size in sizes
    ),
)


@dataclass(frozen=True)
class Model:
    """One whole training step. make: a fresh network and its step's loss; where: the searched convs."""

    name: str
    make: Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]
    where: Any
    branches: int = 3
    targets: Mapping[int, float] = field(default_factory=dict)
    quick: bool = False
    of_branches: bool = False
    from_torch: Callable[[], nn.Module] | None = None
    """The same plain network put together from torch's modules."""

    def __str__(self) -> str:
        return self.name


FEATURES, CLASSES = 2048, 19  # of 50 Salads


def _ms_tcn(batch: int, length: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x, labels = torch.randn(batch, FEATURES, length), torch.randint(CLASSES, (batch, length))
    mask = torch.ones(batch, 1, length, dtype=torch.bool)
    return ms_tcn(FEATURES, CLASSES), lambda network: loss(network(x, mask), labels, mask, 0.15)


class _Layer(nn.Module):
    """MS-TCN's dilated residual layer, put together from torch's modules as its paper describes it."""

    def __init__(self, maps: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation)
        self.pointwise = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x + self.dropout(self.pointwise(F.relu(self.dilated(x))))) * mask


class _Stage(nn.Module):
    """A stage of MS-TCN, likewise."""

    def __init__(self, channels: int, classes: int, maps: int = 64, layers: int = 10) -> None:
        super().__init__()
        self.enter = nn.Conv1d(channels, maps, 1)
        self.layers = nn.ModuleList(_Layer(maps, 2**layer) for layer in range(layers))
        self.classify = nn.Conv1d(maps, classes, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x, mask)
        return self.classify(x) * mask


class _FromTorchModules(nn.Module):
    """MS-TCN as anybody would write it from its paper, to compare our own network with, which computes the same."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_Stage(classes if stage else features, classes) for stage in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for stage in self.stages:
            outputs.append(stage(x, mask))
            x = torch.softmax(outputs[-1], dim=1) * mask
        return torch.stack(outputs)


def _timm(name: str, batch: int, size: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    import timm  # an optional extra

    x, labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    return timm.create_model(name), lambda network: F.cross_entropy(network(x), labels)


def _spatial(name: str, conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.kernel_size[0] in (3, 5, 7) and conv.in_channels > 3


MODELS = (
    *(
        Model(
            f"MS-TCN 4 x 10 x 64, {batch} x {length} frames",
            functools.partial(_ms_tcn, batch, length),
            searched,
            targets={3: 1.1},
            quick=length == 500,
            from_torch=functools.partial(_FromTorchModules, FEATURES, CLASSES),
        )
        for batch, length in ((8, 500), (4, 2000))
    ),
    Model("ResNet-50 (timm), 4 x 128 x 128", lambda: _timm("resnet50", 4, 128), _spatial),
    Model("ConvNeXt-Nano (timm), 4 x 128 x 128", lambda: _timm("convnext_nano", 4, 128), _spatial),
    Model("PVTv2-B0 (timm), 4 x 128 x 128", lambda: _timm("pvt_v2_b0", 4, 128), _spatial),
)


@dataclass(frozen=True)
class Timing:
    """Seconds of the rounds, and the ratios to the plain conv of the same round."""

    seconds: Sequence[float]
    ratios: Sequence[float]
    memory: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Row:
    """One layer or model with one number of branches."""

    subject: Layer | Model
    branches: int
    timings: Mapping[str, Timing]
    chosen: str
    floor: float | None
    """Ratio that is left if nothing but the arithmetic takes time, see `floor`."""

    @property
    def target(self) -> float | None:
        return self.subject.targets.get(self.branches)

    @property
    def reached(self) -> float:
        """What the target is about."""
        if self.subject.of_branches:
            pairs = zip(self.timings["auto"].ratios, self.timings[BRANCHES].ratios, strict=True)
            return statistics.median(one / other for one, other in pairs)
        return self.timings["auto"].ratio


def spaced(centre: int, branches: int) -> list[int]:
    """Dilations between half and one and a half times the centre; 1, 2, 3, ... where there is no room for that."""
    wanted = [round(centre * (0.5 + i / (branches - 1))) for i in range(branches)]
    return wanted if wanted[0] >= 1 and len(set(wanted)) == branches else list(range(1, branches + 1))


def of_layer(layer: Layer, branches: int) -> dict[str, Callable[[], object]]:
    """The ways to compute a layer, by column."""
    axes = len(layer.size)
    x = torch.randn(layer.batch, layer.channels, *layer.size, requires_grad=True)
    weight = torch.randn(layer.channels, layer.channels // layer.groups, *[layer.kernel] * axes).mul_(0.05)
    weight.requires_grad_()
    bias = torch.zeros(layer.channels, requires_grad=True)
    probability = torch.full((branches,), 1 / branches, requires_grad=True)
    dilations = [(d,) * axes for d in spaced(layer.dilation, branches)]
    padding = [[d * (layer.kernel - 1) // 2 for d in dilation] for dilation in dilations]
    g = torch.randn_like(x)

    def mixed(implementation: str) -> Callable[[], object]:
        def run() -> object:
            y = mixed_dilation_conv(
                x, weight, bias, probability, dilations, groups=layer.groups, implementation=implementation
            )
            return torch.autograd.grad(y, (x, weight, bias, probability), g)

        return run

    def plain() -> object:
        d = dilations[branches // 2]
        y = _CONV[axes](x, weight, bias, 1, padding[branches // 2], d, layer.groups)
        return torch.autograd.grad(y, (x, weight, bias), g)

    ways: dict[str, Callable[[], object]] = {PLAIN: plain}
    ways |= {name: mixed(name) for name in (BRANCHES, "taps", "dense", *_native(), "auto")}
    reach = [d for (d, *_) in dilations]
    cells = ((layer.kernel - 1) * max(reach) // math.gcd(*reach) + 1) ** axes
    if cells > 4 * branches * layer.kernel**axes:
        del ways["dense"]  # many times the work of "branches"
    if axes == 2 and branches in (2, 3) and Conv2dRFSearchOp is not None:
        conv = nn.Conv2d(layer.channels, layer.channels, layer.kernel, groups=layer.groups)
        operator = mmcv_operator(conv, branches)
        operator.dilation_rates = dilations
        parameters = [x, *operator.parameters()]
        ways[MMCV] = lambda: torch.autograd.grad(operator(x), parameters, g)
    return ways


def _native() -> tuple[str, ...]:
    """Its column, if this machine has what it takes."""
    return ("native",) if native_library.failure() is None else ()


def mmcv_operator(conv: nn.Conv2d, branches: int) -> Any:
    """The published operator around a conv; it knows 2 or 3 branches."""
    config = {"init_alphas": 0.01, "num_branches": branches, "exp_rate": 0.5, "mmin": 1, "mmax": 24}
    assert Conv2dRFSearchOp is not None
    return Conv2dRFSearchOp(conv, config, verbose=False)


def of_model(model: Model) -> dict[str, Callable[[], object]]:
    """A training step of the plain network and of the searched one, by column."""
    torch.manual_seed(0)
    network, evaluate = model.make()
    network.train()
    searching = copy.deepcopy(network)
    LocalSearch(searching, LocalConfig(branches=model.branches, spread=0.1, bounds=Bounds(1, 2048)), model.where)
    for conv in searching.modules():
        if isinstance(conv, SearchConv) and len(conv.dilations) < model.branches:  # no room below dilation 1
            conv.set_branches([(d,) * len(conv.dilations[0]) for d in range(1, model.branches + 1)])

    def step(network: nn.Module, implementation: str = "auto") -> Callable[[], object]:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)

        def run() -> None:
            with pin_implementation(implementation):
                optimizer.zero_grad()
                evaluate(network).backward()
                optimizer.step()

        return run

    ways = {PLAIN: step(network)} | {name: step(searching, name) for name in (BRANCHES, "taps", *_native(), "auto")}
    convs = {name: conv for name, conv in network.named_modules() if model.where(name, conv)}
    if Conv2dRFSearchOp is not None and all(isinstance(conv, nn.Conv2d) for conv in convs.values()):
        published = copy.deepcopy(network)
        for name in convs:
            conv = published.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            operator = mmcv_operator(conv, model.branches)
            operator.dilation_rates = [(d, d) for d in range(1, model.branches + 1)]
            parent, _, child = name.rpartition(".")
            setattr(published.get_submodule(parent), child, operator)
        ways[MMCV] = step(published)
    if model.from_torch is not None:
        ways[TORCH] = step(model.from_torch())
    return ways


def peak(run: Callable[[], object]) -> int:
    """Largest number of bytes that `run` holds at a time, beyond what was there before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    trace: Any = profiler.profiler
    events = [event for event in trace.kineto_results.events() if event.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


def measure(ways: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Time all ways in turns, for about `seconds` but at least 5 rounds."""
    memory = {}
    for name, run in ways.items():
        run()  # libraries set themselves up, and "auto" makes its choice
        memory[name] = peak(run)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    end = time.perf_counter() + seconds
    while len(taken[PLAIN]) < 5 or (time.perf_counter() < end and len(taken[PLAIN]) < 200):
        names = names[1:] + names[:1]  # nobody always comes first
        for name in names:
            start = time.perf_counter()
            ways[name]()
            taken[name].append(time.perf_counter() - start)
    return {
        name: Timing(times, [t / plain for t, plain in zip(times, taken[PLAIN], strict=True)], memory[name])
        for name, times in taken.items()
    }


def floor(layer: Layer, branches: int) -> float:
    """Seconds of what "taps" cannot do without, each at the rate that torch reaches here with nothing else to do.

    By the derivation in `rfnext.ops`, with k the number of taps, the centre's among them: 3 k products of the
    weights of a tap with the input, and 3 branches (k - 1) + 2 branches passes of multiply-add over the input, from and
    to the cache.
    """
    taps, positions = layer.kernel ** len(layer.size), math.prod(layer.size)
    share = 2**18 * torch.get_num_threads()  # elements, 1 MiB per thread
    one, other, p = torch.randn(share), torch.randn(share), torch.tensor(1e-3)
    x, kernel = torch.randn(layer.batch, layer.channels, positions), torch.randn(layer.channels, layer.channels)
    y, kernels = torch.empty_like(x), kernel.expand(layer.batch, -1, -1)
    product = _fastest(lambda: torch.bmm(kernels, x, out=y))
    a_pass = _fastest(lambda: one.addcmul_(other, p)) * x.numel() / share
    return 3 * taps * product + (3 * branches * (taps - 1) + 2 * branches) * a_pass


def _fastest(run: Callable[[], object], repetitions: int = 20) -> float:
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


class _Choices(logging.Handler):
    """Collects what "auto" chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.names.append(record.getMessage().rpartition(": ")[2].partition(" (")[0])


def rows(options: "Options") -> Iterator[Row]:
    """Measure what the options ask for."""
    logger = logging.getLogger("rfnext.ops.mixed_dilation_conv")
    logger.setLevel(logging.INFO)
    for subject in (*LAYERS, *MODELS):
        if (options.quick and not subject.quick) or options.only not in str(subject):
            continue
        numbers = subject.branches if isinstance(subject, Layer) else (subject.branches,)
        for branches in numbers:
            if options.quick and branches not in subject.targets:
                continue
            choices = _Choices()
            logger.addHandler(choices)
            torch.manual_seed(0)
            ways = of_layer(subject, branches) if isinstance(subject, Layer) else of_model(subject)
            timings = measure(ways, options.seconds)
            logger.removeHandler(choices)
            least = None
            if isinstance(subject, Layer) and not subject.depthwise:
                least = floor(subject, branches) / min(timings[PLAIN].seconds)
            yield Row(subject, branches, timings, " and ".join(sorted(set(choices.names))), least)


_FLOOR = (
    "The floor of a dense layer is what `taps` cannot do without: the products of one plain conv, as matrix products, "
    "and the passes over the input for mixing, 3 branches (taps - 1) + 2 branches of them, two numbers read and one "
    "written each. Both at the rate that torch reaches on the same cores with nothing else to do, passes from and to "
    "the cache; over the fastest plain conv, which is oneDNN's and may have quicker products. Between the floor and "
    "what `taps` is measured at lie the calls of torch, a few microseconds each, which more threads do not speed up, "
    "and trips to memory. `native` has neither, and products of its own, so it can lie below that floor, and below the "
    "plain conv where oneDNN is far from what the cores can do."
)


def markdown(found: Sequence[Row], heading: str) -> str:
    """Two tables: time and memory."""
    head = ["layer", "branches", "plain conv, ms", *COLUMNS[1:], "auto chose", "floor of taps", "target"]
    times, memories = [head, ["---", *["---:"] * (len(head) - 1)]], []
    memories = [["layer", "branches", *(f"{name}, MB" for name in COLUMNS)], ["---", *["---:"] * (len(COLUMNS) + 1)]]
    for row in found:
        cells = []
        for name in COLUMNS[1:]:
            timing = row.timings.get(name)
            cells.append("" if timing is None else "{:.2f} ({:.2f}-{:.2f})".format(timing.ratio, *timing.quartiles))
        target = ""
        if row.target is not None:
            verb = "met" if row.reached <= row.target else "missed"
            target = f"{row.target:g}{' x branches' if row.subject.of_branches else ''}: {row.reached:.2f}, {verb}"
        plain = f"{1000 * row.timings[PLAIN].median:.2f}"
        least = "" if row.floor is None else f"{row.floor:.2f}"
        times.append([str(row.subject), str(row.branches), plain, *cells, row.chosen, least, target])
        memories.append(
            [
                str(row.subject),
                str(row.branches),
                *(f"{row.timings[name].memory / 1e6:.1f}" if name in row.timings else "" for name in COLUMNS),
            ]
        )
    tables = ["\n".join("| " + " | ".join(line) + " |" for line in table) for table in (times, memories)]
    return (
        f"# Cost of searching\n\n{heading}\n\n## Time\n\nForward and backward pass, all gradients (models: a whole "
        "training step with Adam). Ratio to the plain conv (the plain network): median of the rounds' ratios "
        f"(quartiles).\n\n{tables[0]}\n\n{_FLOOR}\n\n## Memory\n\nLargest total that torch's allocator held at a time, "
        "beyond the "
        f"arguments (for models: beyond the network).\n\n{tables[1]}\n"
    )


def table(found: Sequence[Row]) -> str:
    """One line per row and column, as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    numbers = ["seconds_median", "ratio", "ratio_q1", "ratio_q3", "peak_bytes"]
    writer.writerow(["subject", "branches", "way", "rounds", *numbers, "auto_chose"])
    for row in found:
        for name, timing in row.timings.items():
            values = (f"{value:.6g}" for value in (timing.median, timing.ratio, *timing.quartiles))
            writer.writerow([row.subject, row.branches, name, len(timing.seconds), *values, timing.memory, row.chosen])
    return buffer.getvalue()


def draw(found: Sequence[Row], path: Path) -> None:
    """Cost against the number of branches, one panel per layer that was measured with several."""
    subjects = [subject for subject in LAYERS if len({row.branches for row in found if row.subject == subject}) > 1]
    subjects = sorted(subjects, key=lambda subject: -len(subject.branches))[:8]
    if not subjects:
        return
    figure = Figure(figsize=(11, 2.6 * math.ceil(len(subjects) / 4) + 0.4), layout="constrained")
    panels = figure.subplots(math.ceil(len(subjects) / 4), min(4, len(subjects)), squeeze=False).flat
    for panel, subject in zip(panels, subjects, strict=False):
        mine = [row for row in found if row.subject == subject]
        for name, colour in ((MMCV, "#bbbbbb"), (BRANCHES, "#c55a11"), ("taps", "#9dc3e6"), ("native", "#1f4e79")):
            points = [(row.branches, row.timings[name].ratio) for row in mine if name in row.timings]
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name)
        panel.axhline(1, color="gray", linewidth=0.8, linestyle=":")
        panel.set_title(str(subject), fontsize=7)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("branches", fontsize=7)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels)[len(subjects) :]:
        panel.set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("time / plain conv", fontsize=7)
    first.legend(fontsize=6, frameon=False)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rfnext"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_bytes(path, buffer.getvalue())


@dataclass(frozen=True)
class Options:
    """Time the searched convolution side by side with the plain one and with mmcv's operator."""

    quick: bool = False
    """Only the layers and models with a target, in a minute or so."""
    only: str = ""
    """Only rows whose name contains this, e.g. "depthwise"."""
    seconds: float = 2.5
    """Time per row, beyond which no further round is begun after the fifth."""
    threads: int | None = None
    """Threads of torch; None leaves its default, one per core."""
    results: Path = ROOT / "results"
    """Where tables and figures go."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints each row as it is measured, and the paths of what was written."""
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.speed")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    found = []
    for row in rows(options):
        found.append(row)
        ratios = ", ".join(f"{name} {row.timings[name].ratio:.2f}" for name in COLUMNS[1:] if name in row.timings)
        plain = 1000 * row.timings[PLAIN].median
        print(f"{row.subject}, {row.branches} branches: {plain:.2f} ms; {ratios}", flush=True)
    if not found:
        print(f"nothing is called {options.only!r}; the rows are: {'; '.join(map(str, (*LAYERS, *MODELS)))}")
        return 2
    device = describe_device(torch.device("cpu"))
    command = shlex.join(["python", "-m", "benchmarks.speed", *(sys.argv[1:] if arguments is None else arguments)])
    heading = (
        f"`{command}` on {datetime.date.today()}: {device['name']}, {device['threads']} threads, "
        f"torch {versions()['torch']}, commit {commit()}."
    )
    paths = [options.results / "tables" / name for name in ("speed.md", "speed.csv")]
    write_text(paths[0], markdown(found, heading))
    write_text(paths[1], table(found))
    figure = options.results / "figures" / "speed.svg"
    draw(found, figure)
    print(*paths, *([figure] if figure.exists() else []), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
