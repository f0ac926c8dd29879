"""The implementation `taps` of the operator: mix the shifted inputs, then multiply once.

The identity behind it is derived in `rfnext.ops`. It is carried out tap by tap, on chunks of the batch that are small
enough for the mixed input to stay in a core's cache. Only the arguments are kept for the backward pass, which mixes
again: mixing costs less than writing the mixed input to memory and reading it back.

Thin convs, whose products have too few terms for this, go to `rfnext.ops.depthwise`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfnext.ops.autograd import as_operator, with_bias
from rfnext.ops.branches import by_branches
from rfnext.ops.depthwise import thin_backward, thin_forward
from rfnext.ops.geometry import Geometry, is_thin, shifts_of_taps, span
from rfnext.ops.layout import channels_are_last, copy

CHUNK_BYTES = 2**20
"""Size of a chunk on a CPU, per thread: about a core's second-level cache."""

_DEVICE_CHUNK_BYTES = 2**26  # elsewhere: enough to keep a device busy


def by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out), stored in memory like x."""
    run = by_branches if x.shape[0] == 0 else operator
    return run(x, weight, bias, probability, geometry)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    run = thin_forward if is_thin(weight, geometry.groups) else _wide_forward
    return run(x, weight, bias, probability, geometry)


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    run = thin_backward if is_thin(weight, geometry.groups) else _wide_backward
    return run(g, x, weight, probability, geometry, needed)


operator = as_operator("taps", with_bias(_forward, _backward))


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
    """All index arithmetic, for zero padding. Taps that read nothing but padding are left out.

    sharers: the sets of branches that share a shift, mostly one branch each. taps: index in the flattened kernel, and
    terms; None for terms: every branch reads the input as it is, the centre, which comes first.
    """

    sharers: tuple[tuple[int, ...], ...]
    taps: tuple[tuple[int, tuple[_Term, ...] | None], ...]


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
            spans = [found for found in (span(*axis) for axis in axes) if found]
            if len(spans) == len(shift):
                read, write = zip(*spans, strict=True)
                number = sharers.setdefault(branches, len(sharers))
                terms.append(_Term(number, _box(read, geometry.size_in), _box(write, geometry.size_out)))
        if terms:
            taps.append((index, tuple(terms)))
    return _Plan(tuple(sharers), (*centre, *taps))


def _box(spans: Sequence[slice], size: Sequence[int]) -> _Box:
    outside: list[tuple[Any, ...]] = []
    for axis, (part, n) in enumerate(zip(spans, size, strict=True)):
        rest = [slice(None)] * (len(size) - axis - 1)
        outside += [(..., slice(0, part.start), *rest)] if part.start > 0 else []
        outside += [(..., slice(part.stop, n), *rest)] if part.stop < n else []
    strided = any(part.step > 1 for part in spans)
    return _Box((..., *spans), ((...,),) if strided else tuple(outside))


class _Work:
    """What both passes need: plan, layout, weights, buffers.

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
        limit = CHUNK_BYTES * torch.get_num_threads() if x.device.type == "cpu" else _DEVICE_CHUNK_BYTES
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
        copy(part.contiguous().flatten(0, 1), arranged.flatten(0, 1))
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
            copy(target.flatten(0, 1), y_part.flatten(0, 1))
    return y.flatten(1, 2)


def _wide_backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    work = _Work(x, weight, probability, geometry)
    gradients = _Gradients(work, weight, probability, geometry, needed)
    grad_x = None
    if needed[0]:
        grad_x = work.empty(x.shape[0], work.channel_in, geometry.size_in, work.given_channel_last)
    for start in range(0, len(x), work.chunk):
        chunk = slice(start, start + work.chunk)
        gradients.add(work.x[chunk], g[chunk], None if grad_x is None else grad_x[chunk])
    return None if grad_x is None else grad_x.flatten(1, 2), gradients.of_weight(), gradients.of_probability()


class _Gradients:
    """The backward pass: gradients that are summed over the chunks, and the buffers that each chunk reuses.

    `gathered` holds z of the derivation in `rfnext.ops`, one for each set of branches that share shifts.
    """

    def __init__(
        self, work: _Work, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
    ) -> None:
        self.work, self.weight, self.probability = work, weight, probability
        self.need_x, self.need_weight, _, self.need_probability = needed
        # Summed over chunks, and not to be rounded to low precision each time.
        self.precise = torch.promote_types(weight.dtype, torch.float32)
        shape = (len(work.kernel), work.groups, work.channel_out, work.channel_in)
        self.kernel = weight.new_zeros(shape, dtype=self.precise)
        self.taps = self.kernel.unbind()
        self.sum, self.shares = probability.new_zeros(()), torch.zeros_like(work.shares, dtype=self.precise)
        self.mixed = work.empty(work.chunk, work.channel_in, geometry.size_out, work.channel_last)
        several = len(work.plan.sharers) * work.chunk
        gathered = work.empty(several, work.channel_in, geometry.size_in, work.channel_last)
        self.gathered = gathered.unflatten(0, (-1, work.chunk))

    def add(self, x: Tensor, g: Tensor, grad_x: Tensor | None) -> None:
        """Add the gradients of a chunk, and write that of x into `grad_x` if it is needed."""
        work = self.work
        source, g_matrix = work.arrange(x), work.matrix(work.arrange(g))
        part, totals, touched = self.mixed[: len(x)], self.gathered[:, : len(x)], set[int]()
        part_matrix = work.matrix(part)
        in_place = work.given_channel_last == work.channel_last
        grad_source = grad_x if in_place or grad_x is None else torch.empty_like(source)
        if grad_source is not None and not (work.plan.taps and work.plan.taps[0][1] is None):
            grad_source.zero_()  # no centre tap will fill it
        for tap, terms in work.plan.taps:
            if terms is None:
                self._add_centre(tap, source, g_matrix, grad_source)
                continue
            if self.need_weight:
                work.mix(terms, source, part)
                self.taps[tap].add_(work.outer(g_matrix, part_matrix))
            if self.need_x or self.need_probability:
                kernel = work.kernel[tap][: len(g_matrix)]
                part_matrix.baddbmm_(kernel.transpose(1, 2), g_matrix, beta=0)
                _gather(terms, part, totals, touched)
        if touched:
            self._add_gathered(totals, source, grad_source)
        if grad_source is not grad_x and grad_source is not None and grad_x is not None:
            copy(grad_source.flatten(0, 1), grad_x.flatten(0, 1))

    def _add_centre(self, tap: int, source: Tensor, g_matrix: Tensor, grad_source: Tensor | None) -> None:
        """Of the tap that all branches read in the same place, which comes first: it sets `grad_source`."""
        work, kernel = self.work, self.work.kernel[tap][: len(g_matrix)]
        if self.need_weight or self.need_probability:
            product = work.outer(g_matrix, work.matrix(source))
            self.taps[tap].add_(product * work.sum)
            self.sum += (product * kernel[: work.groups]).sum(dtype=self.probability.dtype)
        if grad_source is not None:
            work.matrix(grad_source).baddbmm_(kernel.transpose(1, 2) * work.sum, g_matrix, beta=0)

    def _add_gathered(self, totals: Tensor, source: Tensor, grad_source: Tensor | None) -> None:
        work = self.work
        flat_totals = work.flat(totals)
        if self.need_probability:
            flat_source = work.flat(source)
            if source.dtype == self.precise:
                self.shares.addmv_(flat_totals, flat_source)
            else:
                self.shares += (flat_totals * flat_source).sum(1, dtype=self.precise)
        if grad_source is not None:
            work.flat(grad_source).addmv_(flat_totals.t(), work.shares)

    def of_weight(self) -> Tensor:
        """(channel_out, channel_in / groups, *kernel)."""
        return self.kernel.permute(1, 2, 3, 0).reshape(self.weight.shape).to(self.weight.dtype)

    def of_probability(self) -> Tensor:
        """(branches,)."""
        if self.work.one_each:
            found = self.shares + self.sum
        else:
            found = self.sum.repeat(len(self.probability))
            for branches, grad in zip(self.work.plan.sharers, self.shares, strict=False):
                found[list(branches)] += grad
        return found.to(self.probability.dtype)


def _gather(terms: Sequence[_Term], part: Tensor, totals: Tensor, touched: set[int]) -> None:
    """Add W^T g of a tap, shifted back, to the total of each of its terms; `touched` are those that are not empty."""
    for sharers, read, write in terms:
        total = totals[sharers]
        if sharers in touched:
            total[read.inside].add_(part[write.inside])
            continue
        touched.add(sharers)
        for rim in read.outside:
            total[rim].zero_()
        total[read.inside].copy_(part[write.inside])
