"""Real processes on the CPU (gloo): their search equals that of one process, and what would drift apart is an error."""

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rfnext
from rfnext import LocalSearch, OneShotConfig, OneShotSearch, Search
from tests import python_processes
from tests.rank_processes import environment_of_ranks, printed
from tests.rfnext.search.training_on_ranks import (
    COURSES,
    LOCAL,
    ddp,
    difference,
    fsdp2,
    local,
    network,
    one_shot,
    part_of,
    train,
)

WRAPPERS = {"ddp": ddp, "fsdp2": fsdp2}


def refusal(action: Callable[[int], object], rank: int) -> str:
    try:
        action(rank)
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def within_ddp(rank: int) -> None:
    parallel = ddp(network())
    train(LocalSearch(parallel.module, LOCAL), parallel, slice(rank, rank + 1))  # type: ignore[arg-type]


def after_sharding(rank: int) -> None:
    LocalSearch(fsdp2(network()), LOCAL)


def applied_to_the_shards(rank: int) -> None:
    search = local(network())
    search.structure().apply(fsdp2(search.model))


def other_seed_without_ddp(rank: int) -> None:
    search = local(network(seed=rank))
    train(search, search.model, slice(None))


def other_weight(rank: int) -> None:
    search = one_shot(network())
    search.after_step()
    with torch.no_grad():
        search.branch_weights()[1][2] += 1e-12 if rank else 0  # far below what a tolerance would find
    search.after_step()


def other_dilation(rank: int) -> None:
    model = network()
    model[2].dilation, model[2].padding = ((4,), (4,)) if rank == 0 else ((6,), (6,))  # type: ignore[assignment]
    local(model).after_step()


def other_layers(rank: int) -> None:
    LocalSearch(network(), LOCAL, where=lambda name, conv: rank == 0 or name == "0").after_step()


def other_interval(rank: int) -> None:
    LocalSearch(network(), replace(LOCAL, interval=2 + rank)).after_step()  # long before the first round


def unequal_steps(rank: int) -> None:
    search = LocalSearch(network(), LOCAL)
    search.step = rank
    search.after_step()


def other_branches_while_it_warms_up(rank: int) -> None:
    search = OneShotSearch(network(), OneShotConfig((1, 2, 4), warmup=9))
    search.after_step()
    if rank:
        search.convs["2"].set_branches([(4,)])
    search.after_step()


def ended_on_rank_1(rank: int) -> None:
    search = local(network())
    if rank == 1:
        search.structure().apply(search.model)
    search.after_step()


def average_of_rank_0_goes_on(rank: int) -> None:
    search = local(network())
    average = copy.deepcopy(search.model) if rank == 0 else None
    train(search, ddp(search.model), slice(None), epochs=1)
    if average is not None:
        with torch.no_grad():
            for conv in (average[0], average[2]):  # type: ignore[index]
                conv.branch_weight[0] += 0.001
    search.after_step()


REFUSED: dict[Callable[[int], None], list[str]] = {
    within_ddp: ["RuntimeError: layer '0'", "on rank 1", "DistributedDataParallel"],
    after_sharding: ["ValueError: layer '0'", "build the search first, then call fully_shard()"],
    applied_to_the_shards: ["ValueError: layer '0'", "sharded", "fresh model"],
    other_seed_without_ddp: ["RuntimeError: layer '0'", "branch weights", "gradients are not averaged"],
    other_weight: ["RuntimeError: layer '2'", "branch weights", "0.010000000001"],
    other_dilation: ["RuntimeError: layer '2'", "branches", "same search on every rank"],
    other_layers: ["RuntimeError: layer '2'", "it is not searched on rank 1"],
    other_interval: ["RuntimeError: the search differs", "interval=2", "interval=3"],
    unequal_steps: ["RuntimeError: the search differs", "step 1", "step 2", "equally often"],
    other_branches_while_it_warms_up: ["RuntimeError: layer '2'", "branches"],
    ended_on_rank_1: ["RuntimeError: rank 1 cannot go on", "layer '0'", "has ended"],
    average_of_rank_0_goes_on: ["RuntimeError: rank 0 cannot go on", "layer '", "search.copy_to(ema)"],
}


def worker(rank: int, ranks: int, rendezvous: str) -> None:
    """Prints what was found and what was refused, as JSON."""
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=ranks)
    result: dict[str, Any] = {}
    for wrapper, wrap in WRAPPERS.items():
        for name, course in COURSES.items():
            result[f"{name} {wrapper}"] = course(wrap, part_of(rank, ranks))
    result |= {action.__name__: refusal(action, rank) for action in REFUSED}
    # A rank that fails outside the search ends, and the others do not wait for it.
    result["left alone"] = "ended" if rank == ranks - 1 else refusal(lambda rank: local(network()).after_step(), rank)
    print(json.dumps(result))


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    outputs = printed(__file__, folder, "-W", "ignore", ranks=request.param, RFNEXT_IMPLEMENTATION="taps")
    return [json.loads(output) for output in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", COURSES)
def test_ranks_find_what_one_process_finds_on_whole_batches(
    ranks: list[dict[str, Any]], name: str, wrapper: str
) -> None:
    with rfnext.pin_implementation("taps"):
        one = COURSES[name](lambda model: model, slice(None))
    assert one["structures"][-1] != {"0": [1], "2": [4]}
    for rank in ranks:
        assert rank[f"{name} {wrapper}"]["structures"] == one["structures"]
        assert difference(rank[f"{name} {wrapper}"], one) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("action", REFUSED, ids=lambda action: action.__name__)
def test_ranks_that_would_drift_apart_are_an_error_on_every_rank(
    ranks: list[dict[str, Any]], action: Callable[[int], None]
) -> None:
    for rank in ranks:
        assert all(word in rank[action.__name__] for word in REFUSED[action]), rank[action.__name__]


@pytest.mark.slow
def test_ranks_do_not_wait_for_one_that_has_ended(ranks: list[dict[str, Any]]) -> None:
    *others, last = (rank["left alone"] for rank in ranks)
    assert last == "ended"
    assert all(other.startswith("RuntimeError") for other in others)


TRAINING_SCRIPT = """
import os, torch, rfnext
from tests.rfnext.search.training_on_ranks import BATCH, local, loss, network

torch.distributed.init_process_group("gloo")
rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
model = network()
search = local(model)
parallel = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
data = torch.utils.data.TensorDataset(torch.randn(16, 2, 40, generator=torch.Generator().manual_seed(1)).double())
sampler = torch.utils.data.DistributedSampler(data, shuffle=False)
for epoch in range(3):
    for (x,) in torch.utils.data.DataLoader(data, BATCH // ranks, sampler=sampler):
        optimizer.zero_grad()
        loss(parallel, x).backward()
        optimizer.step()
    search.after_step()
search.structure().save(f"structure{rank}.json")
torch.save(model.state_dict(), f"weights{rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_a_plain_loop_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINING_SCRIPT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    options = {"cwd": tmp_path, "timeout": 300, "capture_output": True, "text": True}
    done = python_processes.run([sys.executable, *command], env=environment_of_ranks(), check=False, **options)
    assert done.returncode == 0, done.stderr

    search: Search = local(network())
    optimizer = torch.optim.Adam(search.model.parameters(), lr=0.01)
    data = torch.randn(16, 2, 40, generator=torch.Generator().manual_seed(1)).double()
    for _ in range(3):
        # Rank 0 has samples 0, 2, 4, ..., rank 1 the others; each two at a time.
        for x in data.split(4):
            optimizer.zero_grad()
            (search.model(x) - x.roll(5, -1)).square().mean().backward()
            optimizer.step()
        search.after_step()
    expected = search.model.state_dict()
    for rank in range(2):
        assert rfnext.Structure.load(tmp_path / f"structure{rank}.json") == search.structure()
        weights = torch.load(tmp_path / f"weights{rank}.pt", weights_only=True)
        assert weights.keys() == expected.keys()
        for key, value in weights.items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-10)


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
