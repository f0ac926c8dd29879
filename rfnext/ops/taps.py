"""The implementation `taps` of the searched convolution: mix the shifted inputs, then multiply once.

The identity behind it is derived in `mixed_dilation_conv.py`. It is carried out tap by tap, on chunks of the
batch that are small enough for the mixed input to stay in a core's cache. Only the arguments are kept for the
backward pass, which mixes again: that costs less than a trip of the mixed input through memory, so nothing is gained by
saving it.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfnext.ops.geometry import CONV, Geometry, by_branches, crop_extended, extend, size_out

FEW_CHANNELS = 8
"""Channels per group below which the product of a tap is too thin to be worth sharing."""

_CHUNK_BYTES = 2**20  # per thread: about a core's second-level cache
_DEVICE_CHUNK_BYTES = 2**26  # elsewhere: enough to keep a device busy

_DIRECT_PADDING = 6  # the largest with which oneDNN's fast depthwise kernels cope; 7 takes 2 to 6 times as long

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


Forward = Callable[[Tensor, Tensor, Tensor | None, Tensor, Geometry], Tensor]
"""x, weight, bias times the sum of the probabilities, probability, geometry (zero padding) -> y."""

Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Geometry, Sequence[bool]], tuple[Tensor | None, Tensor | None, Tensor | None]
]
"""Gradient of y, x, weight, probability, geometry, which of x, weight, bias, probability need theirs -> gradients of x,
weight, probability; those of weight and probability whenever either of them, or x alone, costs them anyway."""


def as_operator(name: str, forward: Forward, backward: Backward) -> Forward:
    """The differentiable operator of an implementation, `rfnext::name` under torch.compile.

    Both functions see zero padding and, under autocast, low precision only; biases are none of the second one's
    business. A second derivative is that of `branches`.
    """

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
        bias = None if bias is None else bias * probability.sum()
        return _laid_out(forward(x, weight, bias, probability, geometry), channels_are_last(x))

    def run_backward(
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        probability: Tensor,
        geometry: Geometry,
        needed: Sequence[bool],
    ) -> _Gradients:
        """Gradients of x, weight, bias and probability for the gradient g of y, each None unless needed."""
        grad_x, grad_weight, grad_probability = backward(g, x, weight, probability, geometry, needed)
        need_x, need_weight, need_bias, need_probability = needed
        grad_bias = None
        if bias is not None and (need_bias or need_probability):
            grad_bias = g.sum((0, *range(2, g.dim())))
            if need_probability and grad_probability is not None:
                grad_probability = grad_probability + (grad_bias * bias).sum(dtype=probability.dtype)
            grad_bias = grad_bias * probability.sum()
        return (
            _laid_out(grad_x, channels_are_last(x)) if need_x and grad_x is not None else None,
            grad_weight.contiguous() if need_weight and grad_weight is not None else None,
            grad_bias if need_bias else None,
            grad_probability if need_probability else None,
        )

    compiled = _register(name, run, run_backward)

    def operator(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
        if geometry.padding_mode != "zeros":
            x, geometry = crop_extended(x, geometry)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        if torch.compiler.is_compiling():
            return compiled(x, weight, bias, probability, *_as_lists(geometry))
        return _Exact.apply(x, weight, bias, probability, geometry, run, run_backward)

    return operator


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        probability: Tensor,
        geometry: Geometry,
        forward: Forward,
        backward: Callable[..., _Gradients],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, probability)
        ctx.geometry, ctx.backward = geometry, backward
        y = forward(x, weight, bias, probability, geometry)
        # The same memory, but no view: autograd refuses to have views changed in place, as by nn.ReLU(inplace=True).
        return y.new_empty(0).set_(y)  # type: ignore[arg-type]  # a tensor will do

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,), needed = grad_outputs, ctx.needs_input_grad[:4]
        x, weight, bias, probability = ctx.saved_tensors
        device = g.device.type
        # Entering one takes longer than asking whether there is any.
        plain = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()
        with plain:
            if not torch.is_grad_enabled():
                return (*ctx.backward(g, x, weight, bias, probability, ctx.geometry, needed), None, None, None)
            # create_graph=True: by operations that can be differentiated once more.
            y = by_branches(x, weight, bias, probability, ctx.geometry)
        inputs = [t for t, need in zip((x, weight, bias, probability), needed, strict=True) if need]
        found = iter(torch.autograd.grad(y, inputs, g, create_graph=True))
        return (*(next(found) if need else None for need in needed), None, None, None)


# torch.compile gets the same two functions as operators that it does not look into: unrolled over taps, branches and
# chunks they would take it minutes per layer, and again in every round of a search.


def _register(name: str, run: Forward, run_backward: Callable[..., _Gradients]) -> Callable[..., Tensor]:
    arguments = (
        "Tensor x, Tensor weight, Tensor? bias, Tensor probability, "
        "SymInt[] dilations, SymInt[] padding, SymInt[] stride, SymInt groups"
    )

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, *lists: Any) -> Tensor:
        return run(x, weight, bias, probability, _from_lists(x, weight, *lists))

    def fake(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, *lists: Any) -> Tensor:
        geometry = _from_lists(x, weight, *lists)
        return empty(x, (x.shape[0], weight.shape[0], *geometry.size_out), channels_are_last(x))

    def backward(
        g: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        *lists, needed = rest
        grads = run_backward(g, x, weight, bias, probability, _from_lists(x, weight, *lists), needed)
        return tuple(x.new_empty(0) if grad is None else grad for grad in grads)

    def fake_backward(
        g: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        grads = (
            empty(x, x.shape, channels_are_last(x)),
            weight.new_empty(weight.shape),
            None if bias is None else bias.new_empty(bias.shape),
            probability.new_empty(probability.shape),
        )
        return tuple(
            grad if need and grad is not None else x.new_empty(0) for grad, need in zip(grads, rest[-1], strict=True)
        )

    operator = torch.library.custom_op(f"rfnext::{name}", forward, mutates_args=(), schema=f"({arguments}) -> Tensor")
    operator.register_fake(fake)
    backward_operator = torch.library.custom_op(
        f"rfnext::{name}_backward",
        backward,
        mutates_args=(),
        schema=f"(Tensor g, {arguments}, bool[] needed) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    backward_operator.register_fake(fake_backward)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.lists = inputs[4:]

    def differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:4]
        grads = backward_operator(g, *ctx.saved_tensors, *ctx.lists, needed)
        return (*(grad if need else None for grad, need in zip(grads, needed, strict=True)), None, None, None, None)

    operator.register_autograd(differentiate, setup_context=setup_context)
    return operator


def _as_lists(geometry: Geometry) -> tuple[list[int], list[int], list[int], int]:
    dilations = [d for dilation in geometry.dilations for d in dilation]
    padding = [side for sides in geometry.padding for pair in sides for side in pair]
    return dilations, padding, list(geometry.stride), geometry.groups


def _from_lists(
    x: Tensor, weight: Tensor, dilations: Sequence[int], padding: Sequence[int], stride: Sequence[int], groups: int
) -> Geometry:
    kernel, size_in, rank = tuple(weight.shape[2:]), tuple(x.shape[2:]), len(stride)
    pairs = list(zip(padding[::2], padding[1::2], strict=True))
    starts = range(0, len(dilations), rank)
    branches = tuple(tuple(dilations[i : i + rank]) for i in starts)
    sides = tuple(tuple(pairs[i : i + rank]) for i in starts)
    size = size_out(size_in, kernel, branches[0], stride, sides[0])
    return Geometry(kernel, branches, tuple(stride), sides, groups, "zeros", size_in, size)


def channels_are_last(x: Tensor) -> bool:
    """Whether x (batch, channel, *size) lies in memory as torch.channels_last and its like for other ranks do."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def empty(like: Tensor, shape: Sequence[int], channel_last: bool) -> Tensor:
    if channel_last:
        return like.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return like.new_empty(shape)


def _copy(source: Tensor, target: Tensor) -> None:
    """Copy (batch, channel, *size) into another layout, both dense.

    One matrix at a time: for matrices torch has a way that is several times as fast as that for more axes.
    """
    for s, t in zip(source.flatten(2), target.flatten(2), strict=True):
        if t.is_contiguous():
            t.copy_(s)
        else:
            t.t().copy_(s.t())


def _laid_out(x: Tensor, channel_last: bool) -> Tensor:
    """x (batch, channel, *size), copied if its channels are not where they should be."""
    if (x.movedim(1, -1) if channel_last else x).is_contiguous():
        return x
    target = empty(x, x.shape, channel_last)
    _copy(x, target)
    return target


def is_thin(weight: Tensor, groups: int) -> bool:
    """Whether a tap's product has too few terms for anything to be worth sharing."""
    return min(weight.shape[1], weight.shape[0] // groups) < FEW_CHANNELS


def is_depthwise(weight: Tensor, groups: int) -> bool:
    return weight.shape[1] == 1 and weight.shape[0] == groups


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    run = _thin_forward if is_thin(weight, geometry.groups) else _wide_forward
    return run(x, weight, bias, probability, geometry)


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    run = _thin_backward if is_thin(weight, geometry.groups) else _wide_backward
    return run(g, x, weight, probability, geometry, needed)


_operator = as_operator("taps", _forward, _backward)


def by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out), stored in memory like x."""
    run = by_branches if x.shape[0] == 0 else _operator
    return run(x, weight, bias, probability, geometry)


# Wide convs: one product per tap.


class _Box(NamedTuple):
    """Part of a buffer along its last axes, as indices: the part itself, and what together is the rest."""

    inside: tuple[Any, ...]
    outside: tuple[tuple[Any, ...], ...]


class _Term(NamedTuple):
    """One shift of the input that a tap reads.

    sharers: which branches it is for, as an index into the plan's `sharers`. read: box of the input. write: box of the
    tap's mixed input.
    """

    sharers: int
    read: _Box
    write: _Box


class _Plan(NamedTuple):
    """All index arithmetic, for zero padding. Taps that meet nothing but padding are left out.

    sharers: the sets of branches that share a shift, mostly one branch each. taps: index in the flattened kernel, and
    terms; None for terms: every branch reads the input as it is, the centre, which comes first.
    """

    sharers: tuple[tuple[int, ...], ...]
    taps: tuple[tuple[int, tuple[_Term, ...] | None], ...]


def shifts_of_taps(geometry: Geometry) -> Iterator[tuple[int, dict[tuple[int, ...], tuple[int, ...]]]]:
    """Per tap its index in the flattened kernel, and shift of the input, per axis -> which branches read it there."""
    for index, tap in enumerate(itertools.product(*map(range, geometry.kernel))):
        readers: dict[tuple[int, ...], tuple[int, ...]] = {}
        for branch, (dilation, padding) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
            shift = tuple(k * d - before for k, d, (before, _) in zip(tap, dilation, padding, strict=True))
            readers[shift] = (*readers.get(shift, ()), branch)
        yield index, readers


def meets_input(shift: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether anything but padding is read there."""
    axes = zip(shift, geometry.stride, geometry.size_in, geometry.size_out, strict=True)
    return all(_span(*axis) is not None for axis in axes)


@functools.lru_cache(maxsize=1024)
def _plan(geometry: Geometry) -> _Plan:
    sharers: dict[tuple[int, ...], int] = {}
    centre: list[tuple[int, None]] = []
    taps: list[tuple[int, tuple[_Term, ...]]] = []
    for index, readers in shifts_of_taps(geometry):
        if len(readers) == 1 and not any(next(iter(readers))) and geometry.size_in == geometry.size_out:
            centre.append((index, None))
            continue
        terms = []
        for shift, branches in readers.items():
            axes = zip(shift, geometry.stride, geometry.size_in, geometry.size_out, strict=True)
            spans = [span for span in (_span(*axis) for axis in axes) if span]
            if len(spans) == len(shift):
                read, write = zip(*spans, strict=True)
                number = sharers.setdefault(branches, len(sharers))
                terms.append(_Term(number, _box(read, geometry.size_in), _box(write, geometry.size_out)))
        if terms:
            taps.append((index, tuple(terms)))
    return _Plan(tuple(sharers), (*centre, *taps))


def _span(shift: int, stride: int, size_in: int, size_out: int) -> tuple[slice, slice] | None:
    """What a tap reads along one axis and which outputs that serves; None if it meets nothing but padding."""
    first = max(0, -(shift // stride))
    last = min(size_out - 1, (size_in - 1 - shift) // stride)
    if last < first:
        return None
    return slice(first * stride + shift, last * stride + shift + 1, stride), slice(first, last + 1, 1)


def _box(spans: Sequence[slice], size: Sequence[int]) -> _Box:
    outside: list[tuple[Any, ...]] = []
    for axis, (span, n) in enumerate(zip(spans, size, strict=True)):
        rest = [slice(None)] * (len(size) - axis - 1)
        outside += [(..., slice(0, span.start), *rest)] if span.start > 0 else []
        outside += [(..., slice(span.stop, n), *rest)] if span.stop < n else []
    strided = any(span.step > 1 for span in spans)
    return _Box((..., *spans), ((...,),) if strided else tuple(outside))


class _Work:
    """What both passes have in common: plan, layout, weights, buffers.

    Buffers have the logical shape (chunk, groups, channel, *size). Convs over one axis keep its elements together in
    memory, like the input. Over more axes a shifted box has short rows, so there the channels lie together instead.
    """

    def __init__(self, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry) -> None:
        self.plan, self.groups, self.size_in = _plan(geometry), geometry.groups, geometry.size_in
        # With groups, channels that lie together do not split into matrices.
        self.given_channel_last = self.groups == 1 and channels_are_last(x)
        self.channel_last = self.given_channel_last or x.dim() > 3
        self.x = x if self.given_channel_last else x.contiguous()
        self.channel_in, self.channel_out = weight.shape[1], weight.shape[0] // self.groups
        item = x.shape[1] * max(math.prod(geometry.size_in), math.prod(geometry.size_out)) * x.element_size()
        limit = _CHUNK_BYTES * torch.get_num_threads() if x.device.type == "cpu" else _DEVICE_CHUNK_BYTES
        chunks = math.ceil(x.shape[0] * item / limit)
        self.chunk = math.ceil(x.shape[0] / min(chunks, x.shape[0]))
        taps = weight.flatten(2).unflatten(0, (self.groups, -1)).permute(3, 0, 1, 2).contiguous()
        # Where the channels lie together, all positions of a chunk make one matrix; else there is one per item.
        self.merged = self.channel_last and self.groups == 1
        repeats = 1 if self.merged else self.chunk
        self.kernel = taps.unsqueeze(1).expand(-1, repeats, -1, -1, -1).flatten(1, 2).unbind()
        self.sum = probability.sum()
        self.one_each = self.plan.sharers == tuple((i,) for i in range(len(probability)))
        if self.one_each or not self.plan.sharers:
            shares = probability
        else:
            shares = torch.stack([probability[list(branches)].sum() for branches in self.plan.sharers])
        self.shares = shares.to(x.dtype)
        self.share = self.shares.unbind()

    def empty(self, batch: int, channel: int, size: Sequence[int], channel_last: bool) -> Tensor:
        """(batch, groups, channel, *size)."""
        if channel_last:
            return self.x.new_empty(batch, self.groups, *size, channel).movedim(-1, 2)
        return self.x.new_empty(batch, self.groups, channel, *size)

    def matrix(self, t: Tensor) -> Tensor:
        """View (batch, groups, channel, *size) as (matrices, channel, positions)."""
        if self.merged:
            return t.movedim(2, -1).view(1, -1, t.shape[2]).transpose(1, 2)
        return t.view(t.shape[0] * t.shape[1], t.shape[2], math.prod(t.shape[3:]))

    def arrange(self, part: Tensor) -> Tensor:
        """Part of x or of y's gradient, (chunk, channel, *size), as (chunk, groups, channel, *size) in our layout."""
        part = part.unflatten(1, (self.groups, -1))
        if not self.channel_last:
            return part.contiguous()
        if part.movedim(2, -1).is_contiguous():
            return part
        arranged = self.empty(part.shape[0], part.shape[2], part.shape[3:], True)
        _copy(part.contiguous().flatten(0, 1), arranged.flatten(0, 1))
        return arranged

    def mix(self, terms: Sequence[_Term], source: Tensor, mixed: Tensor) -> None:
        """mixed = sum over terms of share * shifted source."""
        fresh = True
        for sharers, read, write in terms:
            if fresh:
                for rim in write.outside:
                    mixed[rim].zero_()
                torch.mul(source[read.inside], self.share[sharers], out=mixed[write.inside])
                fresh = False
            else:
                mixed[write.inside].addcmul_(source[read.inside], self.share[sharers])

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        """Product over the positions of two matrices, summed over the batch: (groups, rows of a, rows of b)."""
        product = torch.bmm(a, b.transpose(1, 2))
        return product if len(product) == self.groups else product.view(-1, self.groups, *product.shape[1:]).sum(0)

    def flat(self, t: Tensor) -> Tensor:
        """View the elements of a buffer, or of several, in their order in memory: (..., elements)."""
        leading = t.dim() - len(self.size_in) - 3
        t = t.movedim(leading + 2, -1) if self.channel_last else t
        return t.flatten(leading)


def _wide_forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    work = _Work(x, weight, probability, geometry)
    y = work.empty(x.shape[0], work.channel_out, geometry.size_out, work.given_channel_last)
    start = x.new_zeros(()) if bias is None else bias.view(work.groups, -1, *[1] * len(geometry.kernel))
    mixed = work.empty(work.chunk, work.channel_in, geometry.size_out, work.channel_last)
    in_place = not work.merged or work.given_channel_last or work.chunk == 1
    for x_part, y_part in zip(work.x.split(work.chunk), y.split(work.chunk), strict=True):
        source, part = work.arrange(x_part), mixed[: len(x_part)]
        target = y_part if in_place else work.empty(len(x_part), work.channel_out, geometry.size_out, True)
        target.copy_(start)
        out, part_matrix = work.matrix(target), work.matrix(part)
        for tap, terms in work.plan.taps:
            kernel = work.kernel[tap][: len(out)]
            if terms is None:
                out.baddbmm_(kernel * work.sum, work.matrix(source))
            else:
                work.mix(terms, source, part)
                out.baddbmm_(kernel, part_matrix)
        if not in_place:
            _copy(target.flatten(0, 1), y_part.flatten(0, 1))
    return y.flatten(1, 2)


def _wide_backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    need_x, need_weight, _, need_probability = needed
    work = _Work(x, weight, probability, geometry)
    in_place = work.given_channel_last == work.channel_last
    grad_x = work.empty(x.shape[0], work.channel_in, geometry.size_in, work.given_channel_last) if need_x else None
    # Summed over chunks, and not to be rounded to low precision each time.
    precise = torch.promote_types(weight.dtype, torch.float32)
    shape = (len(work.kernel), work.groups, work.channel_out, work.channel_in)
    grad_kernel = weight.new_zeros(shape, dtype=precise)
    grad_taps = grad_kernel.unbind()
    grad_sum, grad_shares = probability.new_zeros(()), torch.zeros_like(work.shares, dtype=precise)
    mixed = work.empty(work.chunk, work.channel_in, geometry.size_out, work.channel_last)
    # z in the derivation, per set of branches with equal shifts.
    several = len(work.plan.sharers) * work.chunk
    gathered = work.empty(several, work.channel_in, geometry.size_in, work.channel_last).unflatten(0, (-1, work.chunk))
    for start in range(0, len(x), work.chunk):
        x_part, g_part = (t[start : start + work.chunk] for t in (work.x, g))
        source, g_matrix = work.arrange(x_part), work.matrix(work.arrange(g_part))
        part = mixed[: len(x_part)]
        part_matrix = work.matrix(part)
        grad_source = None
        if grad_x is not None:
            grad_part = grad_x[start : start + work.chunk]
            grad_source = grad_part if in_place else torch.empty_like(source)
            if not work.plan.taps or work.plan.taps[0][1] is not None:
                grad_source.zero_()
        totals, touched = gathered[:, : len(x_part)], set[int]()
        for tap, terms in work.plan.taps:
            kernel = work.kernel[tap][: len(g_matrix)]
            if terms is None:
                if need_weight or need_probability:
                    product = work.outer(g_matrix, work.matrix(source))
                    grad_taps[tap].add_(product * work.sum)
                    grad_sum += (product * kernel[: work.groups]).sum(dtype=probability.dtype)
                if grad_source is not None:
                    work.matrix(grad_source).baddbmm_(kernel.transpose(1, 2) * work.sum, g_matrix, beta=0)
                continue
            if need_weight:
                work.mix(terms, source, part)
                grad_taps[tap].add_(work.outer(g_matrix, part_matrix))
            if need_x or need_probability:
                part_matrix.baddbmm_(kernel.transpose(1, 2), g_matrix, beta=0)
                for sharers, read, write in terms:
                    if sharers in touched:
                        totals[sharers][read.inside].add_(part[write.inside])
                    else:
                        touched.add(sharers)
                        total = totals[sharers]
                        for rim in read.outside:
                            total[rim].zero_()
                        total[read.inside].copy_(part[write.inside])
        if touched and need_probability:
            flat_totals, flat_source = work.flat(totals), work.flat(source)
            if x.dtype == precise:
                grad_shares.addmv_(flat_totals, flat_source)
            else:
                grad_shares += (flat_totals * flat_source).sum(1, dtype=precise)
        if touched and grad_source is not None:
            work.flat(grad_source).addmv_(work.flat(totals).t(), work.shares)
        if grad_source is not None and not in_place:
            _copy(grad_source.flatten(0, 1), grad_part.flatten(0, 1))
    if work.one_each:
        grad_probability = grad_shares + grad_sum
    else:
        grad_probability = grad_sum.repeat(len(probability))
        for branches, grad in zip(work.plan.sharers, grad_shares, strict=False):
            grad_probability[list(branches)] += grad
    grad_weight = grad_kernel.permute(1, 2, 3, 0).reshape(weight.shape).to(weight.dtype)
    return None if grad_x is None else grad_x.flatten(1, 2), grad_weight, grad_probability.to(probability.dtype)


# Thin convs, the depthwise ones first of all: a tap's product has hardly any terms, so there is nothing to share. Here
# the branches are convolved one by one, but with scaled kernels, so that their outputs add up in place, and the
# gradient of a probability is read off that of the branch's kernel, dL/dp_i = <W, dL/d(p_i W)>. Depthwise convs of
# stride 1 get the gradient of the input by a conv with the mirrored kernel, several times faster than torch's own way.


def _direct(padding: Sequence[tuple[int, int]]) -> bool:
    """Whether the conv itself should do a zero padding."""
    return all(0 <= before == after <= _DIRECT_PADDING for before, after in padding)


def _for_onednn(x: Tensor) -> Tensor:
    """x in the layout in which oneDNN's depthwise kernels are fastest."""
    return _laid_out(x, True) if x.device.type == "cpu" and x.dim() > 3 else x


def _thin_forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    y: Tensor | None = None
    source = _for_onednn(x)
    for share, dilation, sides in zip(probability, geometry.dilations, geometry.padding, strict=True):
        padded, inner = (source, [b for b, _ in sides]) if _direct(sides) else (extend(source, sides, "zeros"), 0)
        rest = geometry.stride, inner, dilation, geometry.groups
        part = CONV[x.dim() - 2](padded, weight * share, bias if y is None else None, *rest)
        y = part if y is None else y.add_(part)
    assert y is not None
    return y


def _thin_backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    need_x, need_weight, _, need_probability = needed
    source, g_source = _for_onednn(x), _for_onednn(g)
    mirror = is_depthwise(weight, geometry.groups) and max(geometry.stride) == 1
    wanted = [need_x and not mirror, need_weight or need_probability, False]
    grad_x, grad_weight, grad_probability = None, torch.zeros_like(weight), torch.zeros_like(probability)
    for branch, (dilation, sides) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
        inner = [before if _direct(sides) else 0 for before, _ in sides]
        outer = [(before - i, after - i) for (before, after), i in zip(sides, inner, strict=True)]
        rest = inner, dilation, False, [0] * len(inner), geometry.groups, wanted
        if wanted[0] or wanted[1]:
            grad_padded, grad_kernel, _ = torch.ops.aten.convolution_backward(
                g_source, extend(source, outer, "zeros"), weight, None, geometry.stride, *rest
            )
        if wanted[1]:
            grad_weight += grad_kernel * probability[branch]
            grad_probability[branch] = (grad_kernel * weight).sum(dtype=probability.dtype)
        if wanted[0]:
            part = extend(grad_padded, [(-before, -after) for before, after in outer], "zeros") * probability[branch]
            grad_x = part if grad_x is None else grad_x.add_(part)
    if need_x and mirror:
        flipped = weight.flip(tuple(range(2, x.dim())))
        grad_x = _thin_forward(g_source, flipped, None, probability, _mirrored(geometry))
    return grad_x, grad_weight, grad_probability


def _mirrored(geometry: Geometry) -> Geometry:
    """Of the conv by which, at stride 1, the gradient of x follows from that of y."""
    padding = []
    for dilation, sides in zip(geometry.dilations, geometry.padding, strict=True):
        before = [d * (k - 1) - b for d, k, (b, _) in zip(dilation, geometry.kernel, sides, strict=True)]
        after = [n - m + b for n, m, (b, _) in zip(geometry.size_in, geometry.size_out, sides, strict=True)]
        padding.append(tuple(zip(before, after, strict=True)))
    return geometry._replace(padding=tuple(padding), size_in=geometry.size_out, size_out=geometry.size_in)
