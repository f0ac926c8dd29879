"""A whole small search on the device, twice: the same structure and the same weights, bit for bit."""

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rfnext import Bounds, LocalConfig, LocalSearch, Structure, pin_implementation
from tests.gpu.findings import DEVICE, ON_GPU, Wrong, check, without_tf32

ROUNDS, STEPS = (4, 20) if ON_GPU else (2, 3)


class Outcome(NamedTuple):
    """What a search leaves."""

    structure: Structure
    start: Structure
    state: dict[str, Tensor]


def search(implementation: str | None) -> Outcome:
    """Learn to repeat the input of 12 positions before."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(4, 16, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(16, 4, 3, padding=4, dilation=4)
    ).to(DEVICE)
    running = LocalSearch(network, LocalConfig(rounds=ROUNDS, branches=3, bounds=Bounds(1, 24)))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    pinned = contextlib.nullcontext() if implementation is None else pin_implementation(implementation)
    with pinned:
        for _ in range(ROUNDS):
            for _ in range(STEPS):
                x = torch.randn(4, 4, 64, generator=generator).to(DEVICE)
                optimizer.zero_grad()
                (network(x)[..., 12:] - x[..., :-12]).square().mean().backward()
                optimizer.step()
            running.after_step()
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    return Outcome(running.structure(), running.initial, state)


def twice(implementation: str | None) -> dict[str, object]:
    """Run the search two times and compare."""
    one, two = search(implementation), search(implementation)
    if one.structure != two.structure:
        raise Wrong(f"two runs found {dict(one.structure)} and {dict(two.structure)}")
    if differing := [name for name, value in one.state.items() if not torch.equal(value, two.state[name])]:
        raise Wrong(f"two runs differ in {', '.join(differing)}")
    if ON_GPU and one.structure == one.start:
        raise Wrong(f"the search moved nothing: {dict(one.start)}")
    return {"found": str(dict(one.structure)), "equal tensors": len(one.state)}


def main() -> None:
    """By the fixed rule, and by each implementation that runs everywhere or on GPUs."""
    without_tf32()
    torch.use_deterministic_algorithms(True)
    for implementation in (None, "branches", "taps", *(("triton",) if ON_GPU else ())):
        with check(search="local", implementation=implementation or "the rule") as found:
            found |= twice(implementation)


if __name__ == "__main__":
    main()
