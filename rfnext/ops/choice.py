"""Which implementation of the operator computes a layer: a pinned one, by a fixed rule, or the fastest measured."""

import logging
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from rfnext.ops import kept_choices
from rfnext.ops.branches import by_branches
from rfnext.ops.dense import by_dense, dense_grid
from rfnext.ops.geometry import Geometry, is_depthwise, is_thin, merge_equal
from rfnext.ops.layout import order
from rfnext.ops.native import by_native
from rfnext.ops.native import is_for as native_is_for
from rfnext.ops.pins import RULE, checked_pin
from rfnext.ops.taps import by_taps

logger = logging.getLogger(__name__)


def _by_triton(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    try:
        from rfnext.ops import triton  # imports a package that not every build of torch comes with
    except ModuleNotFoundError as error:
        raise ValueError(
            'implementation="triton" needs a CUDA device and the package triton, which is not installed '
            '(CUDA builds of torch come with it); "auto" works without'
        ) from error
    return triton.by_triton(x, weight, bias, probability, geometry)


def triton_is_for(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the package triton is installed and its kernels were written for this layer."""
    if not x.is_cuda:
        return False
    try:
        from rfnext.ops import triton
    except ModuleNotFoundError:
        return False
    return triton.refusal(x, weight, geometry) is None


IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor, Tensor | None, Tensor, Geometry], Tensor]] = {
    "branches": by_branches,
    "taps": by_taps,
    "dense": by_dense,
    "native": by_native,
    "triton": _by_triton,
}
"""Functions of x, weight, bias, probability and geometry, by name."""


def choose(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> str:
    """The name of the implementation that "auto" means for these arguments."""
    # Neither transforms nor forward-mode differentiation know our autograd functions.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "branches"
    if x.is_meta:  # which autocast does not know
        return "branches"
    name = checked_pin()
    if name not in (None, "auto", RULE):
        return name
    if name == RULE or not _may_measure(x):
        return _rule(x, weight, bias, probability, geometry)
    probability, geometry = merge_equal(probability, geometry)
    if len(geometry.dilations) == 1:
        return "dense"
    return _fastest(x, weight, bias, probability, geometry)


def choose_single(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> str:
    """The same for a conv of one branch: "branches" and "dense" are torch's conv then."""
    name = checked_pin()
    if name not in (None, "auto", RULE):
        return name
    if name == RULE or not _may_measure(x):
        depthwise = is_depthwise(weight, geometry.groups) and max(geometry.stride) == 1
        return "native" if depthwise else "dense"
    return _fastest(x, weight, bias, probability, geometry)


# The fixed rule.


def _may_measure(x: Tensor) -> bool:
    return not (
        torch.compiler.is_compiling()
        or torch.are_deterministic_algorithms_enabled()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.device.type not in ("cpu", "cuda")
        or x.numel() == 0
        or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _rule(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> str:
    """The choice where nothing can be measured, from shapes and device alone."""
    if x.device.type == "cpu":
        return "native" if native_is_for(x, weight, bias, probability, geometry) else "taps"
    # On other devices writing and reading the mixed input once per tap costs more than products in low precision.
    wide = not is_thin(weight, geometry.groups)
    return "taps" if wide and x.dtype in (torch.float32, torch.float64) else "branches"


# The measuring choice.

_chosen: dict[tuple[object, ...], str] = {}
_MARGIN = 1.25
_REPETITIONS, _MOST_REPETITIONS = 4, 25
_SECONDS = 0.5  # of computing, after which _REPETITIONS are enough: small layers are measured quickly, but vary more


forgotten = 0
"""How often all measurements were."""


def forget_measurements(kept: bool = True) -> None:
    """Let "auto" measure every layer anew, because what else runs on the machine has changed.

    kept: remove what is kept on disk, too. Other processes that run go on by what they have chosen.
    """
    global forgotten
    forgotten += 1
    _chosen.clear()
    if kept:
        kept_choices.forget()


def _fastest(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> str:
    """The implementation that was fastest for layers like this one; measured if this is the first."""
    candidates = _candidates(x, weight, bias, probability, geometry)
    key = _key(candidates, (x, weight, bias, probability), geometry)
    if (known := _chosen.get(key)) is not None:  # another thread may forget it at any time
        return known
    text = str(key)
    name = kept_choices.read().get(text) if x.device.type == "cpu" else None
    how = "measured before"
    if name not in candidates:
        seconds = _measure(candidates, x, weight, bias, probability, geometry)
        if len(geometry.dilations) == 1:  # a plain conv stays torch's unless another is clearly faster
            seconds |= {name: second * _MARGIN for name, second in seconds.items() if name in ("taps", "native")}
        name = min(seconds, key=seconds.__getitem__)
        how = ", ".join(f"{name} {1000 * second:.2f} ms" for name, second in seconds.items())
        if x.device.type == "cpu":
            kept_choices.keep(text, name)
    _chosen[key] = name
    layer = tuple(x.shape), tuple(weight.shape), len(geometry.dilations), geometry.groups, x.dtype, x.device
    logger.info("x %s, weight %s, %d branches, groups %d, %s on %s: %s (%s)", *layer, name, how)
    return name


def _candidates(
    x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
) -> tuple[str, ...]:
    candidates = ["branches", "taps"]
    if math.prod(dense_grid(geometry).size) <= 2 * len(geometry.dilations) * math.prod(geometry.kernel):
        candidates.append("dense")
    if native_is_for(x, weight, bias, probability, geometry):
        candidates.append("native")
    if triton_is_for(x, weight, geometry):
        candidates.append("triton")
    return tuple(candidates)


def _key(candidates: Sequence[str], tensors: Sequence[Tensor | None], geometry: Geometry) -> tuple[object, ...]:
    """What layers must have in common to share a measurement. tensors: x, weight, bias, probability."""
    x, weight = tensors[:2]
    assert x is not None
    assert weight is not None
    gradients = torch.is_grad_enabled() and [t is not None and t.requires_grad for t in tensors]
    grid = dense_grid(geometry)
    return (
        x.device,
        x.dtype,
        torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type),
        weight.shape,
        geometry.groups,
        geometry.stride,
        geometry.padding_mode,
        len(geometry.dilations),
        tuple(n.bit_length() for n in (x.shape[0], *geometry.size_in)),
        order(x),
        tuple(gradients or ()),
        # A dense kernel of the same size is much slower at a large dilation.
        (math.prod(grid.size), tuple(step.bit_length() for step in grid.step)) if "dense" in candidates else None,
        torch.get_num_threads(),
        tuple(candidates),
    )


def _measure(
    names: Sequence[str], x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
) -> dict[str, float]:
    """Least seconds of some forward and backward passes, interleaved; infinite for one that ran out of memory.

    The least, since on a busy machine most passes wait for others, and what is found is kept. On one thread of a CPU,
    seconds of the processor.

    In the caller's thread, whose pool of OpenMP threads is the one that will compute: another thread starts a second
    pool beside it, and on two cores that made some implementations twice as slow and others not. The caller's hooks on
    saved tensors (checkpoints, offloading) and its dispatch modes are switched off.
    """
    timed = _timer(x, weight, bias, probability, geometry)
    taken: dict[str, list[float]] = {name: [] for name in names}

    def least(name: str) -> float:
        return min(taken[name], default=math.inf)

    def far_behind(name: str, repetition: int) -> bool:
        # Short ones are tried a few times in any case, and long ones once or twice: one may have been slow by chance.
        if repetition <= (1 if least(name) > 0.02 else 5):
            return False
        return least(name) > (1.5 if repetition > 2 else 2.5) * min(map(least, taken))

    # Of hooks on saved tensors only the innermost are called.
    with torch.autograd.graph.saved_tensors_hooks(_same, _same), _disable_current_modes():
        end = time.thread_time() + _SECONDS
        for repetition in range(_MOST_REPETITIONS):
            if repetition >= _REPETITIONS and time.thread_time() > end:
                break
            going = [name for name in taken if not far_behind(name, repetition)]
            if repetition > 1 and len(going) == 1:
                break
            for name in going:
                _try(name, repetition, timed, taken)
    return {name: least(name) for name in taken}


def _try(name: str, repetition: int, timed: Callable[[str], float], taken: dict[str, list[float]]) -> None:
    """Time an implementation once, and add the seconds to `taken`."""
    try:
        second = timed(name)
    except torch.OutOfMemoryError:
        return  # it stays at infinity
    except Exception as failure:
        if name != "triton":
            raise
        # Triton compiles on this machine, by a C compiler and drivers that may be missing.
        logger.warning("auto works without triton, which failed: %s", failure)
        del taken[name]
        return
    if repetition > 0:  # the first pass also sets up libraries and caches
        taken[name].append(second)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _timer(
    x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
) -> Callable[[str], float]:
    """A function that takes the name of an implementation and returns the seconds of one forward and backward pass."""
    device = x.device.type
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    grad, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device)
    x, weight, probability = (t.detach().requires_grad_(t.requires_grad) for t in (x, weight, probability))
    bias = None if bias is None else bias.detach().requires_grad_(bias.requires_grad)
    inputs = [t for t in (x, weight, bias, probability) if t is not None and t.requires_grad]

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize(x.device)

    def timed(name: str) -> float:
        synchronize()
        start = clock()
        with torch.set_grad_enabled(grad), torch.autocast(device, dtype, enabled=autocast):
            y = IMPLEMENTATIONS[name](x, weight, bias, probability, geometry)
        if y.requires_grad:
            torch.autograd.grad(y, inputs, torch.ones_like(y))
        synchronize()
        return clock() - start

    return timed
