"""The implementation `taps` of the searched convolution: mix the shifted inputs, then multiply once.

The identity behind it is derived in `rfnext.functional`. Here is how it is carried out: tap by tap, on chunks of the
batch that are small enough for the mixed input to stay in a core's cache. Only the arguments are kept for the
backward pass, which mixes again: that costs less than a trip of the mixed input through memory, so nothing is gained by
saving it.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfnext.functional_convs import CONV, Geometry, by_branches, crop_extended, extend, size_out

FEW_CHANNELS = 8
"""Channels per group below which the product of a tap is too thin to be worth sharing."""

_CHUNK_BYTES = 2**19  # per thread: half of a common core's second-level cache
_DEVICE_CHUNK_BYTES = 2**26  # elsewhere: enough to keep a device busy

_DIRECT_PADDING = 6  # the largest with which oneDNN's fast depthwise kernels cope; 7 takes 2 to 6 times as long

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out), stored in memory like x."""
    if x.shape[0] == 0:
        return by_branches(x, weight, bias, probability, geometry)
    if geometry.padding_mode != "zeros":
        x, geometry = crop_extended(x, geometry)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if torch.compiler.is_compiling():
        return _taps_op(x, weight, bias, probability, *_as_lists(geometry))
    return _Taps.apply(x, weight, bias, probability, geometry)


class _Taps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, probability)
        ctx.geometry = geometry
        return _forward(x, weight, bias, probability, geometry)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,), needed = grad_outputs, ctx.needs_input_grad[:4]
        x, weight, bias, probability = ctx.saved_tensors
        with torch.autocast(g.device.type, enabled=False):
            if not torch.is_grad_enabled():
                return (*_backward(g, x, weight, bias, probability, ctx.geometry, needed), None)
            # create_graph=True: by operations that can be differentiated once more.
            y = by_branches(x, weight, bias, probability, ctx.geometry)
        inputs = [t for t, need in zip((x, weight, bias, probability), needed, strict=True) if need]
        found = iter(torch.autograd.grad(y, inputs, g, create_graph=True))
        return (*(next(found) if need else None for need in needed), None)


# torch.compile gets the same two functions as operators that it does not look into: unrolled over taps, branches and
# chunks they would take it minutes per layer, and again in every round of a search.

_ARGUMENTS = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor probability, "
    "SymInt[] dilations, SymInt[] padding, SymInt[] stride, SymInt groups"
)


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


@torch.library.custom_op("rfnext::taps", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _taps_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    groups: int,
) -> Tensor:
    return _forward(x, weight, bias, probability, _from_lists(x, weight, dilations, padding, stride, groups))


@_taps_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    groups: int,
) -> Tensor:
    geometry = _from_lists(x, weight, dilations, padding, stride, groups)
    return _empty(x, (x.shape[0], weight.shape[0], *geometry.size_out), _channels_are_last(x))


@torch.library.custom_op(
    "rfnext::taps_backward",
    mutates_args=(),
    schema=f"(Tensor g, {_ARGUMENTS}, bool[] needed) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _taps_backward_op(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> tuple[Tensor, ...]:
    geometry = _from_lists(x, weight, dilations, padding, stride, groups)
    grads = _backward(g, x, weight, bias, probability, geometry, needed)
    return tuple(x.new_empty(0) if grad is None else grad for grad in grads)


@_taps_backward_op.register_fake
def _(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> tuple[Tensor, ...]:
    grads = (
        _empty(x, x.shape, _channels_are_last(x)),
        weight.new_empty(weight.shape),
        None if bias is None else bias.new_empty(bias.shape),
        probability.new_empty(probability.shape),
    )
    return tuple(
        grad if need and grad is not None else x.new_empty(0) for grad, need in zip(grads, needed, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.lists = inputs[4:]


def _op_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:4]
    grads = _taps_backward_op(g, *ctx.saved_tensors, *ctx.lists, needed)
    return (*(grad if need else None for grad, need in zip(grads, needed, strict=True)), None, None, None, None)


_taps_op.register_autograd(_op_backward, setup_context=_setup_context)


def _channels_are_last(x: Tensor) -> bool:
    """Whether x (batch, channel, *size) lies in memory as torch.channels_last and its like for other ranks do."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def _empty(like: Tensor, shape: Sequence[int], channel_last: bool) -> Tensor:
    if channel_last:
        return like.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return like.new_empty(shape)


def _stored_like(y: Tensor, x: Tensor) -> Tensor:
    """y (batch, channel, *size) with its channels where x has them."""
    return y.movedim(1, -1).contiguous().movedim(-1, 1) if _channels_are_last(x) else y.contiguous()


def _is_thin(weight: Tensor, groups: int) -> bool:
    return min(weight.shape[1], weight.shape[0] // groups) < FEW_CHANNELS


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    bias = None if bias is None else bias * probability.sum()
    run = _thin_forward if _is_thin(weight, geometry.groups) else _wide_forward
    return _stored_like(run(x, weight, bias, probability, geometry), x)


def _backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    geometry: Geometry,
    needed: Sequence[bool],
) -> _Gradients:
    """Gradients of x, weight, bias and probability for the gradient g of y, each None unless needed."""
    run = _thin_backward if _is_thin(weight, geometry.groups) else _wide_backward
    grad_x, grad_weight, grad_probability = run(g, x, weight, probability, geometry, needed)
    _, need_weight, need_bias, need_probability = needed
    grad_bias = None
    if bias is not None and (need_bias or need_probability):
        grad_bias = g.sum((0, *range(2, g.dim())))
        grad_probability += (grad_bias * bias).sum(dtype=probability.dtype)
        grad_bias *= probability.sum()
    return (
        None if grad_x is None else _stored_like(grad_x, x),
        grad_weight.contiguous() if need_weight else None,
        grad_bias if need_bias else None,
        grad_probability if need_probability else None,
    )


# Wide convs: one product per tap.


class _Term(NamedTuple):
    """One shift of the input that a tap reads, and the branches that share it.

    read, write: boxes of the input and of the tap's mixed input, one slice per spatial axis.
    """

    branches: tuple[int, ...]
    read: tuple[slice, ...]
    write: tuple[slice, ...]


_Plan = tuple[tuple[int, tuple[_Term, ...] | None], ...]
"""Per tap its index in the flattened kernel and its terms. None: every branch reads the input as it is, the centre."""


def _span(shift: int, stride: int, size_in: int, size_out: int) -> tuple[slice, slice] | None:
    """What a tap reads along one axis and which outputs that serves; None if it meets nothing but padding."""
    first = max(0, -(shift // stride))
    last = min(size_out - 1, (size_in - 1 - shift) // stride)
    if last < first:
        return None
    return slice(first * stride + shift, last * stride + shift + 1, stride), slice(first, last + 1, 1)


@functools.lru_cache(maxsize=1024)
def _plan(geometry: Geometry) -> _Plan:
    """All index arithmetic, for zero padding. Taps that meet nothing but padding are left out."""
    taps: list[tuple[int, tuple[_Term, ...] | None]] = []
    for index, tap in enumerate(itertools.product(*map(range, geometry.kernel))):
        readers: dict[tuple[int, ...], list[int]] = {}
        for branch, (dilation, padding) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
            shift = tuple(k * d - before for k, d, (before, _) in zip(tap, dilation, padding, strict=True))
            readers.setdefault(shift, []).append(branch)
        if len(readers) == 1 and not any(next(iter(readers))) and geometry.size_in == geometry.size_out:
            taps.append((index, None))
            continue
        terms = []
        for shift, branches in readers.items():
            axes = zip(shift, geometry.stride, geometry.size_in, geometry.size_out, strict=True)
            spans = [_span(*axis) for axis in axes]
            if None not in spans:
                read, write = zip(*spans, strict=True)
                terms.append(_Term(tuple(branches), read, write))
        if terms:
            taps.append((index, tuple(terms)))
    return tuple(taps)


class _Work:
    """What both passes have in common: plan, layout, weights, buffers.

    Buffers have the logical shape (chunk, groups, channel, *size). Convs over one axis keep its elements together in
    memory, like the input. Over more axes a shifted box has short rows, so there the channels lie together instead.
    """

    def __init__(self, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry) -> None:
        self.plan, self.groups = _plan(geometry), geometry.groups
        # With groups, channels that lie together do not split into matrices.
        self.given_channel_last = self.groups == 1 and _channels_are_last(x)
        self.channel_last = self.given_channel_last or x.dim() > 3
        self.x = x if self.given_channel_last else x.contiguous()
        self.channel_in, self.channel_out = weight.shape[1], weight.shape[0] // self.groups
        item = x.shape[1] * max(math.prod(geometry.size_in), math.prod(geometry.size_out)) * x.element_size()
        limit = _CHUNK_BYTES * torch.get_num_threads() if x.device.type == "cpu" else _DEVICE_CHUNK_BYTES
        chunks = math.ceil(x.shape[0] * item / limit)
        self.chunk = math.ceil(x.shape[0] / min(chunks, x.shape[0]))
        taps = weight.flatten(2).unflatten(0, (self.groups, -1)).permute(3, 0, 1, 2).contiguous()
        self.kernel = taps.unsqueeze(1).expand(-1, self.chunk, -1, -1, -1).flatten(1, 2)
        each = probability.unbind()
        sets = {term.branches for _, terms in self.plan if terms is not None for term in terms}
        self.share = {
            branches: each[branches[0]] if len(branches) == 1 else torch.stack([each[i] for i in branches]).sum()
            for branches in sets
        }
        self.sum = probability.sum()

    def empty(self, batch: int, channel: int, size: Sequence[int], channel_last: bool) -> Tensor:
        """(batch, groups, channel, *size)."""
        if channel_last:
            return self.x.new_empty(batch, self.groups, *size, channel).movedim(-1, 2)
        return self.x.new_empty(batch, self.groups, channel, *size)

    def matrix(self, t: Tensor) -> Tensor:
        """View (batch, groups, channel, *size) as (batch * groups, channel, positions)."""
        return t.view(t.shape[0] * t.shape[1], t.shape[2], math.prod(t.shape[3:]))

    def arrange(self, part: Tensor) -> Tensor:
        """Part of x or of y's gradient, (chunk, channel, *size), as (chunk, groups, channel, *size) in our layout."""
        part = part.unflatten(1, (self.groups, -1))
        if not self.channel_last:
            return part.contiguous()
        if part.movedim(2, -1).is_contiguous():
            return part
        arranged = self.empty(part.shape[0], part.shape[2], part.shape[3:], True)
        self.transpose(part.contiguous(), arranged)
        return arranged

    def transpose(self, source: Tensor, target: Tensor) -> None:
        """Copy between layouts, one matrix at a time: torch has a fast way for two axes only."""
        for s, t in zip(self.matrix(source), self.matrix(target), strict=True):
            if t.is_contiguous():
                t.copy_(s)
            else:
                t.t().copy_(s.t())

    def mix(self, terms: Sequence[_Term], source: Tensor, mixed: Tensor) -> None:
        """mixed = sum over terms of share * shifted source."""
        for number, (branches, read, write) in enumerate(terms):
            shifted, box = source[(..., *read)], mixed[(..., *write)]
            if number == 0:
                _zero_outside(mixed, write)
                torch.mul(shifted, self.share[branches], out=box)
            else:
                box.addcmul_(shifted, self.share[branches])

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        """Product over the positions of two matrices, summed over the batch: (groups, rows of a, rows of b)."""
        product = torch.bmm(a, b.transpose(1, 2))
        return product if len(product) == self.groups else product.view(-1, self.groups, *product.shape[1:]).sum(0)

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner product of two buffers, accumulated in float32 at least."""
        if self.channel_last:
            a, b = a.movedim(2, -1), b.movedim(2, -1)
        if a.dtype in (torch.float32, torch.float64):
            return torch.dot(a.view(-1), b.view(-1))
        return (a * b).sum(dtype=torch.float32)


def _zero_outside(x: Tensor, box: Sequence[slice]) -> None:
    """Zero x outside a box of its last axes."""
    if any(span.step > 1 for span in box):
        x.zero_()
        return
    for axis, span in enumerate(box, start=x.dim() - len(box)):
        if span.start > 0:
            x.narrow(axis, 0, span.start).zero_()
        if span.stop < x.shape[axis]:
            x.narrow(axis, span.stop, x.shape[axis] - span.stop).zero_()


def _wide_forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    work = _Work(x, weight, probability, geometry)
    y = work.empty(x.shape[0], work.channel_out, geometry.size_out, work.given_channel_last)
    mixed = work.empty(work.chunk, work.channel_in, geometry.size_out, work.channel_last)
    for x_part, y_part in zip(work.x.split(work.chunk), y.split(work.chunk), strict=True):
        if bias is None:
            y_part.zero_()
        else:
            y_part.copy_(bias.view(work.groups, -1, *[1] * len(geometry.kernel)))
        source, part, out = work.arrange(x_part), mixed[: len(x_part)], work.matrix(y_part)
        for tap, terms in work.plan:
            kernel = work.kernel[tap, : len(out)]
            if terms is None:
                out.baddbmm_(kernel * work.sum, work.matrix(source))
            else:
                work.mix(terms, source, part)
                out.baddbmm_(kernel, work.matrix(part))
    return y.flatten(1, 2)


def _wide_backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    need_x, need_weight, _, need_probability = needed
    work = _Work(x, weight, probability, geometry)
    in_place = work.given_channel_last == work.channel_last
    grad_x = work.empty(x.shape[0], work.channel_in, geometry.size_in, work.given_channel_last) if need_x else None
    # Summed over chunks, and not to be rounded to low precision each time.
    grad_kernel = torch.zeros_like(
        work.kernel[:, : work.groups], dtype=torch.promote_types(weight.dtype, torch.float32)
    )
    grad_sum, grad_share = probability.new_zeros(()), {b: probability.new_zeros(()) for b in work.share}
    mixed = work.empty(work.chunk, work.channel_in, geometry.size_out, work.channel_last)
    # z in the derivation, per set of branches with equal shifts.
    gathered = {b: work.empty(work.chunk, work.channel_in, geometry.size_in, work.channel_last) for b in work.share}
    for start in range(0, len(x), work.chunk):
        x_part, g_part = (t[start : start + work.chunk] for t in (work.x, g))
        source, part, g_matrix = work.arrange(x_part), mixed[: len(x_part)], work.matrix(work.arrange(g_part))
        part_matrix, source_matrix = work.matrix(part), work.matrix(source)
        grad_source = None
        if grad_x is not None:
            grad_part = grad_x[start : start + work.chunk]
            grad_source = grad_part.zero_() if in_place else torch.zeros_like(source)
        touched: set[tuple[int, ...]] = set()
        for tap, terms in work.plan:
            kernel = work.kernel[tap, : len(g_matrix)]
            if terms is None:
                if need_weight or need_probability:
                    product = work.outer(g_matrix, source_matrix)
                    grad_kernel[tap] += product * work.sum
                    grad_sum += (product * kernel[: work.groups]).sum(dtype=probability.dtype)
                if grad_source is not None:
                    work.matrix(grad_source).baddbmm_(kernel.transpose(1, 2) * work.sum, g_matrix)
                continue
            if need_weight:
                work.mix(terms, source, part)
                grad_kernel[tap] += work.outer(g_matrix, part_matrix)
            if need_x or need_probability:
                part_matrix.baddbmm_(kernel.transpose(1, 2), g_matrix, beta=0)
                for branches, read, write in terms:
                    shifted, box = gathered[branches][: len(x_part)][(..., *read)], part[(..., *write)]
                    if branches in touched:
                        shifted += box
                    else:
                        touched.add(branches)
                        _zero_outside(gathered[branches], read)
                        shifted.copy_(box)
        for branches in touched:
            total = gathered[branches][: len(x_part)]
            if need_probability:
                grad_share[branches] += work.inner(total, source)
            if grad_source is not None:
                grad_source.addcmul_(total, work.share[branches])
        if grad_source is not None and not in_place:
            work.transpose(grad_source, grad_part)
    grad_probability = [
        sum((grad for branches, grad in grad_share.items() if i in branches), start=grad_sum)
        for i in range(len(probability))
    ]
    grad_weight = grad_kernel.permute(1, 2, 3, 0).reshape(weight.shape).to(weight.dtype)
    return None if grad_x is None else grad_x.flatten(1, 2), grad_weight, torch.stack(grad_probability)


# Thin convs, the depthwise ones first of all: a tap's product has hardly any terms, so there is nothing to share. Here
# the branches are convolved one by one, but with scaled kernels, so that their outputs add up in place, and the
# gradient of a probability is read off that of the branch's kernel, dL/dp_i = <W, dL/d(p_i W)>. Depthwise convs of
# stride 1 get the gradient of the input by a conv with the mirrored kernel, several times faster than torch's own way.


def _channel_last(x: Tensor) -> Tensor:
    """x in the layout in which oneDNN's depthwise kernels are fastest."""
    if x.device.type != "cpu" or x.dim() == 3:
        return x
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def _padded(x: Tensor, padding: Sequence[tuple[int, int]]) -> tuple[Tensor, list[int]]:
    """x with as much of a zero padding as the conv itself should not do, and the padding that is left for it."""
    if all(0 <= before == after <= _DIRECT_PADDING for before, after in padding):
        return x, [before for before, _ in padding]
    return extend(x, padding, "zeros"), [0] * len(padding)


def _thin_forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    y: Tensor | None = None
    source = _channel_last(x)
    for share, dilation, sides in zip(probability, geometry.dilations, geometry.padding, strict=True):
        padded, inner = _padded(source, sides)
        conv = CONV[len(inner)]
        if y is None:
            y = conv(padded, weight * share, bias, geometry.stride, inner, dilation, geometry.groups)
        else:
            y += conv(padded, weight * share, None, geometry.stride, inner, dilation, geometry.groups)
    assert y is not None
    return y


def _thin_backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    need_x, need_weight, _, need_probability = needed
    source, g_source = _channel_last(x), _channel_last(g)
    mirror = weight.shape[1] == 1 and geometry.groups == weight.shape[0] and max(geometry.stride) == 1
    wanted = [need_x and not mirror, need_weight or need_probability, False]
    grad_x, grad_weight, grad_probability = None, torch.zeros_like(weight), torch.zeros_like(probability)
    for branch, (dilation, padding) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
        padded, inner = _padded(source, padding)
        rest = inner, dilation, False, [0] * len(inner), geometry.groups, wanted
        if wanted[0] or wanted[1]:
            grad_padded, grad_kernel, _ = torch.ops.aten.convolution_backward(
                g_source, padded, weight, None, geometry.stride, *rest
            )
        if wanted[1]:
            grad_weight += grad_kernel * probability[branch]
            grad_probability[branch] = (grad_kernel * weight).sum(dtype=probability.dtype)
        if wanted[0]:
            cut = [(own - before, own - after) for own, (before, after) in zip(inner, padding, strict=True)]
            part = extend(grad_padded, cut, "zeros") * probability[branch]
            grad_x = part if grad_x is None else grad_x.add_(part)
    if need_x and mirror:
        grad_x = _thin_forward(g, weight.flip(tuple(range(2, x.dim()))), None, probability, _mirrored(geometry))
    return grad_x, grad_weight, grad_probability


def _mirrored(geometry: Geometry) -> Geometry:
    """Of the conv by which, at stride 1, the gradient of x follows from that of y."""
    padding = []
    for dilation, sides in zip(geometry.dilations, geometry.padding, strict=True):
        before = [d * (k - 1) - b for d, k, (b, _) in zip(dilation, geometry.kernel, sides, strict=True)]
        after = [n - m + b for n, m, (b, _) in zip(geometry.size_in, geometry.size_out, sides, strict=True)]
        padding.append(tuple(zip(before, after, strict=True)))
    return geometry._replace(padding=tuple(padding), size_in=geometry.size_out, size_out=geometry.size_in)
