"""What the user asks of implementation="auto": one implementation, equal runs, or nothing."""

import contextlib
import itertools
import os
import threading
from typing import Literal, get_args

import torch

Implementation = Literal["auto", "branches", "taps", "dense", "native", "triton"]
"""How the operator is computed; all return the same values up to rounding.

"branches": one conv per branch, the reference.
"taps": mixes the shifted inputs, then multiplies once; keeps only x for the backward pass.
"dense": folds the branches into one larger kernel; fast if the dilations have a coarse common grid.
"native": as "taps", by kernels for CPUs that mix and multiply in the cache, in float32 and float64; compiled once per
    machine, see `rfnext.ops.native_build`. Needs a C compiler.
"triton": as "taps", by kernels for GPUs that mix in registers; dense and depthwise convs over one or two axes in
    float32, bfloat16 or float16. Needs a CUDA device and the package triton.
"auto": the fastest of these on this machine, see `pin_implementation`.
"""


def check_implementation(name: str, origin: str = "") -> None:
    """Raise ValueError, starting with `origin`, unless this is the name of an implementation or "auto"."""
    if name not in get_args(Implementation):
        raise ValueError(f"{origin}unknown implementation {name!r}; known are {', '.join(get_args(Implementation))}")


RULE = "the rule"
"""Pinned, it leaves every choice to the fixed rule of `rfnext.ops.choice`."""

_PINS = "rfnext.pins"
"""Key of a thread's open pins in torch's thread state, which the threads of a backward pass take over."""

_serials = itertools.count(1)
_in_thread = threading.local()


class _Pin:
    """Pins within a `with` block, in the thread that enters it. Of the open ones the newest counts."""

    def __init__(self, implementation: str | None) -> None:
        self._implementation = implementation
        self._serial = next(_serials)
        self._open = False

    def __enter__(self) -> None:
        if self in _everywhere:  # it was made for this block alone
            _everywhere.remove(self)
        self._serial, self._open = next(_serials), True
        _set_pins((*_pins(), self))

    def __exit__(self, *_: object) -> None:
        self._open = False
        _set_pins(tuple(pin for pin in _pins() if pin._open))


def _pins() -> tuple[_Pin, ...]:
    """Those entered in this thread, the newest last."""
    if not torch.compiler.is_compiling() and torch._C._is_key_in_tls(_PINS):
        return torch._C._get_obj_in_tls(_PINS)
    return getattr(_in_thread, "pins", ())  # which torch.compile can trace


def _set_pins(pins: tuple[_Pin, ...]) -> None:
    _in_thread.pins = pins
    torch._C._stash_obj_in_tls(_PINS, pins)


# For the whole process, the newest last. None: the user chose nothing.
_everywhere = [_Pin(os.environ.get("RFNEXT_IMPLEMENTATION") or None)]


def pinned() -> str | None:
    """What is pinned for this thread: by a block in it or for the whole process, whichever came last."""
    newest = _everywhere[-1]
    for pin in _pins():
        if pin._open and pin._serial > newest._serial:
            newest = pin
    return newest._implementation


class pin_implementation(_Pin):
    """Make implementation="auto" mean one implementation, from now on or within a `with` block.

        pin_implementation("taps")  # for the rest of the process; None ends it
        with pin_implementation("branches"): ...  # in this thread, and in backward passes that it begins

    The environment variable RFNEXT_IMPLEMENTATION does the same from the start of the process; an empty one is ignored.

    Without a pin, "auto" measures. For the first layer of each kind (channels, kernel, stride, number of branches,
    and powers of two of batch and size), it times a forward and backward pass of each candidate. The fastest is logged
    and used for the rest of the process, on a CPU by later processes, too (`rfnext.ops.kept_choices`). Two machines, or
    two runs that measure, may choose differently and then differ in rounding: pin an implementation, or use
    `reproducible`, for searches that repeat. Nothing is measured, and a fixed rule decides, under torch.compile, under
    torch.use_deterministic_algorithms and for tensors that are not plain (fake, distributed). Inside torch.func, in
    forward-mode differentiation, on the meta device, and where torch.jit.trace, torch.export, torch.onnx or make_fx
    records a graph, it is "branches", pinned or not: torch cannot transform or store the others.

    Raises:
        ValueError: if the name is unknown.
    """

    def __init__(self, implementation: str | None) -> None:
        if implementation is not None:
            check_implementation(implementation)
        super().__init__(implementation)
        _everywhere.append(self)


def reproducible(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within the block, implementation="auto" follows a fixed rule on a CPU, unless something is pinned, even "auto".

    On CPUs two runs of one seed give equal bits, but not if searched convs choose their implementation by measuring:

        with rfnext.reproducible(torch.device("cpu")):
            train(...)

    It concerns the thread that enters the block; others go on as they were.

    The rule is "native" if the kernels can be compiled and were written for the layer, else "taps". Equal bits are
    those of one machine and one number of threads, as with torch's own convs; pin "taps" to depend on no compiler.

    On GPUs it does nothing: there torch.use_deterministic_algorithms(True) makes runs repeat, searched convs included.
    """
    return _Pin(RULE) if device.type == "cpu" and pinned() is None else contextlib.nullcontext()


def checked_pin() -> str | None:
    """What is pinned, or ValueError if the environment asks for what is unknown."""
    name = pinned()
    if name not in (None, RULE):
        check_implementation(name, "the environment variable RFNEXT_IMPLEMENTATION asks for an ")
    return name
