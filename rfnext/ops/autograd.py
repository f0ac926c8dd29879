"""What the implementations with passes of their own share: autograd, autocast and torch.compile.

An implementation gives `Passes`, a forward and a backward pass. `as_operator` makes a differentiable operator of the
two. `with_bias` makes passes of simpler ones, which know nothing of bias, temperature and memory layout.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rfnext.ops.branches import by_branches
from rfnext.ops.geometry import Geometry, crop_extended, size_out
from rfnext.ops.layout import channels_are_last, empty, laid_out

Operator = Callable[[Tensor, Tensor, Tensor | None, Tensor, Geometry], Tensor]
"""x, weight, bias, probability, geometry -> y."""

Exact = Callable[..., Tensor]
"""What `as_operator` returns."""

Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Geometry, Sequence[bool]], tuple[Tensor | None, Tensor | None, Tensor | None]
]
"""Gradient of y, x, weight, probability, geometry, which of x, weight, bias, probability need a gradient -> gradients
of x, weight and probability. Those that are not needed may be given too."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Of x, weight, bias and shares. Those that are not needed may be given too, but not of a bias that is None."""


class Passes(NamedTuple):
    """Both passes of an implementation, for zero padding and in the low precision of autocast.

    run: x, weight, bias, shares, geometry, temperature -> y, stored in memory like x, and what the backward pass wants
    to have besides these. For shares and temperature see `as_operator`.
    run_backward: gradient of y, (x, weight, bias, shares), what the backward pass wanted, geometry, temperature, which
    of the four need a gradient -> their gradients.
    """

    run: Callable[[Tensor, Tensor, Tensor | None, Tensor, Geometry, float | None], tuple[Tensor, Any]]
    run_backward: Callable[[Tensor, Sequence[Any], Any, Geometry, float | None, Sequence[bool]], Gradients]


def as_operator(name: str, passes: Passes) -> Exact:
    """The differentiable operator of an implementation; under torch.compile it is called `rfnext::<name>`.

    Returns:
        A function of x, weight, bias, shares, geometry and temperature. The shares are the probabilities; or, if there
        is a temperature t, branch weights, and the probabilities are softmax(shares / t): in small layers, a softmax
        outside takes autograd as long as the operator. Its second derivative is that of `branches`.
    """
    compiled = _register(name, passes)

    def operator(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shares: Tensor,
        geometry: Geometry,
        temperature: float | None = None,
    ) -> Tensor:
        if geometry.padding_mode != "zeros":
            x, geometry = crop_extended(x, geometry)
        if torch.is_autocast_enabled(x.device.type):
            x, weight = x.to(autocast_dtype(x)), weight.to(autocast_dtype(weight))
            bias = None if bias is None else bias.to(autocast_dtype(bias))
        if bias is not None and bias.dtype != x.dtype:  # torch says what is wrong
            return by_branches(x, weight, bias, _probability(shares, temperature), geometry)
        if torch.compiler.is_compiling():
            return compiled(x, weight, bias, _probability(shares, temperature), *_as_lists(geometry))
        return _Exact.apply(x, weight, bias, shares, geometry, (passes, temperature))

    return operator


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """In which torch's conv reads a tensor: autocast, where it is enabled, leaves float64 as it is."""
    device = tensor.device.type
    lowered = tensor.dtype != torch.float64 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if lowered else tensor.dtype


def _probability(shares: Tensor, temperature: float | None) -> Tensor:
    return shares if temperature is None else torch.softmax(shares / temperature, dim=0)


def with_bias(forward: Operator, backward: Backward) -> Passes:
    """Passes that take care of bias, temperature and memory layout.

    Args:
        forward: gets the bias times the sum of the probabilities.
        backward: the same arguments without the bias, whose gradient is computed here.
    """

    def run(
        x: Tensor, weight: Tensor, bias: Tensor | None, shares: Tensor, geometry: Geometry, temperature: float | None
    ) -> tuple[Tensor, Tensor | None]:
        probability = _probability(shares, temperature)
        bias = None if bias is None else bias * probability.sum()
        y = laid_out(forward(x, weight, bias, probability, geometry), channels_are_last(x))
        return y, None if temperature is None else probability

    def run_backward(
        g: Tensor,
        tensors: Sequence[Any],
        softmax: Tensor | None,
        geometry: Geometry,
        temperature: float | None,
        needed: Sequence[bool],
    ) -> Gradients:
        x, weight, bias, shares = tensors
        probability = shares if softmax is None else softmax
        grad_x, grad_weight, grad_probability = backward(g, x, weight, probability, geometry, needed)
        need_x, need_weight, need_bias, need_probability = needed
        grad_bias = None
        if bias is not None and (need_bias or need_probability):
            grad_bias = g.sum((0, *range(2, g.dim())))
            if need_probability and grad_probability is not None:
                grad_probability = grad_probability + (grad_bias * bias).sum(dtype=probability.dtype)
            grad_bias = grad_bias * probability.sum()
        if softmax is not None and temperature is not None and grad_probability is not None:
            grad_probability = torch._softmax_backward_data(grad_probability, softmax, 0, softmax.dtype) / temperature  # type: ignore
        return (
            laid_out(grad_x, channels_are_last(x)) if need_x and grad_x is not None else None,
            grad_weight.contiguous() if need_weight and grad_weight is not None else None,
            grad_bias if need_bias else None,
            grad_probability if need_probability else None,
        )

    return Passes(run, run_backward)


class _Exact(torch.autograd.Function):
    """shares: the probabilities, or the branch weights of which they are the softmax at a temperature."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        shares: Tensor,
        geometry: Geometry,
        how: tuple[Passes, float | None],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias, shares)
        passes, temperature = how
        y, kept = passes.run(x, weight, bias, shares, geometry, temperature)
        ctx.how = passes.run_backward, kept, geometry, temperature
        if not y._is_view():
            return y
        # The same memory, but no view: autograd refuses to have views changed in place, as by nn.ReLU(inplace=True).
        return y.new_empty(0).set_(y)  # type: ignore[arg-type]  # a tensor will do

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (g,), needed = grad_outputs, ctx.needs_input_grad[:4]
        device = g.device.type
        # Entering a context takes longer than asking whether one is needed.
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return (*_gradients(ctx, g, needed), None, None)
        return (*_gradients(ctx, g, needed), None, None)


def _gradients(ctx: Any, g: Tensor, needed: Sequence[bool]) -> Gradients:
    """Of x, weight, bias and shares."""
    tensors: Sequence[Any] = ctx.saved_tensors
    run_backward, kept, geometry, temperature = ctx.how
    again = torch.is_grad_enabled()  # create_graph=True
    if again or _is_batched(g):  # by operations that can be differentiated, or batched
        with torch.enable_grad():
            # Of views: x may have been computed by this very weight, and only its use in this conv counts here.
            views: list[Any] = [None if t is None else t.view_as(t) for t in tensors]
            x, weight, bias, shares = views
            y = by_branches(x, weight, bias, _probability(shares, temperature), geometry)
        inputs = [t for t, need in zip(views, needed, strict=True) if need]
        found = iter(torch.autograd.grad(y, inputs, g, create_graph=again))
        grad_x, grad_weight, grad_bias, grad_shares = (next(found) if need else None for need in needed)
        return grad_x, grad_weight, grad_bias, grad_shares
    _check_shapes(tensors, geometry, g)
    return run_backward(g, tensors, kept, geometry, temperature, needed)


def _check_shapes(tensors: Sequence[Any], geometry: Geometry, g: Tensor | None = None) -> None:
    """Raise ValueError unless the tensors, and the gradient of y, fit each other.

    Kernels that get addresses would read beyond their ends. Hooks on saved tensors may return others, and the compiled
    operators may be called by anyone.
    """
    x, weight, bias, shares = tensors
    out, each = weight.shape[:2]
    fit = (
        weight.shape[2:] == geometry.kernel
        and out % geometry.groups == 0
        and x.shape[1:] == (each * geometry.groups, *geometry.size_in)
        and (bias is None or bias.shape == (out,))
        and shares.shape == (len(geometry.dilations),)
        and (g is None or g.shape == (x.shape[0], out, *geometry.size_out))
    )
    if not fit:
        shapes = ", ".join(str(tuple(t.shape)) for t in (*tensors, g) if t is not None)
        whose = "" if g is None else "the backward pass needs the saved tensors in their shapes: "
        after = "" if g is None else " and gradient"
        raise ValueError(f"{whose}input, weight, bias, shares{after} do not fit each other: {shapes}")


def _is_batched(g: Tensor) -> bool:
    """Whether it is the gradients of several outputs at once: is_grads_batched=True, or torch.func.vmap."""
    functorch = cast(Any, torch._C)._functorch
    return functorch.is_legacy_batchedtensor(g) or torch._C._are_functorch_transforms_active()


# torch.compile gets the same two functions as operators that it does not trace into. Unrolled over taps, branches and
# chunks, a layer would take it minutes to compile, and again in every round of a search.

_ARGUMENTS = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor probability, "
    "SymInt[] dilations, SymInt[] padding, SymInt[] stride, SymInt groups"
)


def _register(name: str, passes: Passes) -> Callable[..., Tensor]:
    """The operator `rfnext::<name>`, which takes the geometry as lists of integers."""

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, *lists: Any) -> Tensor:
        geometry = _from_lists(x, weight, lists)
        _check_shapes((x, weight, bias, probability), geometry)
        return passes.run(x, weight, bias, probability, geometry, None)[0]

    def fake(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, *lists: Any) -> Tensor:
        geometry = _from_lists(x, weight, lists)
        return empty(x, (x.shape[0], weight.shape[0], *geometry.size_out), channels_are_last(x))

    operator = torch.library.custom_op(f"rfnext::{name}", forward, mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
    operator.register_fake(fake)
    backward_operator = _register_backward(name, passes)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.lists = inputs[4:]

    def differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[:4]
        grads = backward_operator(g, *ctx.saved_tensors, *ctx.lists, needed)
        return (*(grad if need else None for grad, need in zip(grads, needed, strict=True)), None, None, None, None)

    operator.register_autograd(differentiate, setup_context=setup_context)
    return operator


def _register_backward(name: str, passes: Passes) -> Callable[..., tuple[Tensor, ...]]:
    """The operator `rfnext::<name>_backward`; gradients that are not needed come back empty."""

    def backward(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        (x, weight, bias, probability), (*lists, needed) = arguments[:4], arguments[4:]
        tensors, geometry = (x, weight, bias, probability), _from_lists(x, weight, lists)
        _check_shapes(tensors, geometry, g)
        grads = passes.run_backward(g, tensors, None, geometry, None, needed)
        return tuple(x.new_empty(0) if grad is None else grad for grad in grads)

    def fake(g: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        (x, weight, bias, probability), needed = arguments[:4], arguments[-1]
        grads = (
            empty(x, x.shape, channels_are_last(x)),
            weight.new_empty(weight.shape),
            None if bias is None else bias.new_empty(bias.shape),
            probability.new_empty(probability.shape),
        )
        return tuple(
            grad if need and grad is not None else x.new_empty(0) for grad, need in zip(grads, needed, strict=True)
        )

    operator = torch.library.custom_op(
        f"rfnext::{name}_backward",
        backward,
        mutates_args=(),
        schema=f"(Tensor g, {_ARGUMENTS}, bool[] needed) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    operator.register_fake(fake)
    return operator


def _as_lists(geometry: Geometry) -> tuple[list[int], list[int], list[int], int]:
    dilations = [d for dilation in geometry.dilations for d in dilation]
    padding = [side for sides in geometry.padding for pair in sides for side in pair]
    return dilations, padding, list(geometry.stride), geometry.groups


def _from_lists(x: Tensor, weight: Tensor, lists: Sequence[Any]) -> Geometry:
    """What `_as_lists` gave, with the sizes of the tensors."""
    dilations, padding, stride, groups = lists
    kernel, size_in, rank = tuple(weight.shape[2:]), tuple(x.shape[2:]), len(stride)
    pairs = list(zip(padding[::2], padding[1::2], strict=True))
    starts = range(0, len(dilations), rank)
    branches = tuple(tuple(dilations[i : i + rank]) for i in starts)
    sides = tuple(tuple(pairs[i : i + rank]) for i in starts)
    size = size_out(size_in, kernel, branches[0], stride, sides[0])
    return Geometry(kernel, branches, tuple(stride), sides, groups, "zeros", size_in, size)
