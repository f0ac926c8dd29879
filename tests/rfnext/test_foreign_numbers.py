"""Networks and structures whose numbers are NumPy's, torch's or not in tuples, as torch itself takes them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rfnext
from rfnext import Structure
from rfnext.description import describe, restore
from rfnext.structure import named_convs


def by_numpy() -> nn.Module:
    """Built as some TCNs are: by dilations, channels and groups of NumPy."""
    channels = np.int64(4)
    convs = [nn.Conv1d(channels, channels, 3, padding=d, dilation=d, groups=channels) for d in 2 ** np.arange(3)]  # type: ignore[arg-type]
    return nn.Sequential(*convs)


def by_attributes() -> nn.Module:
    """Dilated after it was built, as backbones are for segmentation."""
    model = nn.Sequential(*(nn.Conv1d(4, 4, 3, padding=1, groups=4) for _ in range(3)))
    for k, conv in enumerate(model):
        assert isinstance(conv, nn.Conv1d)
        conv.dilation = conv.padding = (2**k, [2**k], (2**k,))[k]  # type: ignore[assignment]
    return model


def plain() -> nn.Module:
    return nn.Sequential(*(nn.Conv1d(4, 4, 3, padding=2**k, dilation=2**k, groups=4) for k in range(3)))


@pytest.mark.parametrize("build", [by_numpy, by_attributes])
def test_a_network_is_searched_as_one_of_plain_numbers(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    x = torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(0))
    model, expected = build(), plain()
    expected.load_state_dict(model.state_dict())
    assert torch.equal(model(x), expected(x))
    assert str(rfnext.plan(model)) == str(rfnext.plan(expected))
    searches = [rfnext.LocalSearch(each, rfnext.LocalConfig(rounds=1, branches=3)) for each in (model, expected)]
    for search, each in zip(searches, (model, expected), strict=True):
        for conv in search.convs.values():
            with torch.no_grad():
                conv.branch_weight.copy_(torch.linspace(0.01, 0.03, len(conv.branch_weight)))
        each(x).square().mean().backward()
        search.after_step()
    assert torch.equal(model(x), expected(x))
    assert json.dumps(searches[0].state_dict()) == json.dumps(searches[1].state_dict())
    searches[0].structure().save(tmp_path / "found.json")
    assert Structure.load(tmp_path / "found.json") == searches[1].structure()
    rfnext.merge(model)
    torch.save({"convs": describe(model), "state_dict": model.state_dict()}, tmp_path / "merged.pt")
    file = torch.load(tmp_path / "merged.pt")  # by default of plain values alone
    restore(fresh := build(), file["convs"], file["state_dict"])
    torch.testing.assert_close(fresh(x), expected(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [by_numpy, by_attributes])
def test_an_accelerated_network_computes_as_torchs(build: Callable[[], nn.Module]) -> None:
    x = torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(0))
    model = build()
    expected = model(x)
    with rfnext.reproducible(torch.device("cpu")):  # by the kernels, if there is a compiler
        assert rfnext.accelerate(model) == ["0", "1", "2"]
        torch.testing.assert_close(model(x), expected)


def test_a_structure_applies_to_attributes_of_any_kind() -> None:
    structure = Structure({str(k): 3 for k in range(3)})
    for build in (by_numpy, by_attributes, plain):
        structure.apply(model := build())
        assert [(conv.dilation, conv.padding) for conv in named_convs(model).values()] == 3 * [((3,), (3,))]


def test_what_is_no_number_of_the_conv_is_left_as_it_is() -> None:
    conv = nn.Conv1d(1, 1, 3, padding="same")
    assert named_convs(copy.deepcopy(conv))[""].padding == "same"
    conv.in_channels = None  # type: ignore[assignment]
    assert named_convs(conv)[""].in_channels is None


def test_tuples_of_one_number_are_for_all_axes() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=(2,), dilation=(2,)))  # type: ignore[arg-type]
    plain = nn.Sequential(nn.Conv2d(2, 2, 3, padding=2, dilation=2))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(1, 2, 9, 9)
    assert torch.equal(model(x), plain(x))
    search = rfnext.LocalSearch(model, rfnext.LocalConfig(rounds=1))
    assert search.convs["0"].dilations == ((1, 1), (3, 3))
    torch.testing.assert_close(model(x), rfnext.LocalSearch(plain, search.config).model(x))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.array([3, 2]), (3, 2)),
        ((np.int32(3), np.int64(2)), (3, 2)),
        (torch.tensor(3), 3),
        (torch.tensor([3, 2]), (3, 2)),
        ([torch.tensor(3), 2], (3, 2)),
    ],
)
def test_dilations_of_numpy_and_torch(given: Any, meant: Any, tmp_path: Path) -> None:
    structure = Structure({"conv": given})
    assert structure == Structure({"conv": meant})
    structure.save(tmp_path / "s.json")
    assert Structure.load(tmp_path / "s.json") == structure


@pytest.mark.parametrize("given", [np.float64(3), np.bool_(True), torch.tensor(3.0), torch.tensor(True), np.array([])])
def test_other_values_of_numpy_and_torch_are_no_dilations(given: Any) -> None:
    with pytest.raises(ValueError, match="layer 'conv': dilation .* is not a positive integer"):
        Structure({"conv": given})


def test_powers_of_two_below_no_integer() -> None:
    assert rfnext.powers_of_two(np.int64(30)) == (1, 2, 4, 8, 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the longest input is 30\.5, not an integer"):
        rfnext.powers_of_two(30.5)  # type: ignore[arg-type]
