"""Two real processes on the CPU (gloo): what they search equals one process, and what would drift apart is an error."""

import json
import sys
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Search, Structure
from tests.rfnext.search.two_ranks import printed

CONFIG = LocalConfig(rounds=3, branches=3)

SEARCHES: dict[str, Callable[[nn.Module], Search]] = {
    "local": lambda model: LocalSearch(model, CONFIG),
    "one-shot": lambda model: OneShotSearch(model, OneShotConfig((1, 2, 4, 8, 16), warmup=1, sharpen=1.1)),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=4, dilation=4))


def train(search: Search, model: Callable[[Tensor], Tensor], part: slice, epochs: int = 3) -> None:
    """`part` of every batch of four; the mean over equal parts is the loss of the whole."""
    optimizer = torch.optim.Adam(search.model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for _ in range(4):
            x = torch.randn(4, 2, 40, generator=generator)[part]
            optimizer.zero_grad()
            (model(x) - x.roll(5, -1)).square().mean().backward()
            optimizer.step()
        search.after_step()


def found(search: Search) -> Any:
    return [[round_.structure, round_.probability] for round_ in search.history] + [[dict(search.structure()), {}]]


def sharded(model: nn.Sequential) -> nn.Sequential:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    fully_shard(model[0], mesh=mesh)  # a layer by itself, the others with the whole
    fully_shard(model, mesh=mesh)
    return model


def refusal(action: Callable[[], object]) -> str:
    try:
        action()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def within_ddp(part: slice) -> None:
    parallel = nn.parallel.DistributedDataParallel(network())
    train(LocalSearch(parallel.module, CONFIG), parallel, part)


def after_sharding(part: slice) -> None:
    LocalSearch(sharded(network()), CONFIG)


def unequal_steps(part: slice) -> None:
    search = LocalSearch(network(), CONFIG)
    search.step = part.start
    search.after_step()


def applied_to_the_shards(part: slice) -> None:
    search = LocalSearch(network(), CONFIG)
    search.structure().apply(sharded(cast(nn.Sequential, search.model)))


REFUSED = {f.__name__: f for f in (within_ddp, after_sharding, unequal_steps, applied_to_the_shards)}


def worker(rank: int, rendezvous: str) -> None:
    """Prints what was found and what was refused, as JSON."""
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    part, result = slice(2 * rank, 2 * rank + 2), {}
    for name, start in SEARCHES.items():
        search = start(network())
        train(search, nn.parallel.DistributedDataParallel(search.model), part)
        result[f"{name} ddp"] = found(search)
        search = start(network())
        train(search, sharded(cast(nn.Sequential, search.model)), part)
        result[f"{name} fsdp2"] = found(search)
    print(json.dumps(result | {name: refusal(lambda f=f: f(part)) for name, f in REFUSED.items()}))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    outputs = printed(__file__, folder, "-W", "ignore", RFNEXT_IMPLEMENTATION="taps")
    return [json.loads(output) for output in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_two_ranks_find_what_one_process_finds(ranks: list[dict[str, Any]], name: str, wrapper: str) -> None:
    search = SEARCHES[name](network())
    with rfnext.pin_implementation("taps"):
        train(search, search.model, slice(None))
    expected = json.loads(json.dumps(found(search)))
    assert Structure(expected[-1][0]) != search.initial
    for rank in ranks:
        assert len(rank[f"{name} {wrapper}"]) == 4
        for (structure, probability), (structure_of_one, probability_of_one) in zip(
            rank[f"{name} {wrapper}"], expected, strict=True
        ):
            assert structure == structure_of_one
            for layer, shares in probability.items():
                assert shares == pytest.approx(probability_of_one[layer], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("within_ddp", ["RuntimeError: layer '0'", "rank 1", "DistributedDataParallel"]),
        ("after_sharding", ["ValueError: layer '0'", "build the search first, then call fully_shard()"]),
        ("unequal_steps", ["RuntimeError: at step", "equally often"]),
        ("applied_to_the_shards", ["ValueError: layer '0'", "sharded", "fresh model"]),
    ],
)
def test_ranks_that_would_drift_apart_are_an_error_on_every_rank(
    ranks: list[dict[str, Any]], name: str, words: list[str]
) -> None:
    for rank in ranks:
        assert all(word in rank[name] for word in words), rank[name]


if __name__ == "__main__":
    worker(int(sys.argv[1]), sys.argv[2])
