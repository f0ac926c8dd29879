"""Training steps of whole networks: on the device as on the CPU in float64, and what searching costs beside plain."""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from tests.gpu.findings import DEVICE, ON_GPU, check, error_of, within, without_tf32
from tests.gpu.layer_speed import extra_mib, times_of
from tests.gpu.networks import NAMES, searched, subject


def gradients(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The loss and its gradients: of the branch weights, and of all other parameters together."""
    loss = network(*inputs).square().mean()
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    groups: dict[str, list[Tensor]] = {"the gradient of the branch weights": [], "the gradient of the others": []}
    for (name, gradient), group in ((pair, groups) for pair in zip(named, found, strict=True)):
        kind = "branch weights" if name.endswith("branch_weight") else "others"
        group[f"the gradient of the {kind}"].append(gradient.flatten())
    return {"the loss": loss} | {name: torch.cat(parts) for name, parts in groups.items()}


def compare(name: str) -> dict[str, float]:
    """Loss and gradients of a searched network on the device against those of its copy in float64 on the CPU."""
    of = subject(name)
    searched(of)
    of.network.eval()  # without dropout
    exact = gradients(copy.deepcopy(of.network).double(), tuple(t.double() for t in of.inputs))
    found = gradients(of.network.to(DEVICE), tuple(t.to(DEVICE) for t in of.inputs))
    return within({part: error_of(found[part], exact[part]) for part in exact}, 1e-2)


def steps(name: str, *, low: bool) -> dict[str, Callable[[], object]]:
    """A training step of the plain network and of the searched one."""

    def step(is_searched: bool) -> Callable[[], object]:
        of = subject(name)
        if is_searched:
            searched(of)
        network, inputs = of.network.to(DEVICE).train(), tuple(t.to(DEVICE) for t in of.inputs)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

        def run() -> None:
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=low):
                loss = network(*inputs).float().square().mean()
            loss.backward()
            optimizer.step()

        return run

    return {"plain": step(False), "searched": step(True)}


def cost(name: str, *, low: bool) -> dict[str, float]:
    """Milliseconds of the plain step, the ratio of the searched one, and the peak memory of each step in MiB."""
    both = steps(name, low=low)
    times = times_of(both, 20 if ON_GPU else 1)
    found = {"plain, ms": 1000 * times["plain"], "searched, ratio": times["searched"] / times["plain"]}
    return found | ({f"{way}, MiB": extra_mib(run) for way, run in both.items()} if ON_GPU else {})


def precisions() -> Iterator[tuple[str, bool]]:
    """Name, and whether it is under autocast."""
    yield "float32", False
    if ON_GPU:
        yield "bfloat16 autocast", True


def main() -> None:
    """Values first, then times."""
    without_tf32()
    for name in NAMES:
        with check(network=name, compared="values") as found:
            found |= compare(name)
    for name in NAMES:
        for precision, low in precisions():
            with check(network=name, compared=f"cost, {precision}") as found:
                found |= cost(name, low=low)


if __name__ == "__main__":
    main()
