"""Measure how far searches on several ranks are from one process, more of it than the tests: one JSON line for each.

    python -m tests.faults.ranks            # 2 and 4 ranks on the CPU (gloo), some minutes

Each line has: name, ranks, difference (the largest of all probabilities and final weights), equal_structures. "round of
300 layers": the time that the ranks' comparison adds to a round, in ms.
"""

import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

import rfnext
from rfnext import LocalSearch, Search
from rfnext.search.ranks import check_ranks
from tests.rank_processes import printed
from tests.rfnext.search import training_on_ranks as on_ranks
from tests.rfnext.search.training_on_ranks import (
    COURSES,
    Found,
    Wrap,
    ddp,
    found,
    fsdp2,
    local,
    loss,
    network,
    one_shot,
)

STARTS = {"local": local, "one-shot": one_shot}


class SyncedNorm(nn.BatchNorm1d):
    """Batch norm over the samples of all ranks; torch's own is for GPUs alone."""

    def forward(self, input: Tensor) -> Tensor:
        mean = _over_ranks(input.mean((0, 2), keepdim=True))
        variance = _over_ranks((input - mean).square().mean((0, 2), keepdim=True))
        scale = self.weight[:, None] * (variance + self.eps).rsqrt()
        return (input - mean) * scale + self.bias[:, None]


def _over_ranks(mean: Tensor) -> Tensor:
    if not torch.distributed.is_initialized():
        return mean
    return all_reduce(mean) / torch.distributed.get_world_size()


def with_norm(kind: type[nn.BatchNorm1d], start: Callable[[nn.Module], Search], wrap: Wrap, part: slice) -> Found:
    plain = network()
    search = start(nn.Sequential(plain[0], kind(4).double(), *plain[1:]))
    on_ranks.train(search, wrap(search.model), part)
    return found(search)


def in_float32(epochs: int, start: Callable[[nn.Module], Search], wrap: Wrap, part: slice) -> Found:
    search = start(network().float())
    on_ranks.train(search, wrap(search.model), part, epochs)
    return found(search)


def accumulated(start: Callable[[nn.Module], Search], wrap: Wrap, part: slice) -> Found:
    """Gradients of two batches for one step, those of the first without communication."""
    search = start(network())
    model, generator = wrap(search.model), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(search.parameter_groups(), lr=0.01)
    for _ in range(3):
        for step in range(8):
            x = torch.randn(on_ranks.BATCH, 2, 40, generator=generator).double()[part]
            own = isinstance(model, nn.parallel.DistributedDataParallel) and step % 2 == 0
            with cast(Any, model).no_sync() if own else contextlib.nullcontext():
                loss(model, x).backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()
        search.after_step()
    return found(search)


def comparisons() -> Iterator[tuple[str, Callable[[Wrap, slice], Found], Wrap]]:
    """Name, training and wrapper."""
    parallel = nn.parallel.DistributedDataParallel
    wrappers: dict[str, Wrap] = {
        "ddp": ddp,
        "fsdp2": fsdp2,
        "ddp, find_unused_parameters": lambda model: parallel(model, find_unused_parameters=True),
        "ddp, static_graph": lambda model: parallel(model, static_graph=True),
        "ddp, gradient_as_bucket_view": lambda model: parallel(model, gradient_as_bucket_view=True),
        "torch.compile around ddp": lambda model: cast(nn.Module, torch.compile(ddp(model), backend="aot_eager")),
        "ddp around torch.compile": lambda model: ddp(cast(nn.Module, torch.compile(model, backend="aot_eager"))),
    }
    for wrapper, wrap in wrappers.items():
        for name, course in COURSES.items():
            if name in STARTS or "compile" not in wrapper:  # it takes its time
                yield f"{name}; {wrapper}", course, wrap
    for name, start in STARTS.items():
        yield f"{name}; ddp, gradients of two batches accumulated", functools.partial(accumulated, start), ddp
        yield f"{name}; ddp, batch norm", functools.partial(with_norm, nn.BatchNorm1d, start), ddp
        yield f"{name}; ddp, batch norm over all ranks", functools.partial(with_norm, SyncedNorm, start), ddp
        for epochs in (3, 20, 60):
            yield f"{name}; ddp, float32, {epochs} epochs", functools.partial(in_float32, epochs, start), ddp


def cost_of_a_round() -> float:
    """Milliseconds by which the comparison lengthens a round of 300 layers."""
    search = LocalSearch(nn.Sequential(*(nn.Conv1d(2, 2, 3, padding=1) for _ in range(300))), on_ranks.LOCAL)
    check_ranks("", search.convs)
    begin = time.perf_counter()
    for _ in range(20):
        check_ranks("", search.convs)
    return (time.perf_counter() - begin) / 20 * 1000


def worker(rank: int, ranks: int, rendezvous: str) -> None:
    """Rank 0 prints the lines, after the others are done."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=ranks)
    part = on_ranks.part_of(rank, ranks)
    with rfnext.pin_implementation("taps"):
        together = []
        for name, course, wrap in comparisons():
            try:
                together.append(course(wrap, part))
            except Exception as error:  # one line for it, and on with the next
                together.append({"error": f"{name}: {error!r}"})
        cost = cost_of_a_round()
        torch.distributed.destroy_process_group()
        if rank:
            return
        for (name, course, _), several in zip(comparisons(), together, strict=True):
            line = {"name": name, "ranks": ranks, **several}
            if "values" in several:
                one = course(lambda model: model, slice(None))
                equal = one["structures"] == several["structures"]
                line = {"name": name, "ranks": ranks, "difference": on_ranks.difference(one, several)}
                line["equal_structures"] = equal
            print(json.dumps(line), flush=True)
        print(json.dumps({"name": "round of 300 layers", "ranks": ranks, "ms": round(cost, 2)}))


def main() -> None:
    """Print the lines of 2 and of 4 ranks."""
    for ranks in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            print(printed(__file__, Path(folder), "-W", "ignore", ranks=ranks, limit=900)[0], end="", flush=True)


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]) if len(sys.argv) > 1 else main()
