"""Trying a conv's own forward() leaves no trace on the conv and what is inside it."""

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import rfnext
from rfnext.convs.searchable import unsearchable


class Stateful(nn.Conv1d):
    """Changes everything that it has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(2)
        self.inner = nn.ModuleList([nn.BatchNorm1d(2, affine=False)])
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[int, ...]] = []
        self.last: Tensor | None = None
        self.calls = nn.Buffer(torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        self.scale.data.mul_(2)
        self.weight.data.mul_(0.5)
        self.inner.get_buffer("0.running_mean").add_(1)
        self.seen.append(tuple(input.shape))
        noise = random.random() * torch.rand(())
        self.last = super().forward(self.norm(input) * self.scale + 0 * noise)
        return self.last


@pytest.mark.parametrize("training", [True, False])
def test_nothing_inside_the_conv_changes(training: bool) -> None:
    conv = Stateful(2, 2, 3, padding=1).train(training)
    conv.norm.eval()
    state, generators = copy.deepcopy(conv.state_dict()), (torch.get_rng_state(), random.getstate())
    modes = [module.training for module in conv.modules()]
    fired: list[nn.Module] = []
    conv.norm.register_forward_pre_hook(lambda module, _: fired.append(module))
    conv.norm.register_forward_hook(lambda module, *_: fired.append(module))
    assert unsearchable(conv) is None
    rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))
    for name, value in conv.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert (conv.seen, conv.last, fired) == ([], None, [])
    assert [module.training for module in conv.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]


def test_observers_of_quantisation_keep_their_ranges() -> None:
    qat = pytest.importorskip("torch.ao.nn.qat")
    from torch.ao.quantization import get_default_qat_qconfig

    conv = qat.Conv2d(2, 3, 3, qconfig=get_default_qat_qconfig("fbgemm"))
    state = copy.deepcopy(conv.state_dict())
    ranges = [copy.deepcopy(vars(module).get("_buffers")) for module in conv.modules()]
    assert unsearchable(conv) is None
    assert all(torch.equal(value, state[name]) for name, value in conv.state_dict().items())
    for module, before in zip(conv.modules(), ranges, strict=True):
        assert all(torch.equal(value, before[name]) for name, value in module.named_buffers(recurse=False))


class WithLazyLayer(nn.Conv1d):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.LazyBatchNorm1d()

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(self.norm(input))


def test_lazy_layers_inside_are_not_initialised() -> None:
    conv = WithLazyLayer(2, 2, 3)
    assert unsearchable(conv) is None
    assert torch.nn.parameter.is_lazy(conv.norm.weight)
    assert conv(torch.randn(1, 2, 9)).shape == (1, 2, 7)
    assert not torch.nn.parameter.is_lazy(conv.norm.weight)


class Remembering(nn.Conv1d):
    """Keeps a tensor with a graph, which torch cannot deep-copy."""

    last: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        self.last = super().forward(input)
        return self.last


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of weight_norm
def test_tensors_with_a_graph_do_not_stand_in_the_way() -> None:
    conv = Remembering(2, 2, 3)
    conv(torch.randn(1, 2, 9))
    last = conv.last
    assert unsearchable(conv) is None
    assert conv.last is last
    normed = nn.utils.weight_norm(Remembering(2, 2, 3))  # the old kind, whose weight has a graph
    normed(torch.randn(1, 2, 9))
    assert unsearchable(normed) is None


class Holding(nn.Conv1d):
    """Has an attribute that cannot be copied."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lines = (line for line in ())

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


def test_a_conv_that_cannot_be_copied_is_said_not_to_have_been_tried() -> None:
    reason = unsearchable(Holding(2, 2, 3)) or ""
    assert "could not be tried" in reason
    assert "pads" not in reason


def test_a_parametrised_weight_is_not_computed() -> None:
    conv = parametrizations.spectral_norm(Remembering(2, 2, 3))
    state = copy.deepcopy(conv.state_dict())
    assert unsearchable(conv) is None  # type: ignore[arg-type]
    assert all(torch.equal(value, state[name]) for name, value in conv.state_dict().items())
