"""A call of torch's convolution, as the forward() of a conv class makes it, in one form whatever its arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rfnext.dilation import Dilation
from rfnext.ops.branches import CONV

CONVOLUTIONS = frozenset(CONV.values())


class Call(NamedTuple):
    """input, weight and bias; stride, sides (the padding before and after) and dilation per axis; groups."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    sides: list[tuple[int, int]]
    dilation: Dilation
    groups: int

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> "Call":
        """Of the arguments of torch.nn.functional.conv1d, conv2d or conv3d."""
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        given |= dict(zip(names, args, strict=False)) | dict(kwargs or {})
        kernel = given["weight"].shape[2:]
        dilation = _per_axis(given["dilation"], kernel)
        return cls(
            given["input"],
            given["weight"],
            given["bias"],
            _per_axis(given["stride"], kernel),
            _sides(given["padding"], kernel, dilation),
            dilation,
            given["groups"],
        )


def _sides(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    paddings = _per_axis(0 if padding == "valid" else padding, kernel)
    if min(paddings) < 0:
        raise ValueError(f"torch's convolution does not take the negative padding {paddings}")
    return [(p, p) for p in paddings]


def _per_axis(value: Any, kernel: Sequence[int]) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values if len(values) == len(kernel) else values * len(kernel)
