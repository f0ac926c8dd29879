"""The kernels for CPUs under gcc's address and undefined-behaviour sanitizers, over random and degenerate shapes:

    python -m tests.rfnext.ops.sanitized_kernels --calls 800 --seed 0

Each call is a forward and a backward pass, compared with the definition. The last line is JSON: calls; those of layers
that the kernels were written for ("native"); calls whose result was wrong; reports of the sanitizers. The exit status
is 1 if there is something to see, and 2 if nothing was tried: there are no sanitizers here, or the compiler ran out of
time.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from rfnext.ops import native_build
from tests.rfnext.ops.cases import Case

FLAGS = ("-O1", "-g", "-march=native", "-fopenmp", "-fsanitize=address,undefined", "-fsanitize-recover=address")

SECONDS = 900.0
"""That the compiler may take; with sanitizers it needs a minute, on a busy machine several."""

NOT_TRIED = 2
"""Exit status."""


def preloaded() -> str | None:
    """What a program must load first to load a library with sanitizers; None if gcc does not have it."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        return None
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):  # the first one looks for C++ exceptions when it is loaded
        done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    return " ".join(found) if all(os.path.isabs(path) for path in found) else None


def draw(rng: random.Random) -> Case:
    """A layer: axes of 0, 1 and odd lengths, dilations beyond the length, any stride, padding and crop."""
    axes = range(rng.choice((1, 1, 2, 2, 3)))
    depthwise = rng.random() < 0.35
    longest = {1: 260, 2: 20, 3: 7}[len(axes)]
    kernel = tuple(rng.choice((1, 2, 3, 3, 4, 5)) for _ in axes)
    size = tuple(rng.choice((0, 1, 1, 2, 3, longest, rng.randint(1, longest))) for _ in axes)
    # How much longer than the input it is once padding and kernel are through: the same for all branches.
    more = [rng.choice((0, 0, 0, 1, -1, 5)) if n > 1 else rng.choice((1, 2)) for n in size]
    dilations, padding = [], []
    for _ in range(rng.choice((2, 2, 3, 4))):
        row = tuple(rng.choice((1, 2, 3, rng.randint(1, 2 * longest))) for _ in axes)
        dilations.append(row)
        padding.append(tuple(sides(d * (k - 1) + m, rng) for d, k, m in zip(row, kernel, more, strict=True)))
    return Case(
        size,
        kernel,
        tuple(dilations),
        tuple(padding),
        stride=tuple(1 if depthwise and rng.random() < 0.8 else rng.choice((1, 1, 2, 3, 7)) for _ in range(3)),
        batch=rng.choice((0, 1, 1, 2, 3, 5)),
        groups=rng.choice((rng.randint(1, 9), 8, 16, 17, 35)) if depthwise else rng.randint(1, 3),
        channels=(1, 1) if depthwise else (rng.choice((1, 8, 8, 9, 17, 33, 70)), rng.choice((1, 8, 8, 9, 16, 31))),
        bias=rng.random() < 0.5,
    )


def sides(total: int, rng: random.Random) -> tuple[int, int]:
    """Padding before and after, of which one may crop."""
    before = rng.choice((total // 2, total // 2, 0, total, total + 1, -1))
    return before, total - before


def stored(tensor: Tensor, rng: random.Random) -> Tensor:
    """The same elements in another order in memory, or with gaps between them."""
    how = rng.choice(("as it is", "reversed", "gaps", "channels last", "channels last"))
    if how == "channels last" and tensor.dim() > 2:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == "reversed":
        axes = list(reversed(range(tensor.dim())))
        return tensor.permute(axes).contiguous().permute(axes)
    if how == "gaps":
        every_other = tuple(slice(1, 1 + 2 * n, 2) for n in tensor.shape)
        wide = tensor.new_empty([2 * n + 1 for n in tensor.shape])
        wide[every_other] = tensor
        return wide[every_other]
    return tensor


def is_right(case: Case, rng: random.Random) -> bool:
    """Compute a case, and compare output and gradients with those of the definition."""
    torch.set_num_threads(rng.choice((1, 1, 2, 3)))
    dtype = rng.choice((torch.float32, torch.float64))
    tensors = [stored(tensor.detach(), rng) for tensor in case.tensors(dtype)]
    asked = [tensor.requires_grad_() for tensor in tensors if rng.random() < 0.8]
    try:
        y = case.call("native", *tensors)
    except RuntimeError as error:
        if 0 in case.size and "Only zero batch or zero channel" in str(error):
            return True  # of torch's conv, to which layers are left that the kernels were not written for
        raise
    outputs = y, case.definition(*tensors)
    g = stored(torch.randn(outputs[0].shape, dtype=dtype), rng)
    found, right = ([y, *(torch.autograd.grad(y, asked, g) if asked else ())] for y in outputs)
    loose = 1e-9 if dtype == torch.float64 else 1e-3
    return all((a - b).norm() <= loose * (1 + b.norm()) for a, b in zip(found, right, strict=True))


def run(calls: int, seed: int, seconds: float) -> dict[str, int]:
    """In a process that has loaded the sanitizers: counts of calls, of those for the kernels, and of wrong results.

    seconds: for the compiler.
    """
    native_build.FLAGS_TRIED, native_build.SECONDS = (FLAGS,), seconds
    native_build.forget()
    start = time.monotonic()
    if reason := native_build.failure():
        print(reason, file=sys.stderr)
        raise SystemExit(NOT_TRIED if time.monotonic() - start >= seconds else 1)
    counts = {"calls": 0, "native": 0, "wrong": 0}
    for number in range(seed, seed + calls):
        rng = random.Random(number)
        torch.manual_seed(number)
        case = draw(rng)
        depthwise = case.channels == (1, 1) and max(case.stride[: len(case.size)]) == 1
        counts["calls"] += 1
        counts["native"] += case.batch > 0 and (depthwise or min(case.channels) >= 8)
        if not is_right(case, rng):
            counts["wrong"] += 1
            print(f"wrong with --calls 1 --seed {number}: {case}")
    return counts


def reports(said: str) -> list[str]:
    """The findings among what a process has written to stderr: the first line of each."""
    return [line for line in said.splitlines() if "runtime error:" in line or "ERROR: AddressSanitizer" in line]


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the process that calls the kernels, and sum up; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    preload = preloaded()
    if preload is None:
        print("gcc has no libasan.so here", file=sys.stderr)
        return NOT_TRIED
    start = time.monotonic()
    code = f"import {__spec__.name} as me, json; print(json.dumps(me.run({options.calls}, {options.seed}, {SECONDS})))"
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "LD_PRELOAD": preload,
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "RFNEXT_CACHE": f"{folder}/cache",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, errors="replace"
        )
    found = reports(done.stderr)
    if found or done.returncode:
        print(done.stderr, file=sys.stderr)
    if done.returncode == NOT_TRIED and not found:
        return NOT_TRIED
    *lines, last = [*found, *(done.stdout.splitlines() if done.returncode == 0 else ["{}"])]
    print(*lines, sep="\n", end="\n" if lines else "")
    counts = {**json.loads(last), "reports": len(found), "status": done.returncode}
    print(json.dumps({**counts, "seed": options.seed, "seconds": round(time.monotonic() - start, 1)}))
    return int(bool(done.returncode or found or counts["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
