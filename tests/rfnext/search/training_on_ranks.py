"""One small training in float64, by one process on whole batches or by ranks on parts of them."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Search
from rfnext.convs.conv import whole

BATCH = 4
"""Samples of a batch, which the number of ranks divides."""

LOCAL = LocalConfig(rounds=3, branches=3)

Wrap = Callable[[nn.Module], nn.Module]
Found = dict[str, Any]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=4, dilation=4)).double()


def local(model: nn.Module) -> Search:
    return LocalSearch(model, LOCAL)


def one_shot(model: nn.Module) -> Search:
    return OneShotSearch(model, OneShotConfig((1, 2, 4, 8, 16), warmup=1, sharpen=1.1))


def part_of(rank: int, ranks: int) -> slice:
    """A rank's share of every batch."""
    return slice(BATCH * rank // ranks, BATCH * (rank + 1) // ranks)


def train(search: Search, model: nn.Module, part: slice, epochs: int = 3) -> None:
    """The mean over equal parts of a batch is the loss of the whole."""
    optimizer = torch.optim.Adam(search.parameter_groups(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for _ in range(4):
            x = torch.randn(BATCH, 2, 40, generator=generator).to(next(search.model.parameters()).dtype)[part]
            optimizer.zero_grad()
            loss(model, x).backward()
            optimizer.step()
        search.after_step()


def loss(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return (model(x) - x.roll(5, -1)).square().mean()


def found(search: Search) -> Found:
    """The structures after each round and at the end; the probabilities of all rounds and the weights at the end."""
    structures = [{name: list(d) for name, d in round_.structure.items()} for round_ in search.history]
    values = [share for round_ in search.history for shares in round_.probability.values() for share in shares]
    for parameter in search.model.parameters():
        values += whole(parameter).detach().flatten().tolist()
    return {"structures": [*structures, {name: list(d) for name, d in search.structure().items()}], "values": values}


def alone(start: Callable[[nn.Module], Search], wrap: Wrap, part: slice) -> Found:
    search = start(network())
    train(search, wrap(search.model), part)
    return found(search)


def one_shot_then_local(wrap: Wrap, part: slice) -> Found:
    coarse = one_shot(network())
    train(coarse, wrap(coarse.model), part)
    fresh = network()
    coarse.structure().apply(fresh)
    fine = local(fresh)
    train(fine, wrap(fresh), part)
    return {key: values + found(coarse)[key] for key, values in found(fine).items()}


COURSES: dict[str, Callable[[Wrap, slice], Found]] = {
    "local": lambda wrap, part: alone(local, wrap, part),
    "one-shot": lambda wrap, part: alone(one_shot, wrap, part),
    "one-shot, then local": one_shot_then_local,
}


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def fsdp2(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    fully_shard(cast(nn.Sequential, model)[0], mesh=mesh)  # a layer by itself, the others with the whole
    fully_shard(model, mesh=mesh)
    return model


def difference(one: Found, other: Found) -> float:
    """The largest between two trainings, NaN where one has one."""
    values = (torch.tensor(each["values"], dtype=torch.float64) for each in (one, other))
    return float(torch.sub(*values).abs().max())
