"""Every implementation of the operator, forward and backward, against its definition in float64 on the CPU."""

import dataclasses
from collections.abc import Iterator

import torch

from tests.gpu.findings import DEVICE, ON_GPU, NotRun, check, error_of, within, without_tf32
from tests.rfnext.ops.cases import LARGE, SMALL, Case

ALLOWED = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Error relative to the norm: a few roundings of each precision, in sums of up to a thousand terms."""

IMPLEMENTATIONS = ("branches", "taps", "dense", "triton", "auto")


def cases() -> Iterator[tuple[str, Case]]:
    """Those of the tests; without a GPU with fewer channels and positions, since the interpreter is slow."""
    for name, case in SMALL.items():
        yield f"small, {name}", case
    for name, case in LARGE.items():
        if ON_GPU:
            yield f"large, {name}", case
        else:
            size = tuple(min(n, 40 if len(case.size) == 1 else 6) for n in case.size)
            groups = 1 if case.groups == 1 else 3
            channels = tuple(min(n, 9) for n in case.channels)
            yield name, dataclasses.replace(case, size=size, batch=1, groups=groups, channels=channels)


def compare(case: Case, implementation: str, dtype: torch.dtype) -> dict[str, float]:
    """The largest error of output and gradients; both sides start from the same rounded values."""
    torch.manual_seed(0)
    values = [tensor.detach().to(dtype) for tensor in case.tensors()]
    values[2] = values[2].float()  # probabilities stay in float32, as in SearchConv
    exact = [value.double().requires_grad_() for value in values]
    given = [value.to(DEVICE).requires_grad_() for value in values]
    try:
        y = case.call(implementation, *given)
    except ValueError as refusal:  # grouped convs are none of the kernels' layers
        raise NotRun(str(refusal)) from refusal
    definition = case.definition(*exact)
    g = (torch.rand(definition.shape, dtype=torch.float64) + 0.5).to(dtype)  # of one sign, so that no sum cancels
    gradients = torch.autograd.grad(y, given, g.to(DEVICE))
    wanted = torch.autograd.grad(definition, exact, g.double())
    names = ("the output", *(f"the gradient of {name}" for name in ("x", "weight", "probability", "bias")))
    pairs = zip(names, (y, *gradients), (definition, *wanted), strict=False)
    return within({name: error_of(one, other) for name, one, other in pairs}, ALLOWED[dtype])


def main() -> None:
    """One line per case, precision and implementation."""
    without_tf32()
    for dtype, allowed_name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        for name, case in cases():
            for implementation in IMPLEMENTATIONS:
                with check(layer=name, precision=allowed_name, implementation=implementation) as found:
                    found |= compare(case, implementation, dtype)


if __name__ == "__main__":
    main()
