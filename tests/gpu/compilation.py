"""Searched networks under torch.compile and in CUDA graphs: equal to the same network as it is."""

import torch
from torch import Tensor, nn

from rfnext import pin_implementation
from tests.gpu.findings import DEVICE, ON_GPU, NotRun, check, error_of, within, without_tf32
from tests.gpu.network_steps import gradients
from tests.gpu.networks import NAMES, searched, subject


def prepared(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A searched network and its inputs on the device."""
    of = subject(name)
    searched(of)
    return of.network.to(DEVICE).eval(), tuple(t.to(DEVICE) for t in of.inputs)


def compiled(name: str) -> dict[str, float]:
    """One graph, forward and backward; on the CPU without the compiler's back end, which takes minutes there."""
    network, inputs = prepared(name)
    expected = gradients(network, inputs)
    as_one_graph = torch.compile(network, fullgraph=True, backend="inductor" if ON_GPU else "aot_eager")
    y = as_one_graph(*inputs).square().mean()
    parameters = [p for p in network.parameters() if p.requires_grad]
    total = torch.cat([g.flatten() for g in torch.autograd.grad(y, parameters)])
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(network(*inputs).square().mean(), parameters)])
    errors = {"the loss": error_of(y, expected["the loss"]), "the gradients": error_of(total, whole)}
    return within(errors, 1e-2)


def replayed(name: str, implementation: str) -> dict[str, float]:
    """A forward and backward pass, recorded once and replayed with other inputs."""
    if not ON_GPU:
        raise NotRun("CUDA graphs need a CUDA device")
    network, inputs = prepared(name)
    with pin_implementation(implementation):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                gradients(network, inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = gradients(network, inputs)
        inputs[0].copy_(torch.randn_like(inputs[0]))
        graph.replay()
        torch.cuda.synchronize()
        expected = gradients(network, inputs)
    return within({part: error_of(recorded[part], expected[part]) for part in expected}, 1e-3)


def main() -> None:
    """One line per network and way."""
    without_tf32()
    for name in NAMES if ON_GPU else NAMES[:1]:
        for implementation in ("taps", "triton"):
            with check(network=name, way=f"CUDA graph, {implementation}") as found:
                found |= replayed(name, implementation)
        with check(network=name, way="torch.compile") as found:
            found |= compiled(name)


if __name__ == "__main__":
    main()
