"""Causal networks stay causal at anchor "last", from the search to the merged network, and are found out without it."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfnext
from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, SearchConv, Structure
from rfnext.convs.searchable import unsearchable
from rfnext.structure import named_convs, searched_convs
from tests.rfnext.causal_networks import KINDS, CausalConv1d, Chomp1d, Kind, direct_sum, reads_ahead, tcn

CONFIG = LocalConfig(rounds=3, branches=3, bounds=rfnext.Bounds(1, 8))

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))


def unequal(model: nn.Module) -> None:
    for conv in searched_convs(model).values():
        with torch.no_grad():
            conv.branch_weight.copy_(torch.linspace(0.01, 0.03, len(conv.branch_weight)))


def searched(kind: Kind, **more: Any) -> tuple[nn.Module, LocalSearch]:
    model = kind.network()
    search = LocalSearch(model, CONFIG, anchor=kind.anchor, **more)
    unequal(model)
    return model, search


def seen_by_convs(model: nn.Module, x: Tensor) -> list[tuple[SearchConv, Tensor, Tensor]]:
    """Every searched conv with its input and output."""
    seen: list[tuple[SearchConv, Tensor, Tensor]] = []
    handles = [
        conv.register_forward_hook(lambda conv, args, y: seen.append((conv, args[0], y)))
        for conv in searched_convs(model).values()
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen


# Each of the networks, at each stage


@every_kind
def test_the_networks_are_causal_and_a_search_at_the_centre_is_refused_by_name(kind: Kind) -> None:
    model, x = kind.network(), kind.input()
    assert not reads_ahead(model, x)
    assert rfnext.is_causal(model, x)
    before = copy.deepcopy(model.state_dict())
    searchable = [name for name, conv in named_convs(model).items() if unsearchable(conv) is None]
    expected = "no conv to search"  # an even kernel has no centre, and classes that pad do not stay in place
    if searchable:
        expected = rf"would depend on later inputs at other dilations of .*{searchable[-1]}.*anchor=\"last\""
    for search in (LocalSearch, OneShotSearch):
        config: Any = CONFIG if search is LocalSearch else OneShotConfig((1, 2, 4))
        with pytest.raises(ValueError, match=expected):
            search(model, config, example=x)
    assert not searched_convs(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@every_kind
def test_searched_networks_are_causal_and_keep_their_size_before_and_after_a_round(kind: Kind) -> None:
    x = kind.input()
    model, search = searched(kind, example=x)
    size = kind.network()(x).shape
    for _ in range(2):
        assert model(x).shape == size
        assert not reads_ahead(model, x)
        unequal(model)
        assert search.after_step()
    designed = search.initial
    assert any(search.structure()[name] != designed[name] for name in designed)
    assert search.structure().anchors == designed.anchors
    assert set(designed.anchors.values()) == {kind.anchor}


@pytest.mark.parametrize("name", ["ConstantPad1d", "TCN", "WaveNet", "CausalConv1d", "CroppedConv1d"])
def test_a_searched_conv_is_the_direct_sum_over_its_branches(name: str) -> None:
    """The hooks see the input as the module gets it, so the place of the first output's last tap differs."""
    kind = KINDS[name]
    model, search = searched(kind)
    designed = [d for (d,) in search.initial.values()]
    search.after_step()
    unequal(model)
    seen = seen_by_convs(model, kind.input())
    assert len(seen) == len(designed)
    for (conv, x, y), d in zip(seen, designed, strict=True):
        weight = cast(nn.Conv1d, conv).weight.detach()
        offset = (weight.shape[-1] - 1) * d if name in ("ConstantPad1d", "WaveNet") else 0
        shares = conv.probability.detach()
        expected = sum(
            p * direct_sum(x, weight, cast(nn.Conv1d, conv).bias.detach(), dilation, offset, y.shape[-1])
            for p, (dilation,) in zip(shares, conv.dilations, strict=True)
        )
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@every_kind
def test_a_structure_from_a_file_is_the_network_that_is_built_with_these_dilations(kind: Kind, tmp_path: Path) -> None:
    """Those build their padding themselves."""
    x, path = kind.input(), tmp_path / "structure.json"
    Structure(kind.structure(kind.found), kind.anchor).save(path)
    single, built = kind.network(), kind.network(kind.found)
    Structure.load(path).apply(single)
    built.load_state_dict(single.state_dict())
    assert all(type(conv) is not SearchConv for conv in single.modules())
    torch.testing.assert_close(single(x), built(x), rtol=1e-12, atol=1e-12)
    assert not reads_ahead(single, x)
    Structure(kind.structure(kind.designed)).apply(single)  # silent about the anchor: the convs keep theirs
    torch.testing.assert_close(single(x), kind.network()(x), rtol=1e-12, atol=1e-12)


@every_kind
def test_kept_branches_and_the_merged_network_are_the_same_causal_function(kind: Kind) -> None:
    x = kind.input()
    multi = kind.network()
    rfnext.keep_branches(multi, Structure(kind.structure(kind.found), kind.anchor), CONFIG)
    unequal(multi)
    assert not reads_ahead(multi, x)
    expected = multi(x)
    rfnext.merge(multi)
    assert not searched_convs(multi)
    torch.testing.assert_close(multi(x), expected, rtol=1e-11, atol=1e-11)
    assert not reads_ahead(multi, x)
    torch.testing.assert_close(copy.deepcopy(multi)(x), expected, rtol=1e-11, atol=1e-11)


@every_kind
def test_checkpoints_open_as_the_same_function_or_not_at_all(kind: Kind) -> None:
    x = kind.input()
    model, search = searched(kind)
    search.after_step()
    unequal(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    own, resumed = searched(kind)
    own.load_state_dict(state)
    torch.testing.assert_close(own(x), model(x), rtol=0, atol=0)
    resumed.load_state_dict(search.state_dict())
    assert resumed.structure() == search.structure()
    plain = kind.network()
    plain.load_state_dict(rfnext.plain_state_dict(state))
    search.structure().apply(plain)
    search.structure().apply(model)
    torch.testing.assert_close(plain(x), model(x), rtol=0, atol=0)
    assert not reads_ahead(plain, x)


def test_a_checkpoint_opens_only_at_its_anchor_and_older_ones_at_the_centre() -> None:
    def network(anchor: Any) -> nn.Module:
        model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
        LocalSearch(model, CONFIG, anchor=anchor)
        return model

    states = {anchor: network(anchor).state_dict() for anchor in ("centre", "last", ("centre", "last"))}
    for anchor, state in states.items():
        for other in states:
            if other == anchor:
                network(other).load_state_dict(state)
                continue
            with pytest.raises(RuntimeError, match="0: it was searched with anchor .* build the search with anchor="):
                network(other).load_state_dict(state)
    # What versions without anchors wrote: rule, centre, branches.
    assert torch.equal(states["centre"]["0._extra_state"], torch.tensor([[-1, -1], [1, 1], [1, 1], [2, 2]]))


@every_kind
def test_a_second_search_of_an_applied_structure_goes_on_at_its_anchor(kind: Kind) -> None:
    model, x = kind.network(), kind.input()
    Structure(kind.structure(kind.found), kind.anchor).apply(model)
    expected = model(x)
    search = LocalSearch(model, CONFIG)
    assert set(search.structure().anchors.values()) == {kind.anchor}
    unequal(model)
    search.after_step()
    assert not reads_ahead(model, x)
    assert model(x).shape == expected.shape


def test_evolution_proposes_structures_at_the_anchor_of_its_template() -> None:
    np = pytest.importorskip("numpy")
    kind = KINDS["TCN"]
    model = kind.network()
    template = Structure.read(model, anchor="last")
    evolution = rfnext.Evolution(template, rfnext.EvolutionConfig(3, 1, (1, 2, 3)), np.random.default_rng(0))
    for structure in evolution.ask():
        candidate = kind.network()
        structure.apply(candidate)
        assert not reads_ahead(candidate, kind.input())
        built = kind.network([d for (d,) in structure.values()])
        torch.testing.assert_close(candidate(kind.input()), built(kind.input()), rtol=1e-12, atol=1e-12)
    assert not Structure.read(model).anchors  # asking left the model as it was
    for other in (Structure.read(model), Structure.read(model, anchor="last")):
        resumed = rfnext.Evolution(other, rfnext.EvolutionConfig(3, 1, (1, 2, 3)), np.random.default_rng(0))
        if other == template:
            resumed.load_state_dict(evolution.state_dict())
            continue
        with pytest.raises(ValueError, match="another template; its anchors are"):
            resumed.load_state_dict(evolution.state_dict())


def test_one_shot_search_is_causal_and_even_kernels_have_all_candidates() -> None:
    kind = KINDS["WaveNet"]
    model = kind.network()
    search = OneShotSearch(model, OneShotConfig((1, 2, 4, 8)), anchor="last", example=kind.input())
    assert all(conv.dilations == ((1,), (2,), (4,), (8,)) for conv in searched_convs(model).values())
    unequal(model)
    assert not reads_ahead(model, kind.input())
    found = search.structure()
    single = kind.network()
    found.apply(single)
    built = kind.network([d for (d,) in found.values()])
    torch.testing.assert_close(single(kind.input()), built(kind.input()), rtol=1e-12, atol=1e-12)


# Which anchor


def test_anchors_by_layer() -> None:
    """A causal conv behind a centred one."""
    model = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), *tcn([2]))
    search = LocalSearch(model, CONFIG, anchor=lambda name, conv: "centre" if name == "0" else "last")
    assert search.structure().anchors == {"1": "last"}
    assert [(name, tuple(conv.dilations)) for name, conv in searched_convs(model).items()] == [
        ("0", ((1,), (2,))),
        ("1", ((1,), (2,), (3,))),
    ]


def test_anchors_stay_on_what_is_searched_alone() -> None:
    """One per axis fits the images; 1 x 1 convs have none, whatever their axes, and even kernels are searched."""
    model = nn.Sequential(nn.Conv2d(4, 4, (3, 2), padding=(1, 0)), nn.Flatten(2), nn.Conv1d(4, 4, 1))
    search = LocalSearch(model, CONFIG, anchor=("centre", "last"))
    assert search.structure().anchors == {"0": ("centre", "last")}
    assert cast(SearchConv, model[0]).dilations == ((1, 1), (2, 2))
    search.structure().apply(model)
    picked = nn.Sequential(nn.Conv1d(4, 4, 3), ByItsDilation(4, 4, 3))
    LocalSearch(picked, CONFIG, anchor="last")
    assert "rfnext_anchor" not in vars(picked[1])


def test_what_wraps_around_is_never_causal() -> None:
    with pytest.raises(ValueError, match="layer '0': padding_mode 'circular' reads the input's end"):
        LocalSearch(nn.Sequential(nn.Conv1d(4, 4, 3, padding_mode="circular")), CONFIG, anchor="last")


@pytest.mark.parametrize("anchor", ["first", ("last", "last"), (), ("last", "first"), 1])
def test_what_is_no_anchor_names_the_layer_and_changes_nothing(anchor: Any) -> None:
    model = KINDS["TCN"].network()
    with pytest.raises((ValueError, TypeError), match="anchor"):
        LocalSearch(model, CONFIG, anchor=anchor)
    with pytest.raises(ValueError, match="'0'.*anchor"):
        Structure({"0": (1,)}, {"0": anchor})
    assert not searched_convs(model)
    assert not Structure.read(model).anchors


def test_structures_know_their_anchors(tmp_path: Path) -> None:
    one, other = Structure({"a": (1, 2), "b": 3}, {"a": ("last", "last")}), Structure({"a": (1, 2), "b": 3})
    assert one != other
    assert one == Structure({"a": (1, 2), "b": 3}, {"a": "last"})
    assert hash(one) == hash(Structure({"a": (1, 2), "b": 3}, {"a": "last"}))
    one.save(tmp_path / "one.json")
    other.save(tmp_path / "other.json")
    assert Structure.load(tmp_path / "one.json") == one
    assert Structure.load(tmp_path / "other.json") == other
    assert '"version": 2' in (tmp_path / "one.json").read_text()  # older versions refuse what they would misread
    assert '"version": 1' in (tmp_path / "other.json").read_text()
    with pytest.raises(ValueError, match="anchor for layer 'c', but no dilation"):
        Structure({"a": 1}, {"c": "last"})


def test_a_structure_found_at_another_anchor_is_refused_by_a_searched_conv() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1))
    LocalSearch(model, CONFIG)
    with pytest.raises(ValueError, match=r"layer '0' is searched with anchor \('centre',\)"):
        Structure({"0": 2}, "last").apply(model)
    assert searched_convs(model)


# What is found out


def test_is_causal_of_networks_that_are_and_are_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 64)
    centred = nn.Conv1d(4, 4, 3, padding=1)
    assert not rfnext.is_causal(centred, x)
    assert rfnext.is_causal(nn.Conv1d(4, 4, 1), x)
    assert not rfnext.is_causal(lambda x: x - x.mean(-1, keepdim=True), x)
    assert not rfnext.is_causal(nn.AdaptiveAvgPool1d(1), x)
    assert rfnext.is_causal(lambda x: x.cumsum(-1), x)
    assert not rfnext.is_causal(lambda x: x + 1e-6 * centred(x), x)  # as layer scale begins
    attention = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(64)
    assert rfnext.is_causal(lambda x: attention(x.mT, mask, is_causal=True).mT, x)
    assert not rfnext.is_causal(lambda x: attention(x.mT).mT, x)
    lstm = nn.LSTM(4, 4)
    assert rfnext.is_causal(lambda x: lstm(x.movedim(-1, 0))[0].movedim(0, -1), x)
    # At another rate: frames of 4 samples, and back.
    frames, samples = nn.Conv1d(4, 4, 4, 4), nn.ConvTranspose1d(4, 4, 4, 4)
    assert rfnext.is_causal(frames, x)
    assert rfnext.is_causal(nn.Sequential(frames, samples), x[..., :32])
    assert not rfnext.is_causal(nn.Sequential(nn.ConstantPad1d((0, 1), 0.0), nn.Conv1d(4, 4, 5, 4)), x)
    spectrogram = torch.randn(1, 4, 16, 32)
    conv = nn.Sequential(nn.ZeroPad2d((2, 0, 1, 1)), nn.Conv2d(4, 4, 3))
    assert rfnext.is_causal(conv, spectrogram)
    assert not rfnext.is_causal(conv, spectrogram, axis=-2)


def test_is_causal_leaves_the_network_as_it_is_and_says_what_it_cannot_try() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.Dropout()).train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    assert rfnext.is_causal(model, torch.randn(2, 4, 16))
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for dtype in (torch.int64, torch.bfloat16):
        with pytest.raises(TypeError, match=rf"the input is {dtype}; .* in float32 or float64"):
            rfnext.is_causal(model, torch.zeros(2, 4, 16, dtype=dtype))
    with pytest.raises(TypeError, match="a tuple"):
        rfnext.is_causal(lambda x: (x, x), torch.randn(2, 4, 16))  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="of 2 axes"):
        rfnext.is_causal(lambda x: x.mean(-1), torch.randn(2, 4, 16))


def test_an_example_shows_that_other_networks_may_be_searched() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    LocalSearch(model, CONFIG, example=torch.randn(1, 4, 32, 32))
    assert len(searched_convs(model)) == 2


def test_the_axis_of_time_must_be_the_one_that_is_anchored_last() -> None:
    kind = KINDS["spectrograms"]
    with pytest.raises(ValueError, match="later inputs at other dilations of 1, 3: find the axis of time"):
        LocalSearch(kind.network(), CONFIG, anchor=("last", "centre"), example=kind.input())


class PadsByTheConvs(nn.Module):
    """A parent that pads by the conv's own dilation, which a search changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (2 * self.conv.dilation[0], 0)))


class CropsByTheConvs(PadsByTheConvs):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, dilation=2, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)[..., : -self.conv.padding[0]]


@pytest.mark.parametrize("parent", [PadsByTheConvs, CropsByTheConvs])
@pytest.mark.parametrize("anchor", ["centre", "last"])
def test_a_parent_that_follows_the_dilation_is_found_by_the_example(parent: Callable[[], Any], anchor: Any) -> None:
    model = parent()
    with pytest.raises(ValueError, match="another size than .* at other dilations of conv: the module around"):
        LocalSearch(model, CONFIG, anchor=anchor, example=torch.randn(1, 4, 32))
    assert (model.conv.dilation, model.conv.padding_mode) == ((2,), "zeros")


class ByItsDilation(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (2 * self.dilation[0], 0)))


class ByItsPadding(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[..., : -self.padding[0]]


@pytest.mark.parametrize("conv", [ByItsDilation(4, 4, 3, dilation=2), ByItsPadding(4, 4, 3, dilation=2, padding=4)])
def test_a_class_that_pads_by_its_dilation_would_pad_twice_and_is_refused(conv: nn.Conv1d) -> None:
    model = nn.Sequential(conv)
    for search in (
        lambda: LocalSearch(model, CONFIG, anchor="last"),
        lambda: Structure({"0": 4}, "last").apply(model),
        lambda: rfnext.keep_branches(model, Structure({"0": 4}, "last"), CONFIG),
    ):
        with pytest.raises(ValueError, match=r"0'?.* pads or crops there by its own dilation or padding"):
            search()
    assert type(conv).__mro__[1] is nn.Conv1d
    assert not Structure.read(model).anchors


class Convolving(nn.Conv1d):
    """Convolves by itself, padded by its dilation: it needs nothing of ours, and cannot be searched."""

    def forward(self, input: Tensor) -> Tensor:
        padded = F.pad(input, (2 * self.dilation[0], 0))
        return F.conv1d(padded, self.weight, self.bias, dilation=self.dilation)


def test_a_class_that_convolves_by_itself_takes_a_structure() -> None:
    model, x = nn.Sequential(Convolving(4, 4, 3, dilation=2).double()), KINDS["TCN"].input()
    Structure({"0": 5}, "last").apply(model)
    conv = cast(nn.Conv1d, model[0])
    expected = direct_sum(x, conv.weight.detach(), cast(Tensor, conv.bias).detach(), 5, 0, 48)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: tcn([2]), "0"),
        (lambda: nn.Sequential(nn.ConstantPad1d((8, 0), 0.0), nn.Conv1d(4, 4, 3, dilation=4)), "1"),
        (lambda: Causal(), "conv"),
    ],
)
def test_padding_that_looks_causal_is_warned_of_by_name_unless_the_anchor_is_last(
    model: Callable[[], nn.Module], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for change in (
        lambda: LocalSearch(model(), CONFIG),
        lambda: OneShotSearch(model(), OneShotConfig((1, 2))),
        lambda: Structure({name: 8}).apply(model()),
        lambda: rfnext.keep_branches(model(), Structure({name: 8}), CONFIG),
    ):
        caplog.clear()
        change()
        (record,) = [record for record in caplog.records if "causal" in record.getMessage()]
        assert record.getMessage().startswith(f"{name}: padded as causal convs are")
        assert 'anchor="last"' in record.getMessage()
    caplog.clear()
    LocalSearch(model(), CONFIG, anchor="last")
    Structure({name: 8}, "last").apply(model())
    assert not caplog.records


class Causal(nn.Module):
    """Says that it is, as transformers' codecs do."""

    def __init__(self) -> None:
        super().__init__()
        self.causal = True
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (2, 0)))


# Around it


def test_gradients_reach_every_parameter() -> None:
    model, _ = searched(KINDS["CausalConv1d"])
    assert isinstance(model[0], CausalConv1d)
    model(KINDS["CausalConv1d"].input()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_averaged_copies_follow() -> None:
    kind = KINDS["TCN"]
    model, search = searched(kind)
    average = copy.deepcopy(model)
    search.after_step()
    unequal(model)
    search.copy_to(average)
    torch.testing.assert_close(average(kind.input()), model(kind.input()), rtol=0, atol=0)


@pytest.mark.parametrize("merged", [False, True])
def test_found_networks_are_exported_as_they_are(merged: bool) -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3, padding=4, dilation=2), Chomp1d(4)).eval()
    structure = Structure({"0": 5}, "last")
    if merged:
        rfnext.keep_branches(model, structure, CONFIG)
        unequal(model)
        rfnext.merge(model)
    else:
        structure.apply(model)
    x = torch.randn(1, 4, 40)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_the_receptive_field_lies_in_the_past() -> None:
    from rfnext.receptive_field import theoretical_receptive_field

    model = nn.Sequential(nn.ConstantPad1d((8, 0), 0.0), nn.Conv1d(4, 4, 3, dilation=4))
    x = torch.randn(1, 4, 64)
    LocalSearch(model, LocalConfig(), anchor="last")  # branches 2 and 6
    assert theoretical_receptive_field(model, x, (30,)) == [(18, 30)]
    Structure({"1": 2}).apply(model)
    assert theoretical_receptive_field(model, x, (30,)) == [(26, 30)]


class PaddedByDilation(nn.Module):
    """As TensorFlow's "same" is written around a conv."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = self.conv.dilation
        return self.norm(self.conv(F.pad(x, (right, right, bottom, bottom))))


class CroppedByPadding(PaddedByDilation):
    """As causal convs are written: the end is cropped by what the conv pads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)[:, :, : -self.conv.padding[0]])


@pytest.mark.parametrize("parent", [PaddedByDilation, CroppedByPadding])
@pytest.mark.parametrize("anchor", ["centre", "last"])
def test_a_conv_whose_parent_follows_its_dilation_is_not_searched(
    parent: type[PaddedByDilation], anchor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be padded twice, and a network without residuals would go on at another size."""
    model = nn.Sequential(parent(), nn.Conv2d(4, 4, 3, padding=1))
    search = LocalSearch(model, CONFIG, anchor=anchor)
    assert list(search.convs) == ["1"]
    assert any(
        record.getMessage().startswith("0.conv: not searched, the module around it") for record in caplog.records
    )
    with pytest.raises(ValueError, match="0.conv: the module around it pads or crops by its dilation"):
        LocalSearch(nn.Sequential(parent()), CONFIG, anchor=anchor)
    for refused in (
        lambda: Structure({"0.conv": 2}, anchor).apply(model),
        lambda: rfnext.keep_branches(model, Structure({"0.conv": 2}, anchor), CONFIG),
    ):
        with pytest.raises(ValueError, match="layer '0.conv': the module around it pads or crops by its dilation"):
            refused()
    assert not isinstance(named_convs(model)["0.conv"], SearchConv)
    Structure({"0.conv": 1}, anchor).apply(model)  # its own dilation


class Residual(nn.Module):
    """Pads by an amount of its own, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv1d(4, 4, 3, dilation=2))
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.norm(self.conv(F.pad(x, (4, 0)))) + torch.rand(1)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
def test_parents_are_tried_without_a_trace() -> None:
    model = Residual()
    model(torch.randn(2, 4, 20))  # the older weight_norm's weight has a graph now
    seen: list[str] = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: seen.append("called"))
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    LocalSearch(model, CONFIG, anchor="last")
    assert torch.equal(generator, torch.get_rng_state())
    assert (model.calls, seen, model.training, model.norm.training) == (1, [], True, True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
