"""merge: a searched network as plain convs that compute the same function."""

import copy
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, remove_spectral_norm, spectral_norm, weight_norm

import rfnext
from rfnext import Conv, LocalConfig, LocalSearch
from rfnext.convs.take_over import take_over
from rfnext.structure import searched_convs

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
INPUT = {1: (2, 4, 45), 2: (2, 4, 17, 15), 3: (2, 4, 9, 8, 9)}

# Axes, arguments of the conv, branches.
CASES: list[tuple[int, dict[str, Any], list[tuple[int, ...]]]] = [
    (1, {"kernel_size": 3, "padding": 1}, [(1,), (2,), (3,)]),
    (1, {"kernel_size": 3, "padding": 128, "dilation": 128}, [(115,), (128,), (141,)]),
    (1, {"kernel_size": 3, "padding": 4, "dilation": 4, "stride": 3}, [(2,), (4,), (6,)]),
    (1, {"kernel_size": 7, "padding": "same", "groups": 4, "bias": False}, [(1,), (3,)]),
    (1, {"kernel_size": 3, "dilation": 4}, [(2,), (6,)]),  # one branch crops, the other pads
    (1, {"kernel_size": 5, "padding": 4, "padding_mode": "reflect"}, [(1,), (2,)]),
    (1, {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, [(1,), (5,)]),
    (1, {"kernel_size": 3, "padding": 1}, [(4,)]),
    (2, {"kernel_size": 3, "padding": 1, "stride": 2}, [(1, 1), (2, 2)]),
    (2, {"kernel_size": 3, "padding": 1, "groups": 4, "out_channels": 4}, [(1, 1), (3, 3)]),
    (2, {"kernel_size": (3, 5), "padding": (1, 2)}, [(1, 2), (2, 1), (3, 3)]),
    (2, {"kernel_size": (3, 2), "padding": "same"}, [(1, 1), (3, 1)]),
    (2, {"kernel_size": (2, 3), "padding": (0, 1), "padding_mode": "replicate"}, [(1, 1), (1, 3)]),
    (2, {"kernel_size": 7, "padding": 3, "stride": 4}, [(1, 1), (2, 2)]),
    (2, {"kernel_size": 3, "padding": "valid"}, [(1, 1), (2, 3)]),
    (3, {"kernel_size": 3, "padding": 1, "groups": 2}, [(1, 1, 1), (2, 2, 2)]),
    (3, {"kernel_size": (3, 1, 2), "padding": "same"}, [(1, 1, 1), (4, 1, 1)]),
]


def legacy_weight_norm(conv: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and the vocoders of the field use it
        return weight_norm(conv)


WEIGHTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda conv: conv,
    "weight_norm": parametrizations.weight_norm,
    "weight_norm_legacy": legacy_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
}


def with_unequal_weights(model: nn.Module) -> nn.Module:
    for conv in searched_convs(model).values():
        with torch.no_grad():
            conv.branch_weight.add_(torch.linspace(0, 0.01, len(conv.branch_weight)))
    return model


def case_id(value: object) -> str:
    if isinstance(value, dict):
        return "-".join(f"{key.split('_')[0]}{v}" for key, v in value.items()).replace(" ", "")
    return str(value).replace(" ", "")


# torch's own convs say so for padding "same"; ours pad by themselves.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("axes", "settings", "branches"), CASES, ids=case_id)
def test_a_merged_conv_computes_the_same(
    axes: int, settings: dict[str, Any], branches: list[rfnext.Dilation], caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(CONV[axes](4, **({"out_channels": 8} | settings)))
    take_over(cast(Conv, model[0]), branches)
    with_unequal_weights(model)
    x = torch.randn(INPUT[axes])
    expected = model(x)
    caplog.set_level(logging.INFO, logger="rfnext")
    rfnext.merge(model)
    conv = cast(Conv, model[0])
    assert type(conv) is CONV[axes]
    assert set(conv.state_dict()) <= {"weight", "bias"}
    assert tuple(conv.weight.shape[2:]) == conv.kernel_size
    assert f"0: merged into kernel {conv.kernel_size}, dilation {conv.dilation}" in caplog.text
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_the_merged_kernel_is_no_larger_than_the_taps_need() -> None:
    """2 and 6 share the grid 2: taps at -6, -2, 0, 2, 6, so 7 of dilation 2. 115, 128, 141 share no grid but 1."""
    for branches, size, dilation in [
        ([(2,), (6,)], 7, 2),
        ([(12,), (24,)], 5, 12),
        ([(4,)], 3, 4),
        ([(115,), (128,), (141,)], 283, 1),
    ]:
        model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1))
        take_over(model[0], branches)  # type: ignore[arg-type]
        rfnext.merge(model)
        assert model[0].kernel_size == (size,)
        assert model[0].dilation == (dilation,)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_copy_is_merged_while_the_original_goes_on_being_searched(kind: str) -> None:
    model = nn.Sequential(
        WEIGHTS[kind](nn.Conv1d(2, 4, 3, padding=1)), nn.ReLU(), WEIGHTS[kind](nn.Conv1d(4, 2, 3, padding=1))
    )
    search = LocalSearch(model, LocalConfig(rounds=5, branches=3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def step(network: nn.Module) -> None:
        network.train()
        x = torch.randn(2, 2, 20)
        (network(x) - x.roll(3, -1)).square().mean().backward()

    for _ in range(3):
        optimizer.zero_grad()
        step(model)
        optimizer.step()
        search.after_step()
    with_unequal_weights(model)
    x = torch.randn(2, 2, 20)
    model.eval()
    with torch.no_grad():  # so that the older weight_norm leaves a weight that can be copied
        expected = model(x)
    merged = copy.deepcopy(model)
    rfnext.merge(merged)
    assert all(type(merged[i]).__name__.endswith("Conv1d") for i in (0, 2))
    assert not searched_convs(merged)
    assert all("weight" in dict(merged[i].named_parameters()) for i in (0, 2))
    torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)

    torch.testing.assert_close(model(x), expected)  # the original is as it was
    with torch.no_grad():
        for p in merged.parameters():
            p.zero_()
    torch.testing.assert_close(model(x), expected)
    optimizer.zero_grad()
    step(model)
    optimizer.step()
    assert search.after_step()
    assert not torch.allclose(model(x), expected)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_merged_network_trains(kind: str) -> None:
    model = nn.Sequential(WEIGHTS[kind](nn.Conv1d(2, 2, 3, padding=1)))
    LocalSearch(model, LocalConfig(branches=3))
    model(torch.randn(2, 2, 20)).sum().backward()
    rfnext.merge(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    before = model[0].weight.clone()
    losses = []
    for _ in range(30):
        x = torch.randn(4, 2, 20)
        optimizer.zero_grad()
        loss = (model(x) - 0.3 * x.roll(2, -1)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert (model[0].weight != before).any(dim=(0, 1)).all()  # every tap, those that were zero too


def test_the_older_weight_norm_is_merged_at_its_newest_weight() -> None:
    """Its hook refreshes `weight` in forward() only, and an optimizer step has passed since."""

    def searched() -> nn.Module:
        model = nn.Sequential(legacy_weight_norm(nn.Conv1d(2, 2, 3, padding=1)))
        LocalSearch(model, LocalConfig())
        return model

    model, twin, x = searched(), searched(), torch.randn(1, 2, 9)
    before = model(x)
    before.square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    twin.load_state_dict(model.state_dict())
    rfnext.merge(model)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(x), before, atol=1e-3)


def test_frozen_weights_stay_frozen() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.Conv1d(2, 2, 3, padding=1))
    model[0].requires_grad_(False)
    LocalSearch(model, LocalConfig())
    rfnext.merge(model)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_a_shared_conv_is_merged_once() -> None:
    conv = nn.Conv1d(2, 2, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    LocalSearch(model, LocalConfig())
    with_unequal_weights(model)
    x = torch.randn(1, 2, 9)
    expected = model(x)
    rfnext.merge(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_layer_whose_weight_is_read_by_its_parent_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The parent convolves by the larger kernel then, at its own dilation: it computes something else."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.called = (nn.Conv1d(2, 2, 3, padding=1, bias=False) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv1d(self.called(x), self.read.weight, padding="same")

    model, x = Reads(), torch.randn(1, 2, 20)
    LocalSearch(model, LocalConfig(branches=3))
    never = copy.deepcopy(model)
    rfnext.merge(never)  # nothing was called yet: nothing is known
    assert "not called" not in caplog.text
    before = model(x)
    rfnext.merge(model)
    assert not torch.allclose(model(x), before)
    assert re.search(r"1 of 2 merged layers were not called, .*\(read\)", caplog.text)


def test_a_network_that_is_not_searched_is_no_silent_success() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1))
    with pytest.raises(ValueError, match="nothing to merge: the model has no searched conv"):
        rfnext.merge(model)
    LocalSearch(model, LocalConfig())
    rfnext.merge(model)
    with pytest.raises(ValueError, match="nothing to merge"):
        rfnext.merge(model)


def test_convs_that_crop_on_every_branch_are_merged() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 3, dilation=8))
    for conv, branches in zip(model, ([(1,), (2,)], [(2,), (4,)]), strict=True):
        take_over(cast(Conv, conv), branches)
    x = torch.randn(1, 1, 40)
    expected = model(x)
    rfnext.merge(model)
    assert not searched_convs(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


# What cannot be merged


def test_weights_that_a_hook_makes_are_named_until_they_are_permanent() -> None:
    """The hook would overwrite the merged kernel with the old one at the next forward()."""

    def pruned(conv: nn.Conv1d) -> nn.Module:
        return prune.random_unstructured(conv, "weight", amount=0.5)

    undo: list[tuple[Any, Any]] = [(spectral_norm, remove_spectral_norm), (pruned, lambda c: prune.remove(c, "weight"))]
    for make, remove in undo:
        model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), make(nn.Conv1d(2, 2, 3, padding=1)))
        LocalSearch(model, LocalConfig())
        with_unequal_weights(model.eval())
        with pytest.raises(ValueError, match="layer '1': a hook makes its weight"):
            rfnext.merge(model)
        assert list(searched_convs(model)) == ["0", "1"]
        remove(model[1])
        x = torch.randn(1, 2, 9)
        expected = model(x)
        rfnext.merge(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_conv_changed_after_the_search_began_is_named_and_nothing_is_changed() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.Conv1d(2, 2, 3, padding=1))
    LocalSearch(model, LocalConfig())
    parametrizations.weight_norm(model[1])
    with pytest.raises(ValueError, match="layer '1': ParametrizedSearchConv1d was changed"):
        rfnext.merge(model)
    assert list(searched_convs(model)) == ["0", "1"]


# Export


class Exported(nn.Module):
    """A small network of strided, grouped and wide convs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        )
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).mean((2, 3))


def merged_network() -> tuple[nn.Module, Tensor, Tensor]:
    model = Exported().eval()
    LocalSearch(model, LocalConfig(branches=3))
    with_unequal_weights(model)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x)
    rfnext.merge(model)
    return model, x, expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_merged_network_exports_with_torch_export() -> None:
    model, x, expected = merged_network()
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), expected, rtol=1e-5, atol=1e-5)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called == {"aten.conv2d.default", "aten.relu.default", "aten.mean.dim"}  # plain convs, nothing of ours


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_merged_network_runs_in_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, x, expected = merged_network()
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)
