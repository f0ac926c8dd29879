"""SearchConv: a convolution that is evaluated at several dilations at once.

A conv is not replaced but taken over in place (`rfnext.convs.take_over`): its class is changed to one that inherits
from both `SearchConv` and the conv's own class, and changed back when the search is over. The module object stays the
same. So everything that refers to it still works: state_dict keys, optimizers, forward hooks, weight parametrisations,
modules that are used under several names, `isinstance(module, nn.Conv2d)`.

When a dilation changes, the conv keeps its output size and one tap keeps its place, the anchor: the kernel's centre, or
its last tap, as convs of causal networks need it (`rfnext.convs.padding`). Nothing in a plain conv says that its
network is causal: the parent pads one side, or crops what a padding of (k - 1) d adds. So the anchor is given to a
search or a structure; `rfnext.is_causal` tries a network.
"""

import copy
import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from rfnext.convs.branch_state import BranchState
from rfnext.convs.copies import note_copy
from rfnext.convs.padding import Conv, anchor_of, can_pad, kernel_to_search, size_keeping_padding
from rfnext.convs.quantisation import RefusesQuantisation
from rfnext.convs.redirected import Redirecting
from rfnext.convs.set_dilation import set_dilation
from rfnext.convs.twin import Searched
from rfnext.dilation import Dilation, Rule, searched_axis
from rfnext.ops.branches import is_recorded
from rfnext.ops.mixed_dilation_conv import Given, computed, geometry_of, mixed_dilation_conv
from rfnext.ops.pins import check_implementation
from rfnext.ops.repeated import CALLS, Repeated, keep, kept, operator_of, situation

INITIAL_WEIGHT = 0.01
"""Start of every branch weight, from the published code."""

_SUCCESSOR = "rfnext_successor"  # attribute of a branch weight that torch has replaced, which tied convs share


def check_branches(dilations: Sequence[Dilation], conv: Conv, entries: int) -> None:
    """Raise ValueError unless `conv` can have these branches with that many branch weights."""
    if not 1 <= len(dilations) <= entries:
        raise ValueError(f"{len(dilations)} branches for {entries} branch weights")
    for dilation in dilations:
        size_keeping_padding(conv, dilation)


def whole(weight: Tensor) -> Tensor:
    """A branch weight; if fully_shard() has split it over the ranks, all of it, for which every rank must ask."""
    if type(weight) is nn.Parameter:  # asking for an attribute that is not there is slow
        return weight
    return cast(Any, weight).full_tensor() if hasattr(weight, "full_tensor") else weight


class SearchConv(RefusesQuantisation, Searched, nn.Module):
    """Weighted sum over dilations of one shared kernel: sum_i p_i conv(x, W, d_i).

    Never constructed directly: `take_over(conv, ...)` turns an existing conv into one and `release(conv)` back.
    Parameter names, output size and everything else stay those of the conv. A checkpoint of the plain conv loads as
    long as all branches have equal weights, as at the start; later its branch weights are missing keys, since they were
    learnt with other kernels. Its own checkpoint also holds the branches, their weights, the rule and the anchor, so
    that it always loads as the same function, or not at all. `rfnext.plain_state_dict` drops these two for loading into
    a plain network.

    Attributes:
        dilations: the branches now.
        branch_weight: nn.Parameter, shape (possible branches,); entries beyond `len(dilations)` are idle. Never
            resized, so optimizers keep it.
        rule: how the probabilities p are computed from the weights a of the branches. "paper": p = |a| / sum |a|.
            "default": p = softmax(a / 0.01), which has the same slope at the start (a = 0.01), cannot divide by zero
            and gives a negative weight a small share.
        implementation: passed to `mixed_dilation_conv`.
        frozen: the branch weights get a gradient of zero.
        longest_input: the largest size of its inputs so far per axis, () before the first.
    """

    plain_class: type[nn.Module]
    branch_weight: nn.Parameter
    rule: Rule
    implementation: str
    frozen: bool = False
    before_quantising = "apply the structure first, search.structure().apply(model), or rfnext.merge(model)"
    _dilations: tuple[Dilation, ...]
    longest_input: tuple[int, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"{type(self).__name__} is not constructed, rfnext takes over a conv that exists; what builds a layer of a "
            "searched conv's class, as peft's adapters do, must be applied to the model before the search"
        )

    @property
    def dilations(self) -> tuple[Dilation, ...]:
        """The branches now."""
        return self._dilations

    def beyond_input(self) -> list[Dilation]:
        """The branches of which every tap but the anchor has read zeros, not input, at all inputs so far."""
        conv = cast(Conv, self)
        if conv.padding_mode not in ("zeros", "constant"):
            return []
        axes = [i for i, k in enumerate(kernel_to_search(conv)) if self.longest_input and searched_axis(k)]
        return [dilation for dilation in self._dilations if any(dilation[i] >= self.longest_input[i] for i in axes)]

    def beyond_padding(self) -> list[Dilation]:
        """The branches that a plain conv computes at no input so far: by "reflect" or "circular" torch pads by less."""
        conv = cast(Conv, self)
        return [dilation for dilation in self._dilations if not can_pad(conv, dilation, self.longest_input)]

    @property
    def probability(self) -> Tensor:
        """Share of each branch in the output, shape (branches,), differentiable."""
        weights = whole(self.branch_weight)
        # Tracing would warn of the comparison.
        whole_weight = torch._C._get_tracing_state() is None and len(self._dilations) == len(weights)
        weight = weights if whole_weight else weights[: len(self._dilations)]
        if len(self._dilations) == 1 or self.frozen:
            # The weight stays in the graph, at a gradient of zero: distributed training fails on parameters that get
            # none.
            weight = weight.detach() + 0 * weights.sum()
        if len(self._dilations) == 1:
            return torch.ones_like(weight) + 0 * weight
        if self.rule == "paper":
            return weight.abs() / weight.abs().sum()
        return torch.softmax(weight / INITIAL_WEIGHT, dim=0)

    def equal_weights(self) -> Tensor:
        """Whether all branches have equal weights, as at the start, shape (); decay or sharpening alone leave them so.

        True on the meta device. Sharded weights are gathered: every rank must ask.
        """
        if self.branch_weight.is_meta:
            return torch.ones((), dtype=torch.bool, device="cpu")
        weight = whole(self.branch_weight)[: len(self._dilations)]
        return (weight == weight[0]).all()

    def set_branches(self, dilations: Sequence[Dilation]) -> None:
        """Replace the branches and start their weights anew.

        Raises:
            ValueError: if there is none, or more than `branch_weight` has entries, or one does not fit the kernel.
        """
        check_branches(dilations, cast(Conv, self), self.branch_weight.numel())
        self._dilations = tuple(dilations)
        with torch.no_grad():
            self.branch_weight.fill_(INITIAL_WEIGHT)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call forward(); in torch.fx, which cannot trace it, one node that calls the conv."""
        proxy = next((value for value in (*args, *kwargs.values()) if isinstance(value, fx.Proxy)), None)
        if proxy is None:
            return super().__call__(*args, **kwargs)
        tracer = cast(fx.Tracer, proxy.tracer)
        return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

    def note_input(self, input: Tensor) -> None:
        """Remember its size, if it is the largest so far."""
        size = tuple(input.shape[-len(cast(Conv, self).kernel_size) :])
        if not torch.compiler.is_compiling() and all(type(n) is int for n in size):  # no symbols of a traced graph
            longest = tuple(map(max, size, self.longest_input)) if self.longest_input else size
            if longest != self.longest_input:  # a module's attributes are slow to set
                self.longest_input = longest

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = cast(Conv, self)
        if not (torch.compiler.is_compiling() or is_recorded()):
            call = self._call(input, weight, bias)
            if call.operator is not None:
                return call.operator(input, weight, bias, self.branch_weight, call.geometry, INITIAL_WEIGHT)
            return computed(input, weight, bias, self.probability, call.geometry, self.implementation)
        self.note_input(input)
        return mixed_dilation_conv(
            input,
            weight,
            bias,
            self.probability,
            self._dilations,
            stride=conv.stride,
            padding=[size_keeping_padding(conv, dilation) for dilation in self._dilations],
            groups=conv.groups,
            padding_mode=_mode(conv),
            implementation=self.implementation,
        )

    def _call(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Repeated:
        """The checked arguments of a call, and what computes it: kept ones, if they are the same."""
        conv, own, branch_weight = cast(Conv, self), vars(self), self.branch_weight
        now = situation(input, weight, bias, branch_weight)
        key = (
            *(input.shape, now, weight.shape, None if bias is None else bias.shape, self.implementation),
            *(self._dilations, conv.dilation, conv.padding, conv.padding_mode, conv.stride, conv.groups),
            *(() if conv.padding_mode == "zeros" else conv._reversed_padding_repeated_twice),
            *(anchor_of(conv), self.rule, self.frozen, branch_weight.shape, self.longest_input),
        )
        if (known := kept(own, key)) is not None:
            return known
        self.note_input(input)
        check_implementation(self.implementation)
        paddings = tuple(tuple(size_keeping_padding(conv, dilation)) for dilation in self._dilations)
        shapes = tuple(input.shape), tuple(weight.shape), None if bias is None else tuple(bias.shape)
        branches = (len(self._dilations),), self._dilations
        geometry = geometry_of(Given(*shapes, *branches, tuple(conv.stride), paddings, conv.groups, _mode(conv)))
        operator = None
        if now is not None and self.rule == "default" and not self.frozen and self._uses_all_weights():
            # Without a graph: a checkpoint counts the tensors that are saved, and its repetition takes the kept call.
            probability = torch.full(
                branch_weight.shape, 1 / len(self._dilations), dtype=branch_weight.dtype, device="cpu"
            )
            probability.requires_grad_(branch_weight.requires_grad)
            operator = operator_of(self.implementation, input, weight, bias, probability, geometry)
        call = Repeated((*key[:-1], self.longest_input), geometry, operator)
        keep(own, call)
        return call

    def _uses_all_weights(self) -> bool:
        return 1 < len(self._dilations) == self.branch_weight.numel()

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"torch.jit.script cannot compile a searched conv: {self!r}: apply the "
            "structure found, or merge the branches, and script that; torch.jit.trace records a network as it is"
        )

    def reset_parameters(self) -> None:
        """What torch's conv does, and the branch weights as at the start."""
        cast(Any, super()).reset_parameters()
        with torch.no_grad():
            self.branch_weight.fill_(INITIAL_WEIGHT)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # to(), half(), to_empty(): the branch weights move with the others, but keep their values and their precision.
        parameter, before = self.branch_weight, self.branch_weight.detach()
        super()._apply(fn, recurse)
        self._keep_tie(parameter)
        weight = self.branch_weight
        if weight.dtype in (torch.float16, torch.bfloat16):
            gradient, weight.grad = weight.grad, None
            weight.data = weight.data.float()
            weight.grad = None if gradient is None else gradient.float()
        if not weight.is_meta:
            with torch.no_grad():
                weight.fill_(INITIAL_WEIGHT) if before.is_meta else weight.copy_(before)
        return self

    def _keep_tie(self, before: nn.Parameter) -> None:
        """Where torch has put a new parameter in the place of `before`, let all convs that had this have one new one.

        It does so, for each conv on its own, off the meta device and by load_state_dict(assign=True).
        """
        if self.branch_weight is not before:
            self.branch_weight = vars(before).setdefault(_SUCCESSOR, self.branch_weight)

    def extra_repr(self) -> str:
        """What `print` shows of the conv."""
        branches = ", ".join("x".join(map(str, dilation)) for dilation in self._dilations)
        anchor = anchor_of(cast(Conv, self))
        return f"{super().extra_repr()}, branches=[{branches}], rule={self.rule}" + (
            f", anchor={anchor}" if "last" in anchor else ""
        )

    def get_extra_state(self) -> Tensor:
        """Rule, anchor, centre and branches, for the state_dict; `BranchState.read` takes it apart."""
        conv = cast(Conv, self)
        return BranchState(self.rule, anchor_of(conv), tuple(conv.dilation), list(self._dilations)).write()

    def check_extra_state(self, state: Any) -> None:
        """Raise ValueError unless `state` is a centre and branches that fit this conv, searched by its rule."""
        kernel = tuple(cast(Conv, self).kernel_size)
        if not isinstance(state, Tensor) or state.dim() != 2 or state.shape[1] != len(kernel):
            raise ValueError(f"not the branches of a conv with kernel {kernel}: {state!r}")
        rule, anchor, centre, dilations = BranchState.read(state)
        if anchor != (own := anchor_of(cast(Conv, self))):
            raise ValueError(
                f"it was searched with anchor {anchor}, and here it is {own}, by which other dilations read other "
                f"inputs; build the search with anchor={anchor}"
            )
        check_branches(dilations, cast(Conv, self), self.branch_weight.numel())
        size_keeping_padding(cast(Conv, self), centre)
        if rule != self.rule:
            raise ValueError(
                f"the branch weights were learnt by rule {rule!r}, which gives other probabilities than {self.rule!r}; "
                f"take the conv over by rule={rule!r}, as in LocalConfig(rule={rule!r})"
            )

    def set_extra_state(self, state: Any) -> None:
        """Take the centre and branches of `get_extra_state`; raises ValueError as `check_extra_state` does."""
        self.check_extra_state(state)
        own = BranchState.read(state)
        set_dilation(cast(Conv, self), own.centre)
        self._dilations = tuple(own.branches)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {prefix + "branch_weight", prefix + "_extra_state"}
        named = own & set(missing_keys)  # by `rfnext.plain_checkpoint`: the checkpoint has other layers' branches
        parameter = self.branch_weight
        try:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        except ValueError as error:  # of set_extra_state(), without the layer's name
            error_msgs.append(f"{prefix.removesuffix('.')}: {error}")
        at_start = bool(self.equal_weights())
        if at_start and not named and not own & state_dict.keys():  # the checkpoint of a plain network
            missing_keys[:] = [key for key in missing_keys if key not in own]
            like = next(p for name, p in self.named_parameters() if name != "branch_weight")
            if self.branch_weight.is_meta and not like.is_meta:  # assign=True replaced those of the checkpoint alone
                self.branch_weight = fresh_weight(self.branch_weight.numel(), like)
        missing_keys[:] = dict.fromkeys(missing_keys)
        self._keep_tie(parameter)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if own := getattr(super(), "__deepcopy__", None):  # of a class that torch parametrised
            twin = own(memo)
        else:
            twin = memo[id(self)] = object.__new__(type(self))
            kept = {key: value for key, value in vars(self).items() if key != "_compiled_call_impl"}
            twin.__dict__.update(copy.deepcopy(kept, memo))
        note_copy(self, twin)
        return twin

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time, so pickle cannot find it by name; it can make it again.
        state = {name: value for name, value in cast(Any, self.__getstate__()).items() if name != CALLS}
        return _remake, (type(self).plain_class, isinstance(self, Redirecting)), state


def _mode(conv: Conv) -> str:
    return "zeros" if conv.padding_mode == "constant" else conv.padding_mode


def fresh_weight(entries: int, like: Tensor) -> nn.Parameter:
    """Branch weights as at the start, on a tensor's device, in its dtype or at least float32.

    Half precision cannot resolve the small steps that they take.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    return nn.Parameter(torch.full((entries,), INITIAL_WEIGHT, device=like.device, dtype=dtype))


@functools.cache
def search_class(plain: type[nn.Module], redirected: bool) -> type[SearchConv]:
    """The class of a searched conv of class `plain`; redirected: if its forward() convolves by itself."""
    bases = (*([Redirecting] if redirected else []), SearchConv, plain)
    return cast(Any, type)(f"Search{plain.__name__}", bases, {"plain_class": plain, "__module__": __name__})


def parametrised_search_class(plain: type[nn.Module], redirected: bool) -> type[SearchConv]:
    """The same for a class that torch made for a parametrisation.

    It is what torch would have made of the searched conv, so that remove_parametrizations() finds what it deletes.
    """
    made = {key: value for key, value in vars(plain).items() if key not in ("__dict__", "__weakref__")}
    own = {"plain_class": plain, "__module__": __name__}
    return type(f"Search{plain.__name__}", (search_class(plain.__bases__[0], redirected),), made | own)


def _remake(plain: type[nn.Module], redirected: bool = False) -> SearchConv:
    cls = search_class(plain, redirected)
    return cls.__new__(cls)
