"""Distributed training: searches that every rank can carry out alike, and the check that they do."""

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rfnext.conv import SearchConv, whole
from rfnext.padding import Conv


def check_unwrapped(model: nn.Module, convs: Mapping[str, Conv]) -> None:
    """Raise ValueError if the model is distributed already: new branch weights would be left out, on every rank alone.

    `LocalSearch(ddp.module, ...)` cannot be told from a plain model; `check_ranks` finds it.
    """
    wrappers = {"DistributedDataParallel", "FullyShardedDataParallel"}
    for module in model.modules():
        if found := wrappers & {cls.__name__ for cls in type(module).__mro__}:
            raise ValueError(f"build the search before {found.pop()}, which else leaves the branch weights out")
    for name, conv in convs.items():
        weights = [p for key, p in conv.named_parameters() if key != "branch_weight"]
        if any(hasattr(weight, "full_tensor") for weight in weights):
            raise ValueError(
                f"layer {name!r} is sharded already, and its branch weights would be left out: build the search first, "
                "then call fully_shard(), then build the optimizer"
            )


def check_ranks(step: int, convs: Mapping[str, SearchConv]) -> None:
    """Raise RuntimeError on every rank unless all have the same branches and the same branch weights.

    They have where gradients are averaged over the ranks. It does nothing outside torch.distributed.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return
    weights = [whole(conv.branch_weight).detach() for conv in convs.values()]
    layout = [(name, conv.dilations, len(w)) for (name, conv), w in zip(convs.items(), weights, strict=True)]
    own = zlib.crc32(repr((step, layout)).encode())
    # First a number: gathering tensors of unlike sizes would hang.
    layouts = _gather(torch.tensor([own], dtype=torch.int64, device=weights[0].device))
    if any(int(other) != own for other in layouts):
        raise RuntimeError(
            f"at step {step} the ranks search different layers, or by different branches: build the same search on "
            "every rank, resume it from the same state, and call after_step() on every rank equally often; "
            "fully_shard() is supported, FullyShardedDataParallel, which cuts the branch weights up, is not"
        )
    values = [each.tolist() for each in _gather(torch.cat(weights))]
    end = 0
    for name, weight in zip(convs, weights, strict=True):
        start, end = end, end + len(weight)
        ranks = [each[start:end] for each in values]
        # By their text: nan equals nan, a training that diverged on all ranks.
        if different := [rank for rank, each in enumerate(ranks) if str(each) != str(ranks[0])]:
            raise RuntimeError(
                f"layer {name!r}: the branch weights differ between the ranks ({ranks[0]} on rank 0, "
                f"{ranks[different[0]]} on rank {different[0]}), which would go on with different dilations: their "
                "gradients are not averaged. Build the search first, then DistributedDataParallel or fully_shard(), "
                "and train by what these return"
            )


def _gather(tensor: Tensor) -> list[Tensor]:
    gathered = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, tensor)
    return gathered
