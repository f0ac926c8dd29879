"""Searches under distributed training: all ranks find the same structure."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import rfnext
from rfnext.structure import searched_convs
from tests.rank_processes import printed


def distributed_worker(rank: int, world: int, rendezvous: str) -> None:
    """Three rounds of training under DDP with other data on every rank; prints the structure and a weight's sum.

    Every layer starts at dilation 1 with spread 0.1 by rule "paper": all branches collapse to one (defects 10, 16).
    """
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    for rule in ("paper", "default"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=1))
        config = rfnext.LocalConfig(rounds=3, branches=3, spread=0.1, rule=rule)  # type: ignore[arg-type]
        search = rfnext.LocalSearch(model, config)
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.Adam(parallel.parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(3):
            for _ in range(4):
                x = torch.randn(2, 2, 20, generator=generator)
                optimizer.zero_grad()
                (parallel(x) - x.roll(5, -1)).square().mean().backward()
                optimizer.step()
            search.after_step()
        total = sum(p.double().sum().item() for p in model.parameters())
        print(rule, dict(search.structure()), [list(r.structure.items()) for r in search.history], total.hex())
    torch.distributed.destroy_process_group()


@pytest.mark.defect(16)
def test_distributed_training_in_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distributed_worker(0, 1, (tmp_path / "rendezvous").as_uri())
    paper, default = capsys.readouterr().out.splitlines()
    assert paper.startswith("paper {'0': (1,), '2': (1,)}")  # the dead zone
    assert not default.startswith("default {'0': (1,), '2': (1,)}")


@pytest.mark.slow
@pytest.mark.defect(16)
def test_two_processes_find_the_same_structure(tmp_path: Path) -> None:
    first, second = printed(__file__, tmp_path, "-W", "error")
    assert first == second
    assert len(first.splitlines()) == 2
    assert "default {'0': (1,), '2': (1,)}" not in first


def test_a_search_on_a_model_that_ddp_has_wrapped_is_refused(tmp_path: Path) -> None:
    """DDP would never synchronise the branch weights, and the ranks would drift apart in silence."""
    torch.distributed.init_process_group("gloo", init_method=(tmp_path / "r").as_uri(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv1d(2, 2, 3)))
        with pytest.raises(ValueError, match="before DistributedDataParallel"):
            rfnext.LocalSearch(model, rfnext.LocalConfig())
        assert not searched_convs(model)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    distributed_worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
