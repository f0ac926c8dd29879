"""The searched convs of a model: what every kind of search does with them.

A search takes the convs over (`take_over_all`), reads what was learnt (`probability`), and keeps copies of the model
(EMA) in step (`copy_branches`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from rfnext.conv import Conv, SearchConv, Where, take_over, unsearchable, warn_of_causal
from rfnext.dilation import Dilation, Rule
from rfnext.structure import named_convs

log = logging.getLogger(__name__)

Trained = Literal["weights", "probabilities"]
"""What a batch trains, where the two are trained on batches of their own."""


def check_going(convs: Mapping[str, SearchConv]) -> None:
    """Raise RuntimeError if a conv is no longer searched, since the model was merged or a structure applied to it."""
    for name, conv in convs.items():
        if not isinstance(conv, SearchConv):
            raise RuntimeError(
                f"this search has ended: layer {name!r} is a plain {type(conv).__name__} now, by merge() or "
                "Structure.apply(); what it found is in its `history`, or read structure() before"
            )


def plain(convs: Mapping[str, SearchConv]) -> list[tuple[str, Conv]]:
    """The same convs, typed as the convs that they also are."""
    check_going(convs)
    return [(name, cast(Conv, conv)) for name, conv in convs.items()]


def take_over_all(
    model: nn.Module, where: Where, layout: Callable[[Conv], Sequence[Dilation]], entries: int, rule: Rule
) -> dict[str, SearchConv]:
    """Make every searchable conv that `where` picks a SearchConv with the branches that `layout` gives it.

    Returns:
        The searched convs by name, as in `model.named_modules()`.

    Raises:
        ValueError: if no conv is left to search; the message says why each was passed over. If DDP wraps the model,
            which would leave the branch weights out. If a conv has learnt probabilities in another search, which would
            be lost. Nothing is changed then.
        TypeError: if `where` is not a function.
    """
    if not callable(where):
        raise TypeError(
            f"where is {where!r}, not a function of a layer's name and conv; "
            "lambda name, conv: name.startswith('layer4.'), for example"
        )
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise ValueError("build the search before DistributedDataParallel, which else leaves the branch weights out")
    picked: dict[str, Conv] = {}
    reasons: dict[str, str] = {}
    for name, conv in named_convs(model).items():
        if not where(name, conv):
            reasons[name] = "not picked by `where`"
        elif reason := unsearchable(conv):
            reasons[name] = reason
            if "overrides forward()" in reason:
                log.warning("%s is not searched: %s", name, reason)
        else:
            picked[name] = conv
    if not reasons and not picked:
        raise ValueError(
            "no conv to search: the model has no Conv1d, Conv2d or Conv3d (transposed ones are not searched)"
        )
    if not picked:
        found = "; ".join(f"{name or 'The model itself'}: {reason}" for name, reason in list(reasons.items())[:5])
        raise ValueError(f"no conv to search among the model's {len(reasons)}. {found}")
    for name, conv in picked.items():
        if isinstance(conv, SearchConv) and _has_learnt(conv):
            raise ValueError(
                f"layer {name!r} is searched already, and what its probabilities have learnt would be lost: read that "
                "search's structure() and apply it to the model, or to a fresh one, before the next search begins"
            )
    branches = {name: layout(conv) for name, conv in picked.items()}
    warn_of_causal(picked)
    for name, conv in picked.items():
        if len(branches[name]) < 2:
            log.info("%s: the bounds leave only dilation %s", name, branches[name][0])
        take_over(conv, branches[name], entries=entries, rule=rule)
    log.info("searching %d of %d convs", len(picked), len(picked) + len(reasons))
    return {name: cast(SearchConv, conv) for name, conv in picked.items()}


def _has_learnt(conv: SearchConv) -> bool:
    """Whether probabilities mean more than the conv's dilation, the centre, says.

    By rule "paper" they never do: the structure of such a search is that of its last round.
    """
    return conv.rule == "default" and not _untrained(conv)


def _untrained(conv: SearchConv) -> bool:
    """Whether all branches weigh the same, as at the start; decay or sharpening alone keep it so."""
    weight = conv.branch_weight[: len(conv.dilations)]
    return bool((weight == weight[0]).all())


def check_learning(convs: Mapping[str, SearchConv], search: str, since: str) -> None:
    """Log it if no branch weight was ever updated: a search that silently searches nothing is the worst kind."""
    check_going(convs)
    searching = [conv for conv in convs.values() if len(conv.dilations) > 1]
    if searching and all(map(_untrained, searching)):
        log.warning(
            "no branch weight has changed since %s: was the optimizer built before %s, "
            "or from parameters that leave `branch_weights()` out?",
            since,
            search,
        )


def branch_weights(convs: Mapping[str, SearchConv]) -> list[nn.Parameter]:
    """The trainable weights of all branches."""
    check_going(convs)
    return [conv.branch_weight for conv in convs.values()]


def probability(convs: Mapping[str, SearchConv]) -> dict[str, list[float]]:
    """Share of each branch now, per layer."""
    check_going(convs)
    with torch.no_grad():
        # One transfer for all layers: on a GPU each one waits for the device.
        flat = torch.cat([conv.probability for conv in convs.values()]).tolist()
    result, start = {}, 0
    for name, conv in convs.items():
        result[name] = flat[start : start + len(conv.dilations)]
        start += len(conv.dilations)
    return result


def keep_gradients(model: nn.Module, convs: Mapping[str, SearchConv], of: Trained) -> None:
    """Forget the gradients of the probabilities, or of everything else, so that optimizers step over these parameters.

    Probabilities that are trained on the batches that the weights have fitted reward what fits best; DARTS (Liu et al.,
    ICLR 2019, first order) trains them on data that was held out, in turns with the weights:

        for batch, held_out in zip(training_batches, held_out_batches):
            for part, x in ("weights", batch), ("probabilities", held_out):
                optimizer.zero_grad()
                loss(model, x).backward()
                search.keep_gradients(part)
                optimizer.step()

    One optimizer does for both: torch's leave a parameter without a gradient, and its moments, as they are.
    """
    if of not in get_args(Trained):
        raise ValueError(f"gradients of {of!r}; known: {', '.join(get_args(Trained))}")
    own = {id(weight) for weight in branch_weights(convs)}
    for parameter in model.parameters():
        if (id(parameter) in own) != (of == "probabilities"):
            parameter.grad = None


def copy_branches(convs: Mapping[str, SearchConv], model: nn.Module) -> None:
    """Give another copy of the searched model the same branches and branch weights.

    Raises:
        ValueError: naming a layer that the copy lacks or that is not searched there.
    """
    check_going(convs)
    copies = named_convs(model)
    for name, conv in convs.items():
        copy = copies.get(name)
        if not isinstance(copy, SearchConv):
            raise ValueError(f"layer {name!r} is not a searched conv of the copy; copy the model after wrapping it")
        copy.set_extra_state(conv.get_extra_state())
        with torch.no_grad():  # an average over weights that were of other branches means nothing
            copy.branch_weight.copy_(conv.branch_weight)


def branch_state(convs: Mapping[str, SearchConv]) -> dict[str, Any]:
    """Centre and branches of every conv, as lists."""
    check_going(convs)
    return {name: conv.get_extra_state().tolist() for name, conv in convs.items()}


def check_branch_state(convs: Mapping[str, SearchConv], state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What `branch_state` gave, as the tensors that `SearchConv.set_extra_state` takes.

    Raises:
        ValueError: if it is of other layers, or an entry does not fit its conv.
        RuntimeError: if the search has ended.
    """
    check_going(convs)
    if different := set(state) ^ set(convs):
        raise ValueError(
            f"the state is of a search over other layers; {len(different)} differ, {sorted(different)[0]!r} first"
        )
    branches = {name: torch.tensor(rows, dtype=torch.int64) for name, rows in state.items()}
    for name, conv in convs.items():
        try:
            conv.check_extra_state(branches[name])
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
    return branches
