"""Which convs can be searched: by kernel, by class, and by what the class's own forward() does."""

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import rfnext
from rfnext import Conv, SearchConv
from rfnext.convs.searchable import is_conv, unsearchable
from rfnext.convs.take_over import take_over
from rfnext.structure import named_convs, searched_convs
from tests.rfnext.networks import CONFIG, network


def test_transposed_convs_are_left_alone() -> None:
    model = network()
    assert not is_conv(model[5])
    rfnext.LocalSearch(model, CONFIG)
    assert type(model[5]) is nn.ConvTranspose2d
    assert type(model[4]) is nn.Conv2d  # 1 x 1
    assert set(named_convs(model)) == {"0", "3", "4"}
    assert set(searched_convs(model)) == {"0", "3"}


def test_convs_without_an_odd_axis_are_passed_over_with_the_reason() -> None:
    for kernel in (1, 2, (1, 4), (2, 1)):
        assert "no odd axis above 1" in (unsearchable(nn.Conv2d(1, 1, kernel)) or "")
    for kernel in (3, (1, 3), (2, 5)):
        assert unsearchable(nn.Conv2d(1, 1, kernel)) is None
    assert "not initialised" in (unsearchable(nn.LazyConv2d(4, 3)) or "")


class OfTwoConvolutions(nn.Conv2d):
    """Half of it would keep the centre's dilation."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + super().forward(input.flip(-1))


@pytest.mark.defect(20)
def test_a_class_that_cannot_be_searched_is_refused_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    conv = OfTwoConvolutions(3, 4, 3, padding=1)
    x = torch.randn(1, 3, 9, 9)
    before = conv(x)
    said = r"OfTwoConvolutions overrides forward\(\)"
    with pytest.raises(ValueError, match=said):
        take_over(conv, [(1, 1), (2, 2)])
    with pytest.raises(ValueError, match=rf"no conv to search among the model's 1\. 0: {said}"):
        rfnext.LocalSearch(nn.Sequential(conv), CONFIG)
    assert torch.equal(conv(x), before)
    caplog.clear()
    rfnext.LocalSearch(nn.Sequential(conv, nn.Conv2d(4, 4, 3)), CONFIG)
    assert "0 is not searched: OfTwoConvolutions overrides forward()" in caplog.text


def test_the_conv_of_an_mmcv_conv_module_is_searched() -> None:
    bricks = pytest.importorskip("mmcv.cnn.bricks")
    for settings in ({}, {"norm_cfg": {"type": "BN"}}, {"conv_cfg": {"type": "Conv2d"}, "act_cfg": None}):
        model = bricks.ConvModule(3, 4, 3, padding=1, **settings)
        x = torch.randn(2, 3, 9, 9)
        expected = model.eval()(x)
        search = rfnext.LocalSearch(model, CONFIG)
        assert set(search.structure()) == {"conv"}
        model.conv.set_branches([(1, 1)])
        torch.testing.assert_close(model(x), expected)
    assert unsearchable(bricks.ConvWS2d(3, 4, 3)) is None


def test_a_search_takes_effect_in_subclasses() -> None:
    class Activated(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    class Scaled(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            return self._conv_forward(input, self.weight * 2, self.bias)

    class PastTheSearch(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            return super()._conv_forward(input, self.weight * 2, self.bias)

    class Own(nn.Conv1d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, weight * 2, bias)

    x = torch.randn(1, 2, 9)
    for kind in (Activated, Scaled, PastTheSearch, Own):
        conv = kind(2, 2, 3, padding=1)
        expected = conv(x)
        take_over(conv, [(1,)])
        torch.testing.assert_close(conv(x), expected)
        cast(SearchConv, conv).set_branches([(3,)])
        assert not torch.allclose(conv(x), expected)


# Causal convs, whose last tap would have to stay in place: test_causal.py has those whose last tap does


class LeftPadded(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, ((self.kernel_size[0] - 1) * self.dilation[0], 0)))


class LeftPaddedByAMethod(nn.Conv1d):
    @property
    def causal_padding(self) -> int:
        return (self.kernel_size[0] - 1) * self.dilation[0]

    def prepared(self, input: Tensor) -> Tensor:
        return torch.cat([input.new_zeros(*input.shape[:-1], self.causal_padding), input], -1)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self.prepared(input), self.weight, self.bias)


class LeftPaddedFunctional(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv1d(F.pad(input, (2 * self.dilation[0], 0)), self.weight, self.bias, dilation=self.dilation)


def reads(model: nn.Module, position: int = 30) -> list[int]:
    """Which of 64 inputs an output depends on."""
    x = torch.randn(1, 1, 64, requires_grad=True)
    model(x)[0, 0, position].backward()
    assert x.grad is not None
    return x.grad[0, 0].nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", [LeftPadded, LeftPaddedByAMethod, LeftPaddedFunctional])
def test_convs_that_pad_in_their_own_forward_are_refused_with_the_reason(kind: type[nn.Conv1d]) -> None:
    model = nn.Sequential(kind(1, 1, 3, dilation=4))
    assert reads(model) == [22, 26, 30]
    with pytest.raises(ValueError, match=rf"no conv to search among the model's 1\. 0: {kind.__name__} overrides"):
        rfnext.LocalSearch(model, CONFIG)
    with pytest.raises(ValueError, match=rf"layer '0': {kind.__name__} .* pads or crops there by itself"):
        rfnext.Structure({"0": 8}).apply(model)
    with pytest.raises(ValueError, match=rf"layer '0' cannot have branches: {kind.__name__} overrides"):
        rfnext.keep_branches(model, rfnext.Structure({"0": 8}), CONFIG)
    assert reads(model) == [22, 26, 30]
    rfnext.Structure({"0": 4}).apply(model)  # its own is none to refuse


def test_same_padding_by_the_dilation_follows_a_structure() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    conv = timm_layers.Conv2dSame(1, 1, 3)
    x = torch.randn(1, 1, 20, 20)
    rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=3, dilation=3))


def test_reading_padding_and_dilation_is_no_reason_to_refuse_a_conv() -> None:
    wrappers = pytest.importorskip("mmcv.cnn.bricks.wrappers")  # these do for empty batches
    assert unsearchable(wrappers.Conv2d(1, 1, 3)) is None


# Trying a class's forward() leaves no trace


class Counting(nn.Conv1d):
    """Counts its calls in a buffer, draws random numbers, and has a layer with statistics of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(self.norm(input) + 0 * torch.rand(()))


def test_a_forward_is_tried_without_a_trace() -> None:
    conv = parametrizations.spectral_norm(Counting(2, 2, 3, padding=1))
    state, random = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    before = dict(vars(conv))
    assert unsearchable(cast(Conv, conv)) is None
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in conv.state_dict().items())
    assert vars(conv) == before
    assert all(module.training for module in conv.modules())


class Masked(nn.Conv1d):
    """Changes its weight in place, as masked convs do."""

    def forward(self, input: Tensor) -> Tensor:
        self.weight.data *= 0.5
        return super().forward(input)


def test_a_forward_that_changes_the_weight_is_tried_without_doing_so() -> None:
    conv = Masked(2, 2, 3, padding=1)
    weight = conv.weight.detach().clone()
    assert unsearchable(conv) is None
    assert torch.equal(conv.weight, weight)


class ShiftedOrNot(nn.Conv1d):
    """Two convs of one class may differ. Shifting the input to the right keeps its size."""

    causal = False

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.roll(self.dilation[0], -1) if self.causal else input)


def test_convs_of_one_class_are_told_apart_and_a_shift_is_found() -> None:
    plain, causal = ShiftedOrNot(1, 1, 3, padding=1), ShiftedOrNot(1, 1, 3, padding=1)
    causal.causal = True
    assert unsearchable(plain) is None
    assert "ShiftedOrNot overrides forward() and pads or crops there by itself" in (unsearchable(causal) or "")


class Cropped(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[..., : -2 * self.dilation[0]]


class Twice(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(super().forward(input))


class Failing(nn.Conv1d):
    def forward(self, input: Tensor) -> Tensor:
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Cropped, "pads or crops there by itself"), (Twice, "would be lost"), (Failing, "could not be tried")],
)
def test_other_forwards_are_refused(kind: type[nn.Conv1d], reason: str) -> None:
    assert reason in (unsearchable(kind(2, 2, 3, padding=2)) or "")


def test_a_forward_on_any_number_of_axes_with_stride_and_groups_is_tried() -> None:
    for axes, base in {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}.items():
        kind = type("Activated", (base,), {"forward": lambda self, x, base=base: base.forward(self, x).relu_()})
        for padding_mode in ("zeros", "reflect", "circular"):
            conv = kind(4, 8, (3, 5, 2)[:axes], stride=2, padding=1, groups=2, padding_mode=padding_mode)
            assert unsearchable(conv) is None


class PaddedBeyondOne(nn.Conv1d):
    """Pads by its dilation, but for the one pixel of the conv: nothing at dilation 1."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (self.dilation[0] - 1, self.dilation[0] - 1)))


def test_padding_by_the_dilation_is_found_where_it_is_none_yet() -> None:
    assert "pads or crops there by itself" in (unsearchable(PaddedBeyondOne(1, 1, 3, padding=1)) or "")


class Unfolded(nn.Conv1d):
    """Convolves by a product of matrices."""

    def forward(self, input: Tensor) -> Tensor:
        return input.unfold(-1, 3, 1) @ self.weight.flatten()


def test_a_class_that_convolves_in_another_way_keeps_its_dilation() -> None:
    model = nn.Sequential(Unfolded(1, 1, 3))
    with pytest.raises(ValueError, match="layer '0': Unfolded overrides forward.*is unknown"):
        rfnext.Structure({"0": 2}).apply(model)
    rfnext.Structure({"0": 1}).apply(model)


def test_weight_standardised_convs_take_another_dilation() -> None:
    timm_layers = pytest.importorskip("timm.layers")
    conv = timm_layers.StdConv2d(2, 3, 3, padding=1)
    x = torch.randn(1, 2, 9, 9)
    rfnext.Structure({"0": 3}).apply(nn.Sequential(conv))
    assert conv(x).shape == (1, 3, 9, 9)
    assert (conv.dilation, conv.padding) == ((3, 3), (3, 3))


def names_by(where: rfnext.Layers) -> list[str]:
    model = nn.ModuleDict(
        {
            "stem": nn.Conv1d(1, 1, 7),
            "layer1": nn.ModuleList([nn.Conv1d(1, 1, 3), nn.Conv2d(1, 1, 5)]),
            "layer10": nn.Sequential(nn.Conv2d(1, 1, (1, 9))),
        }
    )
    return list(rfnext.Structure.read(model, where))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("layer1", ["layer1.0", "layer1.1"]),
        ("layer1.1", ["layer1.1"]),
        ("*.0", ["layer1.0", "layer10.0"]),
        ("layer?", ["layer1.0", "layer1.1"]),
        ("layer*", ["layer1.0", "layer1.1", "layer10.0"]),
        (["stem", "layer10"], ["stem", "layer10.0"]),
        (["!stem"], ["layer1.0", "layer1.1", "layer10.0"]),
        (["layer*", "!layer10"], ["layer1.0", "layer1.1"]),
        ([], []),
        (rfnext.of_type(nn.Conv1d), ["stem", "layer1.0"]),
        (rfnext.of_kernel(5), ["stem", "layer1.1", "layer10.0"]),
        (rfnext.of_kernel(5, 7), ["stem", "layer1.1"]),
    ],
)
def test_layers_are_picked_by_globs_and_selectors(where: rfnext.Layers, names: list[str]) -> None:
    assert names_by(where) == names


def test_a_glob_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"where: 'layer2' matches no conv of the model; did you mean 'layer1'\?"):
        names_by(["stem", "layer2"])
    with pytest.raises(ValueError, match="matches no conv"):
        names_by("!stam")
