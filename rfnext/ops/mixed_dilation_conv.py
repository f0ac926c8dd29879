"""The operator of a searched convolution: one kernel at several dilations, summed with probabilities.

All branches share one kernel, so by linearity the sum over branches moves inside the sum over taps:

    y = sum_i p_i conv(x, W, d_i) = sum_i p_i sum_k W_k shift(x, k d_i) = sum_k W_k (sum_i p_i shift(x, k d_i))

with k over the kernel's taps, W_k the (channel_out, channel_in) matrix of one tap, and shift(x, s) the padded input
moved by s. The inner sum m_k mixes shifted inputs, which takes b multiply-adds per element for b branches; the product
W_k m_k takes channel_out of them, once, where branch by branch takes b times that. The gradients follow suit:

    dL/dW_k = g m_k^T                                       one product
    u_k = W_k^T g                                           one product
    dL/dx   = sum_i p_i z_i, z_i = sum_k shift(u_k, -k d_i)  shifted sums of u
    dL/dp_i = <z_i, x>                                       and the same z again
    dL/db   = (sum_i p_i) sum g

So searching costs three products, as a plain conv's step does, plus memory traffic: 3 b k passes over an array of the
input's size (mixing it forward, mixing it anew backward, gathering the z_i), which stay in the cache if done piece by
piece, and 2 b more for the sums over the z_i. The centre tap of a size-keeping conv needs none. What must be kept for
the backward pass is x alone; branch by branch keeps an output per branch.

A pass takes 2 operations per element and a product 2 channel_out of them, so the passes' share falls with the number of
channels and is the same for every batch and length. What an implementation makes of that depends on where the mixed
input lives. An example, 8 x 64 x 2000 frames, k 3, 3 branches, on one thread of an AMD EPYC, where oneDNN's plain conv
takes 18 to 22 ms:

- `taps` calls torch tap by tap, on chunks of the batch that stay in a core's cache. 9 products (3 per tap) take 14.2 ms
  at 83 GFLOP/s, 24 passes 4.8 ms at 60 GB/s from the cache, and some 500 calls the rest of 20.9 ms. More threads share
  out products and passes, but not the calls: on two, 1.2 to 1.4 times the plain conv.
- `native` mixes a tile of some hundred positions right before it multiplies it, in C: 18 ms, of which the products take
  two thirds, on two threads 0.7 to 0.9 times the plain conv. Fewer trips to memory than the plain conv, whose time is
  far from what its products take, pay for the passes.

`python -m benchmarks.speed` measures every layer, and puts the floor of `taps` beside it.

Where W_k has hardly any columns, as in depthwise convs, there is nothing to share: `rfnext.ops.taps` convolves
those with one scaled kernel after the other, `rfnext.ops.native` sums up all taps of all branches in registers.
"""

import contextlib
import logging
import math
import os
import statistics
import time
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from rfnext.ops.geometry import CONV, Geometry, by_branches, by_dense, dense_grid, merge_equal, remembered, size_out
from rfnext.ops.native import by_native
from rfnext.ops.native import is_for as native_is_for
from rfnext.ops.taps import by_taps, is_thin

Padding = Sequence[Sequence[int | tuple[int, int]]]
"""Per branch and per axis: a symmetric int or (before, after). Negative numbers crop."""

Implementation = Literal["auto", "branches", "taps", "dense", "native", "triton"]

logger = logging.getLogger(__name__)

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def mixed_dilation_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[Sequence[int]],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding | None = None,
    groups: int = 1,
    padding_mode: str = "zeros",
    implementation: str = "auto",
) -> Tensor:
    """Weighted sum over branches of one convolution evaluated at several dilations.

    Computes sum_i probability[i] * conv(pad(x, padding[i]), weight, bias, dilation=dilations[i]); the bias
    therefore counts probability.sum() times.

    Args:
        x: (batch, channel_in, *size_in) or (channel_in, *size_in), with one to three spatial axes.
        weight: (channel_out, channel_in // groups, *kernel).
        bias: (channel_out,) or None.
        probability: (branches,), the share of each branch; need not sum to one.
        dilations: one tuple per branch with one positive integer per spatial axis.
        stride: one integer for all axes or one per axis.
        padding: per branch and axis, a symmetric int or (before, after), negative to crop. None keeps the size
            (at stride 1): dilation * (kernel - 1) / 2 on both sides.
        groups: as in `torch.nn.Conv2d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `torch.nn.Conv2d`; paddings as large
            as the input or larger continue the reflection or the wrap (`numpy.pad`) where torch would refuse.
        implementation: how, not what; every choice returns the same values up to rounding.
            "branches": one conv per branch, the reference.
            "taps": mixes the shifted inputs, then multiplies once; keeps only x for the backward pass.
            "dense": folds the branches into one larger kernel; good where the dilations have a coarse common grid.
            "native": as "taps", by kernels for CPUs that mix and multiply in the cache, in float32 and float64;
                compiled once per machine, see `rfnext.ops.native_build`. Needs a C compiler.
            "triton": as "taps", by kernels for GPUs that mix in registers; dense and depthwise convs over one or two
                axes in float32, bfloat16 or float16. Needs a CUDA device and the package triton.
            "auto": the fastest of these here, see `pin_implementation`.

    Returns:
        (batch, channel_out, *size_out), unbatched like x, in the dtype of the plain conv (autocast included).

    Raises:
        ValueError: an argument does not fit the others, or "native" or "triton" cannot compute this; the message
            names what does not fit and says what would.
    """
    geometry = _check(x, weight, bias, probability, dilations, stride, padding, groups, padding_mode, implementation)
    unbatched = x.dim() == weight.dim() - 1
    if unbatched:
        x = x.unsqueeze(0)
    if implementation == "auto":
        implementation = _choose(x, weight, bias, probability, geometry)
    if implementation != "branches":
        probability, geometry = merge_equal(probability, geometry)
        if len(geometry.dilations) == 1:
            implementation = "dense"  # which then is the plain conv
    y = _IMPLEMENTATIONS[implementation](x, weight, bias, probability, geometry)
    return y.squeeze(0) if unbatched else y


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[Sequence[int]],
    stride: int | Sequence[int],
    padding: Padding | None,
    groups: int,
    padding_mode: str,
    implementation: str,
) -> Geometry:
    """Validate every argument once, for all implementations."""
    _check_implementation(implementation)
    return _validated(
        tuple(x.shape),
        tuple(weight.shape),
        None if bias is None else tuple(bias.shape),
        tuple(probability.shape),
        tuple(map(tuple, dilations)),
        stride if isinstance(stride, int) else tuple(stride),
        None
        if padding is None
        else tuple(tuple(p if isinstance(p, int) else (p[0], p[1]) for p in q) for q in padding),
        groups,
        padding_mode,
    )


@remembered
def _validated(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    bias: tuple[int, ...] | None,
    probability: tuple[int, ...],
    dilations: tuple[tuple[int, ...], ...],
    stride: int | tuple[int, ...],
    padding: Padding | None,
    groups: int,
    padding_mode: str,
) -> Geometry:
    """The tensors by their shapes."""
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"unknown padding_mode {padding_mode!r}; known are {', '.join(_PADDING_MODES)}")
    rank = len(weight) - 2
    if rank not in CONV:
        raise ValueError(
            f"weight must be (channel_out, channel_in // groups, *kernel) with 1 to 3 kernel axes, got shape {weight}"
        )
    if len(x) not in (rank + 1, rank + 2):
        raise ValueError(
            f"x must be (batch, channel, *size) or (channel, *size) with {rank} spatial axes to fit weight "
            f"{weight}, got shape {x}"
        )
    channel_in, channel_out = x[-rank - 1], weight[0]
    if groups < 1 or channel_out % groups or channel_in != weight[1] * groups:
        raise ValueError(
            f"x has {channel_in} channels; weight {weight} with groups={groups} needs "
            f"{weight[1] * groups} and a channel_out divisible by groups"
        )
    if bias is not None and bias != (channel_out,):
        raise ValueError(f"bias must have shape ({channel_out},), got {bias}")
    if len(dilations) == 0:
        raise ValueError("dilations is empty; give one tuple per branch")
    if probability != (len(dilations),):
        raise ValueError(f"probability must have one entry per branch, shape ({len(dilations)},), got {probability}")
    for branch, dilation in enumerate(dilations):
        if len(dilation) != rank or any(d < 1 for d in dilation):
            raise ValueError(
                f"dilation of branch {branch} must be {rank} positive integers, one per spatial axis, got {dilation}"
            )
    strides = (stride,) * rank if isinstance(stride, int) else tuple(stride)
    if len(strides) != rank or any(s < 1 for s in strides):
        raise ValueError(f"stride must be a positive integer or {rank} of them, got {stride}")
    kernel, size_in = weight[2:], x[-rank:]
    paddings = _paddings(padding, kernel, dilations)
    sizes = [
        size_out(size_in, kernel, dilation, strides, sides) for dilation, sides in zip(dilations, paddings, strict=True)
    ]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            f"branches must have one output size, got {sizes} for dilations {list(dilations)}; "
            "give each branch the padding that keeps its size"
        )
    if min(sizes[0]) < 1:
        raise ValueError(f"kernel {kernel} does not fit the padded input {size_in}: the output size is {sizes[0]}")
    return Geometry(kernel, dilations, strides, paddings, groups, padding_mode, size_in, sizes[0])


def _check_implementation(name: str, origin: str = "") -> None:
    if name not in get_args(Implementation):
        raise ValueError(f"{origin}unknown implementation {name!r}; known are {', '.join(get_args(Implementation))}")


def _paddings(
    padding: Padding | None, kernel: tuple[int, ...], dilations: Sequence[Sequence[int]]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Every padding as (before, after), per branch and axis."""
    if padding is None:
        for branch, dilation in enumerate(dilations):
            for axis, (k, d) in enumerate(zip(kernel, dilation, strict=True)):
                if d * (k - 1) % 2:
                    raise ValueError(
                        f"no symmetric padding keeps the size on axis {axis} of branch {branch}: dilation {d} x "
                        f"(kernel {k} - 1) is odd; give padding=(before, after) there"
                    )
        return tuple(
            tuple((d * (k - 1) // 2, d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True))
            for dilation in dilations
        )
    if len(padding) != len(dilations) or any(len(pads) != len(kernel) for pads in padding):
        raise ValueError(
            f"padding must hold {len(dilations)} branches of {len(kernel)} axes each, got {[list(p) for p in padding]}"
        )
    return tuple(tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in pads) for pads in padding)


def _by_triton(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    try:
        from rfnext.ops import triton as functional_triton  # which needs a package that not every torch brings along
    except ModuleNotFoundError as error:
        raise ValueError(
            'implementation="triton" needs a CUDA device and the package triton, which is not installed '
            '(CUDA builds of torch bring it along); "auto" does without'
        ) from error
    return functional_triton.by_triton(x, weight, bias, probability, geometry)


def _triton_can(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    if not x.is_cuda:
        return False
    try:
        from rfnext.ops import triton as functional_triton
    except ModuleNotFoundError:
        return False
    return functional_triton.refusal(x, weight, geometry) is None


_IMPLEMENTATIONS = {
    "branches": by_branches,
    "taps": by_taps,
    "dense": by_dense,
    "native": by_native,
    "triton": _by_triton,
}

_pinned = os.environ.get("RFNEXT_IMPLEMENTATION") or None  # nobody has asked for anything
_chosen: dict[tuple[object, ...], str] = {}
_REPETITIONS, _MOST_REPETITIONS = 5, 25
_SECONDS = 0.5  # beyond which there are no more than the former: small layers are soon measured, but need it more


_RULE = "the rule"
"""Pinned, it leaves every choice to `_rule`."""


class _Pin:
    """`_pinned` is this, from now on or within a `with` block."""

    def __init__(self, implementation: str | None) -> None:
        global _pinned
        self._previous, _pinned = _pinned, implementation

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _pinned
        _pinned = self._previous


class pin_implementation(_Pin):
    """Make implementation="auto" mean one implementation, from now on or within a `with` block.

        pin_implementation("taps")  # for the rest of the process; None ends it
        with pin_implementation("branches"): ...

    The environment variable RFNEXT_IMPLEMENTATION does the same from the start of the process; empty is as unset.

    Without a pin, "auto" measures: the first time that a shape of layer comes by (channels, kernel, stride, number of
    branches, and powers of two of batch and size), a forward and backward pass of each candidate is timed, and the
    fastest is kept for the rest of the process and logged. Two runs may choose differently and then differ in rounding:
    pin one, or use `reproducible`, for searches that repeat. Nothing is measured, and a fixed rule decides, under
    torch.compile, under torch.use_deterministic_algorithms and for tensors that are not plain (fake, distributed,
    inside torch.func).

    Raises:
        ValueError: if the name is unknown.
    """

    def __init__(self, implementation: str | None) -> None:
        if implementation is not None:
            _check_implementation(implementation)
        super().__init__(implementation)


def reproducible(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within the block, implementation="auto" goes by a fixed rule on a CPU, unless something is pinned, be it "auto".

    On CPUs runs of one seed give equal bits, but not if searched convs choose their implementation by stopwatch:

        with rfnext.reproducible(torch.device("cpu")):
            train(...)

    The rule is "native" where it can be had and has something of its own, else "taps". So equal bits are those of one
    machine and one number of threads, as they are with torch's own convs; pin "taps" to depend on no compiler.

    On GPUs it does nothing; torch.use_deterministic_algorithms(True) is what makes runs repeat there, searched convs
    among them.
    """
    return _Pin(_RULE) if device.type == "cpu" and _pinned is None else contextlib.nullcontext()


def _choose(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> str:
    """What "auto" means for these arguments."""
    if _pinned not in (None, "auto", _RULE):
        _check_implementation(_pinned, "the environment variable RFNEXT_IMPLEMENTATION asks for an ")
        return _pinned
    if _pinned == _RULE or not _may_measure(x):
        return _rule(x, weight, bias, probability, geometry)
    probability, geometry = merge_equal(probability, geometry)
    if len(geometry.dilations) == 1:
        return "dense"
    candidates = ["branches", "taps"]
    grid = dense_grid(geometry)
    cells = math.prod(grid.size)
    if cells <= 2 * len(geometry.dilations) * math.prod(geometry.kernel):
        candidates.append("dense")
    if native_is_for(x, weight, bias, probability, geometry):
        candidates.append("native")
    if _triton_can(x, weight, geometry):
        candidates.append("triton")
    gradients = torch.is_grad_enabled() and [t is not None and t.requires_grad for t in (x, weight, bias, probability)]
    key = (
        x.device,
        x.dtype,
        torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type),
        weight.shape,
        geometry.groups,
        geometry.stride,
        geometry.padding_mode,
        len(geometry.dilations),
        tuple(n.bit_length() for n in (x.shape[0], *geometry.size_in)),
        x.is_contiguous(),
        tuple(gradients or ()),
        # A dense kernel of the same size is much slower at a large dilation.
        (cells, tuple(step.bit_length() for step in grid.step)) if "dense" in candidates else None,
        torch.get_num_threads(),
    )
    if key not in _chosen:
        seconds = _measure(candidates, x, weight, bias, probability, geometry)
        _chosen[key] = min(seconds, key=seconds.__getitem__)
        logger.info(
            "x %s, weight %s, %d branches, groups %d, %s on %s: %s (%s)",
            tuple(x.shape),
            tuple(weight.shape),
            len(geometry.dilations),
            geometry.groups,
            x.dtype,
            x.device,
            _chosen[key],
            ", ".join(f"{name} {1000 * second:.2f} ms" for name, second in seconds.items()),
        )
    return _chosen[key]


def _may_measure(x: Tensor) -> bool:
    return not (
        torch.compiler.is_compiling()
        or torch.are_deterministic_algorithms_enabled()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.device.type not in ("cpu", "cuda")
        or x.numel() == 0
        or torch._C._are_functorch_transforms_active()
        or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _rule(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> str:
    """The choice where nothing can be measured, from shapes and device alone."""
    if torch._C._are_functorch_transforms_active():  # which know nothing of our autograd functions
        return "branches"
    if x.device.type == "cpu":
        return "native" if native_is_for(x, weight, bias, probability, geometry) else "taps"
    # Elsewhere the mixed input, written and read once per tap, weighs more than products in low precision.
    wide = not is_thin(weight, geometry.groups)
    return "taps" if wide and x.dtype in (torch.float32, torch.float64) else "branches"


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _measure(
    names: Sequence[str],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    geometry: Geometry,
) -> dict[str, float]:
    """Median seconds of some forward and backward passes, interleaved.

    In the caller's thread, whose pool of OpenMP threads is the one that will compute: another thread starts a second
    pool beside it, and on two cores measured some implementations at twice their time and others not. The caller's
    hooks on saved tensors (checkpoints, offloading) and dispatch modes do not see it.
    """
    device = x.device.type
    grad, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)
    x, weight, probability = (t.detach().requires_grad_(t.requires_grad) for t in (x, weight, probability))
    bias = None if bias is None else bias.detach().requires_grad_(bias.requires_grad)
    inputs = [t for t in (x, weight, bias, probability) if t is not None and t.requires_grad]
    taken: dict[str, list[float]] = {name: [] for name in names}

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize(x.device)

    def once(name: str) -> float:
        synchronize()
        start = time.perf_counter()
        with torch.set_grad_enabled(grad), torch.autocast(device, dtype, enabled=autocast):
            y = _IMPLEMENTATIONS[name](x, weight, bias, probability, geometry)
        if y.requires_grad:
            torch.autograd.grad(y, inputs, torch.ones_like(y))
        synchronize()
        return time.perf_counter() - start

    def typical(name: str) -> float:
        return statistics.median(taken[name]) if taken[name] else math.inf

    synchronize()
    # Of hooks on saved tensors only the innermost are called.
    with torch.autograd.graph.saved_tensors_hooks(_same, _same), _disable_current_modes():
        end = time.perf_counter() + _SECONDS
        for repetition in range(_MOST_REPETITIONS):
            if repetition >= _REPETITIONS and time.perf_counter() > end:
                break
            for name in list(taken):
                # One that is far behind is not tried again, unless a hiccup may have been the reason.
                if repetition > 2 and typical(name) > 2 * min(map(typical, taken)):
                    continue
                try:
                    second = once(name)
                except torch.OutOfMemoryError:
                    continue  # then it is not the one to use
                except Exception as failure:
                    if name != "triton":
                        raise
                    # Triton compiles on this machine, with a C compiler and drivers that need not be there.
                    logger.warning("auto does without triton, which failed on x %s: %s", tuple(x.shape), failure)
                    del taken[name]
                    continue
                if repetition > 0:  # the first pass also sets up libraries and caches
                    taken[name].append(second)
    return {name: typical(name) for name in taken}
