"""Receptive fields of a scored network, summarised for its record.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016: most of
the theoretical receptive field (all inputs that an output can depend on) has little influence. Both fields are measured
here, on the real inputs of a task's `Probe`.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfnext import pin_implementation
from rfnext.receptive_field import effective_receptive_field, theoretical_receptive_field
from tasks.spec import Probe, Split, Task

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]

EDGES = tuple(sorted({0.5, *(round(2 ** (power / 2)) + 0.5 for power in range(31))}))
"""Ends of a profile's bins, in input positions from the centre, on either side: each sqrt(2) times the one before. They
are equal for all networks, so that profiles can be averaged."""

SHARES = (0.5, 0.95)
"""Shares of the gradient whose radii are recorded."""

POSITIONS = 5
"""Output positions that the effective field is averaged over, in the middle tenth of every axis."""

GROWTH = (4, 16)
"""Lengths of the input on which the theoretical field is searched, in lengths of a real one. The first is used at which
the field does not reach the ends. At 64, MS-TCN of the preset small takes 48 s instead of 1."""

LARGEST = 2**18
"""Largest number of positions of such an input, over all axes; large images are `narrowed`."""

NARROWEST = 32
"""Smallest number of positions of an axis after narrowing. Strides up to this one divide the axis as before."""


@dataclass(frozen=True)
class Extent:
    """First and last input position that can matter, from the centre.

    bounds is None where the field is larger than the longest input that was tried: then it extends beyond
    `farther_than` on at least one side.
    """

    bounds: tuple[float, float] | None
    farther_than: float | None = None


def measure(task: Task[Any], network: nn.Module, config: Any, split: Split) -> dict[str, Any] | None:
    """Receptive fields of a network as plain JSON values, or None if the task has no probe or it fails.

    The effective field is the mean over the probe's inputs and over `POSITIONS` output positions, each normalised to
    a sum of 1, and per axis the sum over the other axes. The theoretical field is that of the middle output position,
    found by experiment on inputs that are longer than it where possible, see `theoretical`.

    Returns:
        unit, output: as in the probe. inputs: how many. part: the split's. seconds: what measuring took. axes: for
        each one of the input, "step" (units per position), "size" (positions of the longest input), "edges" (where
        bins begin and end, in units from the centre), "share" (of the gradient per bin), "radius" (share of the
        gradient -> distance from the centre, in units, within which it lies) and "theoretical" ([first, last] in units
        from the centre; None where it is larger than the longest input that was tried: then it extends beyond
        "farther_than" units).

    The network's weights, gradients and modes and torch's random numbers are the same afterwards.
    """
    if task.probe is None:
        return None
    start = time.perf_counter()
    try:
        with _undisturbed(network):
            probe = task.probe(network, config, split)
            with _exact(probe.inputs[0].device):
                axes = _axes(probe)
    except Exception:  # a training is kept even if this measurement fails
        log.exception("%s: receptive fields were not measured", task.name)
        return None
    found = {"unit": probe.unit, "output": probe.output, "inputs": len(probe.inputs), "part": split.part}
    return found | {"seconds": round(time.perf_counter() - start, 2), "axes": axes}


def _axes(probe: Probe) -> list[dict[str, Any]]:
    profiles = effective(probe)
    axes = []
    for axis, (step, profile) in enumerate(zip(probe.step, profiles, strict=True)):
        longest = max(probe.inputs, key=lambda x, axis=axis: x.shape[2 + axis])
        extent = theoretical(probe, longest, axis)
        edges, share = profile.binned()
        axes.append(
            {
                "step": step,
                "size": longest.shape[2 + axis],
                "edges": [edge * step for edge in edges],
                "share": [float(f"{value:.4g}") for value in share],
                "radius": {str(part): round(profile.radius(part) * step, 4) for part in SHARES},
                "theoretical": None if extent.bounds is None else [round(end * step, 4) for end in extent.bounds],
                "farther_than": None if extent.farther_than is None else extent.farther_than * step,
            }
        )
    return axes


@dataclass(frozen=True)
class Profile:
    """Gradient along one axis: signed distances from the centre, in positions, and the share at each."""

    offset: Tensor
    share: Tensor

    def radius(self, part: float) -> float:
        """The smallest distance from the centre within which `part` of the gradient lies."""
        distance, order = self.offset.abs().sort()
        inside = self.share[order].cumsum(0)
        # The sum of all shares may be just below 1, and a partial sum just below `part`.
        index = int((inside < part * float(inside[-1]) - 1e-9).sum())
        return float(distance[min(index, len(distance) - 1)])

    def binned(self) -> tuple[list[float], list[float]]:
        """Edges of the bins, in positions, and the share in each, without the bins that are empty at both ends."""
        edges = torch.tensor(EDGES, dtype=torch.float64)
        edges = torch.cat((-edges.flip(0), edges))
        inside = self.offset.clamp(-EDGES[-1], EDGES[-1] - 1e-6)
        share = torch.zeros(len(edges) - 1, dtype=torch.float64)
        share.index_add_(0, torch.bucketize(inside, edges, right=True) - 1, self.share)
        filled = share.nonzero().flatten()
        cut = min(int(filled[0]), len(share) - 1 - int(filled[-1]))
        return edges[cut : len(edges) - cut].tolist(), share[cut : len(share) - cut].tolist()


def effective(probe: Probe) -> list[Profile]:
    """The mean effective receptive field, per axis.

    Raises:
        ValueError: if no input has a gradient anywhere.
    """
    fields: list[tuple[Tensor, list[float]]] = []
    for x in probe.inputs:
        with torch.no_grad():
            size = probe.forward(x).shape[2:]
        for position in _positions(size):
            try:
                field = effective_receptive_field(probe.forward, x, position)
            except ValueError:  # a dead unit, or a constant piece of the input
                continue
            centre = [_centre(*of, probe.shift) for of in zip(position, size, x.shape[2:], strict=True)]
            fields.append((field.double().cpu(), centre))
    if not fields:
        raise ValueError("the output has a gradient at none of the probe's inputs")
    return [_marginal(fields, axis) for axis in range(fields[0][0].dim())]


def _marginal(fields: list[tuple[Tensor, list[float]]], axis: int) -> Profile:
    offsets, shares = [], []
    for field, centre in fields:
        others = [other for other in range(field.dim()) if other != axis]
        offsets.append(torch.arange(field.shape[axis], dtype=torch.float64) - centre[axis])
        shares.append((field.sum(others) if others else field) / len(fields))
    return Profile(torch.cat(offsets), torch.cat(shares))


def _positions(size: torch.Size) -> list[tuple[int, ...]]:
    """Distinct output positions between 0.45 and 0.55 of every axis, with the middle."""
    twentieths = torch.linspace(9, 11, POSITIONS).tolist()
    return list(dict.fromkeys(tuple(int(share * length / 20) for length in size) for share in twentieths))


def _centre(position: int, size_out: int, size_in: int, shift: float) -> float:
    """The input position at the centre of an output position's field."""
    return (position + 0.5) * size_in / size_out - 0.5 + shift


def theoretical(probe: Probe, x: Tensor, axis: int) -> Extent:
    """The theoretical receptive field of the middle output position along one axis, in positions from its centre.

    The input is repeated along the axis until the field does not reach its ends. That is exact unless one operation has
    a field larger than the real input. Fields of attention and of normalisation over the whole input have no end.
    A large input is first `narrowed` along the other axes. Where it is still too large, or the network cannot compute a
    narrower one, only the real input is tried.
    """
    narrow = narrowed(x, axis)
    if narrow.shape != x.shape and _takes(probe.forward, narrow):
        x = narrow
    alone, line = _alone(probe.forward, x, axis)
    farther_than = 0.0
    for growth in [times for times in GROWTH if times * math.prod(x.shape[2:]) <= LARGEST] or [1]:
        long = line.repeat(1, 1, growth)
        size = long.shape[-1]
        width = max(1, min(size // 4, x.shape[2 + axis]))
        if not _reaches_ends(alone, long, width):
            ((first, last),) = theoretical_receptive_field(alone, long)
            with torch.no_grad():
                output = alone(long).shape[-1]
            centre = _centre(output // 2, output, size, probe.shift)
            return Extent((first - centre, last - centre))
        farther_than = size / 2 - width
    return Extent(None, farther_than)


def narrowed(x: Tensor, axis: int) -> Tensor:
    """The middle of `x` along its other axes, narrow enough to be repeated along `axis`; or `x`.

    That does not change the field of a conv along `axis`, since its taps at the middle of the other axes span the whole
    field along it.
    """
    others = sorted((other for other in range(2, x.dim()) if other != 2 + axis), key=lambda other: -x.shape[other])
    for other in others:
        size = x.shape[other]
        unit = math.gcd(size, NARROWEST)
        allowed = LARGEST // GROWTH[0] * size // math.prod(x.shape[2:])
        kept = min(size, max(allowed, NARROWEST) // unit * unit)
        x = x.narrow(other, (size - kept) // 2, kept)
    return x


@torch.no_grad()
def _takes(forward: Forward, x: Tensor) -> bool:
    try:
        return forward(x[:1]).numel() > 0
    except (RuntimeError, ValueError):  # unpadded convs, say, that need more
        return False


@torch.no_grad()
def _reaches_ends(alone: Forward, line: Tensor, width: int) -> bool:
    """Whether the middle output position depends on the first or the last `width` positions of the input.

    A stretch at each end, since dilated convs read only every n-th position.
    """
    for end in (slice(None, width), slice(-width, None)):
        poisoned = line.clone()
        poisoned[..., end] = torch.nan
        output = alone(poisoned)
        if bool(output[..., output.shape[-1] // 2].isnan().any()):
            return True
    return False


def _alone(forward: Forward, x: Tensor, axis: int) -> tuple[Forward, Tensor]:
    """The network as a function of one axis: other input axes become channels, of output axes the middle stays."""
    moved = x[:1].movedim(2 + axis, -1)
    shape = moved.shape[:-1]

    def alone(line: Tensor) -> Tensor:
        output = forward(line.reshape(*shape, line.shape[-1]).movedim(-1, 2 + axis))
        for other in reversed(range(2, output.dim())):
            if other != 2 + axis:
                output = output.select(other, output.shape[other] // 2)
        return output

    return alone, moved.reshape(1, math.prod(shape), -1)


@contextlib.contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; modes and torch's random numbers are restored afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.random.fork_rng(devices=[]):  # in evaluation mode nothing draws on GPUs
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """Without cuDNN, whose tiles and transforms spread NaN beyond the taps, and without choices by measured time."""
    with torch.backends.cudnn.flags(enabled=False), pin_implementation("taps"):
        yield
