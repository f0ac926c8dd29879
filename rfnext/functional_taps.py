"""The implementation `taps` of the searched convolution: mix the shifted inputs, then multiply once."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfnext.functional_convs import CONV, Geometry, by_branches, extend


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


def _make_plan(geometry: Geometry) -> _Plan:
    """All index arithmetic of `_Taps`, for zero padding. Taps that meet nothing but padding are left out."""
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


_cached_plan = functools.lru_cache(maxsize=1024)(_make_plan)

_CHUNK_BYTES = 2**19  # half of a common core's second-level cache


class _Work:
    """What the forward and the backward pass of `_Taps` have in common: plan, layout, weights, buffers.

    Buffers have the logical shape (chunk, groups, channel, *size). Convs over one axis keep its elements together in
    memory, like the input. Over more axes a shifted box has short rows, so there the channels lie together instead.
    """

    def __init__(self, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry) -> None:
        self.geometry, self.groups = geometry, geometry.groups
        compiling = torch.compiler.is_compiling()  # torch.compile warns about caches that it has to look through
        self.plan = _make_plan(geometry) if compiling else _cached_plan(geometry)
        given_channel_last = self.groups == 1 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()
        self.x = x if given_channel_last else x.contiguous()
        self.given_channel_last = given_channel_last
        self.channel_last = given_channel_last or x.dim() > 3
        self.channel_in, self.channel_out = weight.shape[1], weight.shape[0] // self.groups
        self.chunk = x.shape[0]
        if x.device.type == "cpu" and not compiling:
            item = x.shape[1] * max(math.prod(geometry.size_in), math.prod(geometry.size_out)) * x.element_size()
            chunks = math.ceil(x.shape[0] * item / (_CHUNK_BYTES * torch.get_num_threads()))
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
            if number > 0:
                box.addcmul_(shifted, self.share[branches])
                continue
            _zero_outside(mixed, write)
            if torch.compiler.is_compiling():
                box.copy_(shifted * self.share[branches])
            else:
                torch.mul(shifted, self.share[branches], out=box)

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


class _Taps(torch.autograd.Function):
    """Mix the shifted inputs of every tap, then multiply once; see the module's docstring.

    Works tap by tap on chunks of the batch that are small enough for the mixed input to stay in a core's cache, and
    keeps nothing but its arguments for the backward pass: mixing again costs less than a trip through memory.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, probability)
        ctx.geometry = geometry
        work = _Work(x, weight, probability, geometry)
        y = work.empty(x.shape[0], work.channel_out, geometry.size_out, work.given_channel_last)
        mixed = work.empty(work.chunk, work.channel_in, geometry.size_out, work.channel_last)
        for x_part, y_part in zip(work.x.split(work.chunk), y.split(work.chunk), strict=True):
            if bias is None:
                y_part.zero_()
            else:
                y_part.copy_((bias * work.sum).view(work.groups, -1, *[1] * len(geometry.kernel)))
            source, part, out = work.arrange(x_part), mixed[: len(x_part)], work.matrix(y_part)
            for tap, terms in work.plan:
                kernel = work.kernel[tap, : len(out)]
                if terms is None:
                    out.baddbmm_(kernel * work.sum, work.matrix(source))
                else:
                    work.mix(terms, source, part)
                    out.baddbmm_(kernel, work.matrix(part))
        return y.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _differentiable_backward(ctx, *grad_outputs)
        with torch.autocast(grad_outputs[0].device.type, enabled=False):
            return _taps_backward(*grad_outputs, *ctx.saved_tensors, ctx.geometry, ctx.needs_input_grad)


def _taps_backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    geometry: Geometry,
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    need_x, need_weight, need_bias, need_probability, _ = needed
    work = _Work(x, weight, probability, geometry)
    groups, channel_in, channel_out = work.groups, work.channel_in, work.channel_out
    in_place = work.given_channel_last == work.channel_last
    grad_x = work.empty(x.shape[0], channel_in, geometry.size_in, work.given_channel_last) if need_x else None
    grad_kernel = weight.new_zeros(math.prod(geometry.kernel), groups, channel_out, channel_in)
    grad_bias = g.new_zeros(groups, channel_out)
    grad_sum = probability.new_zeros(())
    grad_share = {branches: probability.new_zeros(()) for branches in work.share}
    mixed = work.empty(work.chunk, channel_in, geometry.size_out, work.channel_last)
    # z in the module's docstring, per set of branches with equal shifts.
    gathered = {b: work.empty(work.chunk, channel_in, geometry.size_in, work.channel_last) for b in work.share}
    grad_x_parts = [None] * len(work.x.split(work.chunk)) if grad_x is None else grad_x.split(work.chunk)
    for x_part, g_part, grad_part in zip(work.x.split(work.chunk), g.split(work.chunk), grad_x_parts, strict=True):
        source, part, g_matrix = work.arrange(x_part), mixed[: len(x_part)], work.matrix(work.arrange(g_part))
        part_matrix, source_matrix = work.matrix(part), work.matrix(source)
        grad_source = None
        if grad_part is not None:
            grad_source = grad_part.zero_() if in_place else torch.zeros_like(source)
        if bias is not None:
            grad_bias += g_matrix.sum(-1).view(-1, groups, channel_out).sum(0)
        touched: set[tuple[int, ...]] = set()
        for tap, terms in work.plan:
            kernel = work.kernel[tap, : len(g_matrix)]
            if terms is None:
                product = work.outer(g_matrix, source_matrix)
                grad_kernel[tap].addcmul_(product, work.sum)
                grad_sum = grad_sum + (product * kernel[:groups]).sum()
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
                grad_share[branches] = grad_share[branches] + work.inner(total, source)
            if grad_source is not None:
                grad_source.addcmul_(total, work.share[branches])
        if grad_part is not None and grad_source is not None and not in_place:
            work.transpose(grad_source, grad_part)
    if bias is not None:
        grad_sum = grad_sum + (grad_bias.flatten() * bias).sum()
    grad_probability = [
        sum((grad for branches, grad in grad_share.items() if i in branches), start=grad_sum)
        for i in range(len(probability))
    ]
    return (
        None if grad_x is None else grad_x.flatten(1, 2),
        grad_kernel.permute(1, 2, 3, 0).reshape(weight.shape) if need_weight else None,
        grad_bias.flatten() * work.sum if need_bias else None,
        torch.stack(grad_probability).to(probability.dtype) if need_probability else None,
        None,
    )


def _differentiable_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by the reference, whose operations can be differentiated again; for create_graph=True."""
    with torch.autocast(g.device.type, enabled=False):
        y = by_branches(*ctx.saved_tensors, ctx.geometry)
    needed = ctx.needs_input_grad[:4]
    inputs = [t for t, need in zip(ctx.saved_tensors, needed, strict=True) if need]
    found = iter(torch.autograd.grad(y, inputs, g, create_graph=True))
    return (*(next(found) if need else None for need in needed), None)


FEW_CHANNELS = 8
"""Channels per group below which a product per tap is too thin to be worth sharing."""

_DIRECT_PADDING = 6
"""Largest padding with which oneDNN's fast depthwise kernels cope (measured: 7 takes 2 to 6 times as long)."""


class _Summed(torch.autograd.Function):
    """Branch by branch, but lean: for convs with few channels per group, which have no product to share.

    Scales the kernel instead of the output, sums in place, keeps nothing but its arguments, and reads the gradient of
    a probability off that of the branch's kernel: dL/dp_i = <W, dL/dW_i> for W_i = p_i W. Depthwise convs of stride 1
    get the gradient of the input by a conv with the flipped kernel, which torch does several times faster than its
    own backward.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, probability)
        ctx.geometry = geometry
        bias = None if bias is None else bias * probability.sum()
        return _summed_convs(x, weight, bias, probability, geometry, geometry.padding)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _differentiable_backward(ctx, *grad_outputs)
        with torch.autocast(grad_outputs[0].device.type, enabled=False):
            return _summed_backward(*grad_outputs, *ctx.saved_tensors, ctx.geometry, ctx.needs_input_grad)


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


def _summed_convs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    geometry: Geometry,
    padding: Sequence[Sequence[tuple[int, int]]],
) -> Tensor:
    """sum_i conv(x, probability[i] * weight) + bias, stored in memory like x."""
    y: Tensor | None = None
    source = _channel_last(x)
    for share, dilation, sides in zip(probability, geometry.dilations, padding, strict=True):
        padded, inner = _padded(source, sides)
        kernel, b = weight * share, bias if y is None else None
        one = CONV[len(inner)](padded, kernel, b, geometry.stride, inner, dilation, geometry.groups)
        y = one if y is None else y.add_(one)
    assert y is not None
    return y.contiguous() if x.is_contiguous() else y


def _summed_backward(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    geometry: Geometry,
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    need_x, need_weight, need_bias, need_probability, _ = needed
    rank = len(geometry.kernel)
    axes = tuple(range(2, rank + 2))
    source, g_source = _channel_last(x), _channel_last(g)
    flip = weight.shape[1] == 1 and geometry.groups == weight.shape[0] and max(geometry.stride) == 1
    grad_x, grad_weight, grad_probability = None, torch.zeros_like(weight), torch.zeros_like(probability)
    for branch, (dilation, padding) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
        padded, inner = _padded(source, padding)
        wanted = [need_x and not flip, need_weight or need_probability, False]
        if not any(wanted):
            break
        grad_padded, grad_kernel, _ = torch.ops.aten.convolution_backward(
            g_source, padded, weight, None, geometry.stride, inner, dilation, False, [0] * rank, geometry.groups, wanted
        )
        if grad_kernel is not None:
            grad_weight.addcmul_(grad_kernel, probability[branch])
            grad_probability[branch] = (grad_kernel * weight).sum()
        if grad_padded is not None:
            cut = [(inner[a] - before, inner[a] - after) for a, (before, after) in enumerate(padding)]
            grad_one = extend(grad_padded, cut, "zeros") * probability[branch]
            grad_x = grad_one if grad_x is None else grad_x.add_(grad_one)
    if need_x and flip:
        mirrored = [
            [
                (reach - before, n - m + before)
                for (before, _), reach, n, m in zip(
                    padding,
                    [d * (k - 1) for d, k in zip(dilation, geometry.kernel, strict=True)],
                    geometry.size_in,
                    geometry.size_out,
                    strict=True,
                )
            ]
            for dilation, padding in zip(geometry.dilations, geometry.padding, strict=True)
        ]
        grad_x = _summed_convs(g, weight.flip(axes), None, probability, geometry, mirrored)
    grad_bias = g.sum((0, *axes)) if bias is not None else None
    if bias is not None and grad_bias is not None:
        grad_probability += (grad_bias * bias).sum()
        grad_bias = grad_bias * probability.sum()
    return (
        grad_x,
        grad_weight if need_weight else None,
        grad_bias if need_bias else None,
        grad_probability if need_probability else None,
        None,
    )


def by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    if x.shape[0] == 0:
        return by_branches(x, weight, bias, probability, geometry)
    if geometry.padding_mode != "zeros":
        x, geometry = _extended(x, geometry)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    few = min(weight.shape[1], weight.shape[0] // geometry.groups) < FEW_CHANNELS
    return (_Summed if few else _Taps).apply(x, weight, bias, probability, geometry)


def _extended(x: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """Carry out a padding other than zeros once for all branches, which then crop what they do not read."""
    before = [max(p[a][0] for p in geometry.padding) for a in range(len(geometry.kernel))]
    after = [
        max(
            (n_out - 1) * stride + d[a] * (k - 1) - p[a][0] + 1 - n
            for d, p in zip(geometry.dilations, geometry.padding, strict=True)
        )
        for a, (n, n_out, stride, k) in enumerate(
            zip(geometry.size_in, geometry.size_out, geometry.stride, geometry.kernel, strict=True)
        )
    ]
    x = extend(x, list(zip(before, after, strict=True)), geometry.padding_mode)
    return x, geometry._replace(
        padding_mode="zeros",
        size_in=tuple(x.shape[2:]),
        padding=tuple(
            tuple((p_before - b, p_after - a) for (p_before, p_after), b, a in zip(p, before, after, strict=True))
            for p in geometry.padding
        ),
    )
