"""Distributed training: searches that every rank can carry out alike, and the check that they do."""

import hashlib
import json
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from rfnext.convs.conv import SearchConv, whole
from rfnext.convs.padding import Conv, anchor_of

_SEARCH = ""  # the key of what belongs to no layer
_FAILED = "failed: "

_OTHER_BRANCHES = (
    "Build the same search on every rank, resume it from the same state, and call after_step() on every rank equally "
    "often; fully_shard() is supported, FullyShardedDataParallel, which cuts the branch weights up, is not"
)
_OTHER_WEIGHTS = (
    "The ranks would go on with different dilations: their gradients are not averaged. Build the search first, then "
    "DistributedDataParallel or fully_shard(), and train by what these return"
)


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


def check_ranks(settings: str, convs: Mapping[str, nn.Module], problem: Exception | None = None) -> None:
    """Raise RuntimeError on every rank unless all search alike: with equal settings, branches and branch weights.

    The error names the first layer that differs. Where gradients are averaged over the ranks none does, to the last
    bit. Every rank must call it. They exchange two hashes each, and what these are of only where they differ.

    Args:
        settings: step and config of the search.
        convs: the searched convs by name.
        problem: why this rank cannot go on. All raise it: the others would wait for this one for ever.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        device = next(next(iter(convs.values())).parameters()).device
        searched = {} if problem else {name: cast(SearchConv, conv) for name, conv in convs.items()}
        own = f"{_FAILED}{problem}" if problem else settings
        # The branches first: gathering the shards of unlike weights would hang.
        branches = {_SEARCH: own, **{name: _branches(conv) for name, conv in searched.items()}}
        _check_equal(branches, device, _OTHER_BRANCHES)
        if searched:
            _check_equal(_weights(searched), device, _OTHER_WEIGHTS)
    if problem:
        raise problem


def _branches(conv: SearchConv) -> str:
    plain = cast(Conv, conv)
    dilations = ", ".join("x".join(map(str, dilation)) for dilation in (*conv.dilations, tuple(plain.dilation)))
    return (
        f"the branches and their centre are {dilations}, with {conv.branch_weight.numel()} weights, by rule "
        f"{conv.rule!r}, at anchor {' x '.join(anchor_of(plain))}"
    )


def _weights(convs: Mapping[str, SearchConv]) -> dict[str, str]:
    weights = [whole(conv.branch_weight).detach() for conv in convs.values()]
    values = iter(torch.cat(weights).tolist())  # one transfer for all layers
    # As text nan equals nan: a training that diverged on all ranks.
    own = [", ".join(str(next(values)) for _ in weight) for weight in weights]
    return {name: f"the branch weights are {text}" for name, text in zip(convs, own, strict=True)}


def _check_equal(own: Mapping[str, str], device: torch.device, mend: str) -> None:
    """Raise RuntimeError, naming the first difference, unless all ranks have these texts."""
    data = json.dumps(own).encode()
    digest = int.from_bytes(hashlib.sha256(data).digest()[:7])
    hashes = _gather(torch.tensor([digest, len(data)], device=device))
    if len(set(hashes)) == 1:
        return
    padded = data.ljust(max(length for _, length in hashes))  # by spaces, which JSON allows
    ranks = [json.loads(bytes(row)) for row in _gather(torch.tensor(list(padded), dtype=torch.uint8, device=device))]
    if failed := {rank: each[_SEARCH] for rank, each in enumerate(ranks) if each.get(_SEARCH, "").startswith(_FAILED)}:
        rank, text = next(iter(failed.items()))
        raise RuntimeError(f"rank {rank} cannot go on, nor can the others: {text.removeprefix(_FAILED)}")
    key = next(key for each in ranks for key in each if len({other.get(key) for other in ranks}) > 1)
    texts = [each.get(key, "it is not searched") for each in ranks]
    other = next(rank for rank, text in enumerate(texts) if text != texts[0])
    where = f"layer {key!r}: it differs" if key != _SEARCH else "the search differs"
    raise RuntimeError(f"{where} between the ranks: {texts[0]} on rank 0, {texts[other]} on rank {other}. {mend}")


def _gather(own: Tensor) -> list[tuple[int, ...]]:
    """The numbers of all ranks. By a sum: it is the one operation that every backend has on every device."""
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    rows = own.new_zeros(world, len(own))
    rows[rank] = own
    torch.distributed.all_reduce(rows)
    return [tuple(row) for row in rows.tolist()]
