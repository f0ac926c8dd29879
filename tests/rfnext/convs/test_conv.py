"""SearchConv: the function that it computes, its checkpoints, and that other code works with it as with a conv."""

import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

import rfnext
from rfnext import Conv, SearchConv
from rfnext.convs.conv import INITIAL_WEIGHT
from rfnext.convs.padding import size_keeping_padding
from rfnext.convs.set_dilation import set_dilation
from rfnext.convs.take_over import release, take_over
from rfnext.structure import searched_convs
from tests.rfnext.networks import CONFIG, favour_the_widest, network, searched_network
from tests.rfnext.ops.cases import NATIVE

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
FUNCTION: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
INPUT = {1: (2, 4, 41), 2: (2, 4, 17, 15), 3: (2, 4, 9, 8, 9)}

# Every way of padding, strides 1 to 4, even and mixed kernels, groups; the last row is PVTv2's patch embedding.
SETTINGS: list[tuple[int, dict[str, Any]]] = [
    (1, {"kernel_size": 3}),
    (1, {"kernel_size": 3, "padding": 1}),
    (1, {"kernel_size": 3, "padding": 16, "dilation": 16}),
    (1, {"kernel_size": 7, "padding": "same", "groups": 4}),
    (1, {"kernel_size": 3, "padding": "valid", "stride": 2}),
    (1, {"kernel_size": 5, "padding": 3, "stride": 4, "padding_mode": "reflect"}),
    (1, {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "bias": False}),
    (2, {"kernel_size": 3}),
    (2, {"kernel_size": 3, "padding": 1, "stride": 2}),
    (2, {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2}),
    (2, {"kernel_size": 3, "padding": 1, "groups": 4, "out_channels": 4, "padding_mode": "replicate"}),
    (2, {"kernel_size": (3, 5), "padding": (1, 2), "bias": False}),
    (2, {"kernel_size": (2, 3), "padding": (0, 1)}),
    (2, {"kernel_size": (3, 2), "padding": "same", "dilation": (2, 3)}),
    (2, {"kernel_size": (3, 4), "padding": "same", "padding_mode": "reflect"}),
    (2, {"kernel_size": (1, 3), "padding": "same", "padding_mode": "circular"}),
    (2, {"kernel_size": (5, 3), "padding": "valid", "stride": (3, 1)}),
    (2, {"kernel_size": 7, "padding": 3, "stride": 4}),
    (3, {"kernel_size": 3, "padding": 1}),
    (3, {"kernel_size": (3, 1, 2), "padding": "same", "groups": 2}),
    (3, {"kernel_size": 3, "padding": (0, 1, 2), "stride": (2, 1, 3), "padding_mode": "replicate"}),
]


def make(axes: int, settings: dict[str, Any]) -> Conv:
    torch.manual_seed(0)
    conv = CONV[axes](4, **({"out_channels": 8} | settings)).double()
    return cast(Conv, conv)


def branches_of(conv: Conv, count: int = 3) -> list[rfnext.Dilation]:
    return rfnext.neighbours(
        conv.dilation,
        conv.kernel_size,
        spread=1.0,
        branches=count,
        bounds=rfnext.Bounds(1, 24),
        rule="default",
    )


def searching(conv: Conv, weights: list[float] | None = None) -> SearchConv:
    """The conv, taken over, with branch weights that are not equal."""
    take_over(conv, branches_of(conv))
    search = cast(SearchConv, conv)
    with torch.no_grad():
        search.branch_weight.copy_(torch.tensor((weights or [0.02, 0.005, 0.01])[: search.branch_weight.numel()]))
    return search


def settings_id(value: object) -> str:
    if isinstance(value, dict):
        return "-".join(f"{key.split('_')[0]}{v}" for key, v in value.items()).replace(" ", "")
    return f"{value}d"


every_setting = pytest.mark.parametrize(("axes", "settings"), SETTINGS, ids=settings_id)


def extended(x: Tensor, conv: Conv, dilation: rfnext.Dilation) -> Tensor:
    """The input as a conv of this dilation sees it: padded by index arithmetic, or cropped, axis by axis.

    Written from the definition, apart from the code under test: the tap at the kernel's centre stays where the plain
    conv has it, so each side grows by (d' - d)(k - 1) / 2.
    """
    for axis, (k, new, old) in enumerate(zip(conv.kernel_size, dilation, conv.dilation, strict=True)):
        if conv.padding == "same":
            before = new * (k - 1) // 2
            after = new * (k - 1) - before
        else:
            given = 0 if conv.padding == "valid" else int(conv.padding[axis])
            before = after = given + (new - old) * (k - 1) // 2
        n = x.shape[axis + 2]
        index = torch.arange(-before, n + after)
        inside = (index >= 0) & (index < n)
        if conv.padding_mode == "circular":
            index = index % n
        elif conv.padding_mode == "reflect":
            index = index % (2 * n - 2)
            index = torch.where(index < n, index, 2 * n - 2 - index)
        else:
            index = index.clamp(0, n - 1)
        x = x.index_select(axis + 2, index)
        if conv.padding_mode == "zeros":
            x = x * inside.to(x.dtype).reshape(-1, *[1] * (len(conv.kernel_size) - 1 - axis))
    return x


# torch's own convs say so for padding "same"; ours pad by themselves.
same_with_even_kernel = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


@same_with_even_kernel
@every_setting
def test_one_branch_equals_the_conv(axes: int, settings: dict[str, Any]) -> None:
    conv = make(axes, settings)
    x = torch.randn(INPUT[axes], dtype=torch.float64)
    expected = conv(x)
    take_over(conv, [conv.dilation])
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)


@same_with_even_kernel
@every_setting
@pytest.mark.defect(17, 18, 19)
def test_output_is_the_weighted_sum_and_its_size_does_not_depend_on_the_dilation(
    axes: int, settings: dict[str, Any]
) -> None:
    """Nothing but that sum, no activation inside (defect 17); strides, groups and any kernel in 1-d too (defect 18)."""
    conv = make(axes, settings)
    x = torch.randn(INPUT[axes], dtype=torch.float64)
    plain_output = conv(x)
    centre = copy.deepcopy(conv)
    search = searching(conv)
    assert len(search.dilations) > 1
    shares = torch.softmax(search.branch_weight / INITIAL_WEIGHT, 0)
    expected = torch.zeros_like(plain_output)
    for share, dilation in zip(shares, search.dilations, strict=False):
        seen = extended(x, centre, dilation)
        expected += share * FUNCTION[axes](seen, conv.weight, conv.bias, conv.stride, 0, dilation, conv.groups)
    output = conv(x)
    assert output.shape == plain_output.shape
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)


@every_setting
def test_gradients_reach_every_parameter_and_branch(axes: int, settings: dict[str, Any]) -> None:
    conv = make(axes, settings)
    search = searching(conv)
    x = torch.randn(INPUT[axes], dtype=torch.float64, requires_grad=True)
    (conv(x) * torch.randn(conv(x).shape, dtype=torch.float64)).sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    weight_gradient = search.branch_weight.grad
    assert weight_gradient is not None
    assert (weight_gradient[: len(search.dilations)] != 0).all()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@same_with_even_kernel
@every_setting
def test_a_set_dilation_is_what_torch_computes_with_it(axes: int, settings: dict[str, Any]) -> None:
    """Plain convs after `set_dilation`, torch's own second copy of the padding included, agree with the definition."""
    conv = make(axes, settings)
    x = torch.randn(INPUT[axes], dtype=torch.float64)
    centre = copy.deepcopy(conv)
    widest = branches_of(conv)[-1]
    limit = {"reflect": 1, "circular": 0}.get(conv.padding_mode)
    if limit is not None:  # torch refuses to pad by more than the input; ours does not
        sides = size_keeping_padding(conv, widest)
        assert all(max(side) <= n - limit for side, n in zip(sides, x.shape[2:], strict=True))
    set_dilation(conv, widest)
    expected = FUNCTION[axes](extended(x, centre, widest), conv.weight, conv.bias, conv.stride, 0, widest, conv.groups)
    assert conv(x).shape == centre(x).shape
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_branches_wider_than_the_input_in_every_padding_mode(padding_mode: str) -> None:
    conv = nn.Conv1d(2, 3, 3, padding=1, padding_mode=padding_mode).double()
    x = torch.randn(2, 2, 7, dtype=torch.float64)
    take_over(conv, [(1,), (5,), (24,)])
    expected = sum(F.conv1d(extended(x, conv, d), conv.weight, conv.bias, dilation=d) / 3 for d in [(1,), (5,), (24,)])
    torch.testing.assert_close(conv(x), expected)


def test_a_branch_may_crop_and_keeps_the_size() -> None:
    """padding=0 at dilation 4: the branch of dilation 2 sees the input without its rim."""
    conv = nn.Conv1d(1, 1, 3, dilation=4, bias=False).double()
    x = torch.randn(1, 1, 20, dtype=torch.float64)
    take_over(conv, [(2,), (6,)])
    assert size_keeping_padding(conv, (2,)) == [(-2, -2)]
    inner, outer = F.conv1d(x[..., 2:-2], conv.weight, dilation=2), F.conv1d(x, conv.weight, dilation=6, padding=2)
    torch.testing.assert_close(conv(x), (inner + outer) / 2)
    assert conv(x).shape[-1] == 12


@pytest.mark.parametrize("rule", ["default", "paper"])
@pytest.mark.defect(15)
def test_probabilities_follow_the_rule(rule: rfnext.Rule) -> None:
    """A weight of -0.09 is strong evidence by "paper" only, and all zeros divide by zero there only."""
    conv = nn.Conv1d(1, 1, 3, padding=1)
    take_over(conv, [(1,), (2,)], rule=rule)
    search = cast(SearchConv, conv)
    torch.testing.assert_close(search.probability, torch.tensor([0.5, 0.5]))
    with torch.no_grad():
        search.branch_weight.copy_(torch.tensor([0.01, -0.09]))
    if rule == "paper":
        torch.testing.assert_close(search.probability, torch.tensor([0.1, 0.9]))
    else:
        assert search.probability[1] < 1e-4
    with torch.no_grad():
        search.branch_weight.zero_()
    if rule == "paper":
        assert search.probability.isnan().all()
    else:
        torch.testing.assert_close(search.probability, torch.tensor([0.5, 0.5]))


def test_both_rules_start_with_the_same_slope() -> None:
    slopes = []
    for rule in ("paper", "default"):
        conv = nn.Conv1d(1, 1, 3, padding=1)
        take_over(conv, [(1,), (2,), (3,)], rule=rule)
        cast(SearchConv, conv).probability[0].backward()
        slopes.append(cast(SearchConv, conv).branch_weight.grad)
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.parametrize("implementation", ["taps", *NATIVE])
def test_repeated_calls_differentiate_the_branch_weights_twice_and_follow_what_changes(implementation: str) -> None:
    depthwise = {"kernel_size": 3, "padding": 1, "groups": 4, "out_channels": 4}
    conv = searching(make(1, depthwise), [0.01, 0.02, 0.015])
    reference = copy.deepcopy(conv)  # torch's own operators, differentiated by autograd
    conv.implementation, reference.implementation = implementation, "branches"
    x = torch.randn(2, 4, 20, dtype=torch.float64, requires_grad=True)

    def results(of: SearchConv, g: Tensor) -> list[Tensor]:
        parameters = x, of.weight, of.branch_weight
        found = [of(x), *torch.autograd.grad(of(x), parameters, g)]
        if of.frozen:
            return found
        first = torch.autograd.grad(of(x), parameters, g.clone(), create_graph=True)
        return [*found, *torch.autograd.grad(first[2].square().sum(), parameters)]

    def compare() -> None:
        g = torch.randn_like(reference(x))
        torch.testing.assert_close(results(conv, g), results(reference, g), rtol=1e-9, atol=1e-9)

    rules: list[dict[str, Any]] = [{"rule": "paper"}, {"rule": "default"}]
    for change in [{}, {"frozen": True}, {"frozen": False}, *rules, {"stride": (2,)}, {"stride": (1,)}]:
        for each in (conv, reference):
            vars(each).update(change)
        compare()
    for each in (conv, reference):
        take_over(cast(Conv, each), each.dilations, entries=4)  # one of them idle
        with torch.no_grad():
            each.branch_weight.copy_(torch.tensor([0.01, 0.02, 0.015, 0.03]))
    compare()
    again = pickle.loads(pickle.dumps(conv))  # noqa: S301
    assert torch.equal(again(x), conv(x))


@pytest.mark.parametrize("implementation", ["taps", *NATIVE])
def test_gradients_with_a_graph_and_many_at_once_of_a_conv_that_is_used_twice(implementation: str) -> None:
    conv = searching(make(1, {"kernel_size": 3, "padding": 1, "groups": 4, "out_channels": 4}), [0.01, 0.02, 0.015])
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    parameters = conv.weight, conv.branch_weight

    def twice(x: Tensor) -> Tensor:
        return conv(conv(x).tanh()).square().sum((1, 2))

    conv.implementation = "branches"
    expected = torch.autograd.grad(twice(x).sum(), parameters), torch.autograd.functional.jacobian(twice, x)
    conv.implementation = implementation
    found = torch.autograd.grad(twice(x).sum(), parameters, create_graph=True)
    found = found, torch.autograd.functional.jacobian(twice, x, vectorize=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("implementation", ["taps", *NATIVE])
def test_a_checkpoint_repeats_a_first_call(implementation: str) -> None:
    """It counts the tensors that are saved, and the repetition finds the checked call of the first."""
    conv = searching(make(1, {"kernel_size": 3, "padding": 1, "groups": 4, "out_channels": 4}), [0.01, 0.02, 0.015])
    conv.implementation = implementation
    x = torch.randn(2, 4, 20, dtype=torch.float64)
    y = checkpoint(conv, x, use_reentrant=False)
    found = torch.autograd.grad(y.square().sum(), tuple(conv.parameters()))
    conv.implementation = "branches"
    torch.testing.assert_close(found, torch.autograd.grad(conv(x).square().sum(), tuple(conv.parameters())))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch on itself
def test_forward_mode_differentiation_and_the_meta_device_are_left_to_torch() -> None:
    conv = searching(make(1, {"kernel_size": 3, "padding": 1}), [0.01, 0.02, 0.015])
    x, direction = torch.randn(2, 2, 4, 20, dtype=torch.float64)
    with rfnext.pin_implementation("taps"):
        conv(x)
        with forward_ad.dual_level():
            found = forward_ad.unpack_dual(conv(forward_ad.make_dual(x, direction))).tangent
        assert copy.deepcopy(conv).to("meta")(x.to("meta")).shape == (2, 8, 20)
    assert conv.bias is not None
    torch.testing.assert_close(found, conv(direction) - conv.bias[:, None])  # the conv is linear


def test_make_fx_records_torchs_convs() -> None:
    conv = searching(make(1, {"kernel_size": 3, "padding": 1, "groups": 4, "out_channels": 4}), [0.01, 0.02, 0.015])
    x, other = torch.randn(2, 2, 4, 20, dtype=torch.float64)
    with rfnext.reproducible(torch.device("cpu")):
        conv(x)
        traced = make_fx(conv)(x)
    torch.testing.assert_close(traced(other), conv(other))


@pytest.mark.parametrize("rule", ["default", "paper"])
@pytest.mark.defect(16)
def test_a_collapsed_branch_is_the_plain_conv_and_its_weight_has_a_gradient(rule: rfnext.Rule) -> None:
    conv = nn.Conv1d(2, 2, 3, padding=1)
    x = torch.randn(1, 2, 9)
    expected = conv(x)
    take_over(conv, [(1,)], entries=3, rule=rule)
    search = cast(SearchConv, conv)
    output = conv(x)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert search.branch_weight.grad is not None
    assert (search.branch_weight.grad == 0).all()
    search.set_branches([(1,), (2,), (3,)])  # and it can go on being searched
    assert conv(x).shape == expected.shape


def test_idle_weights_beyond_the_branches_do_not_count() -> None:
    conv = nn.Conv1d(1, 1, 3, padding=1)
    take_over(conv, [(1,), (2,)], entries=3)
    search = cast(SearchConv, conv)
    with torch.no_grad():
        search.branch_weight[2] = 100.0
    torch.testing.assert_close(search.probability, torch.tensor([0.5, 0.5]))


# Other people's code


@pytest.mark.defect(20)
def test_forward_hooks_and_identity_are_kept() -> None:
    model = network()
    seen: list[str] = []
    conv = model[0]
    conv.register_forward_hook(lambda module, args, output: seen.append("hook"))
    conv.register_forward_pre_hook(lambda module, args: seen.append("pre-hook"))
    conv.weight.register_hook(lambda gradient: seen.append("gradient"))
    rfnext.LocalSearch(model, CONFIG)
    assert model[0] is conv
    assert isinstance(conv, nn.Conv2d)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert seen == ["pre-hook", "hook", "gradient"]


def test_optimizers_built_before_keep_the_very_same_parameters() -> None:
    model = network()
    before = list(model.parameters())
    rfnext.LocalSearch(model, CONFIG)
    after = {id(p) for p in model.parameters()}
    assert {id(p) for p in before} <= after


@pytest.mark.defect(20)
def test_a_shared_conv_is_one_searched_conv_under_both_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(2, 2, 3, padding=1)
            self.inner = nn.ModuleDict({"second": self.first})

        def forward(self, x: Tensor) -> Tensor:
            return self.inner["second"](self.first(x))

    model = Twice()
    search = rfnext.LocalSearch(model, rfnext.LocalConfig(rounds=1))
    assert isinstance(model.first, SearchConv)
    assert model.inner["second"] is model.first
    assert len(search.branch_weights()) == 1
    with torch.no_grad():
        model.first.branch_weight.copy_(torch.tensor([0.0, 0.1]))
    assert search.after_step()
    assert dict(search.structure()) == {"first": (2,)}
    rfnext.Structure({"inner.second": (3,)}).apply(model)
    assert model.first.dilation == (3,)
    assert model(torch.randn(1, 2, 9)).shape == (1, 2, 9)


def legacy_weight_norm(conv: nn.Conv1d) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and the vocoders of the field use it
        return weight_norm(conv)


REPARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm_legacy": legacy_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm_legacy": spectral_norm,
}


@pytest.mark.parametrize("kind", REPARAMETRISED)
@pytest.mark.defect(20)
def test_reparametrised_weights_train_through_two_backward_passes(kind: str) -> None:
    """A searched conv of one branch takes exactly the steps of its plain twin; with more, everything has a gradient."""
    torch.manual_seed(0)
    plain = cast(nn.Conv1d, REPARAMETRISED[kind](nn.Conv1d(3, 3, 3, padding=1)))
    torch.manual_seed(0)
    conv = cast(nn.Conv1d, REPARAMETRISED[kind](nn.Conv1d(3, 3, 3, padding=1)))
    torch.testing.assert_close(plain.state_dict(), conv.state_dict())
    take_over(conv, [(1,)])
    torch.testing.assert_close(plain.state_dict(), rfnext.plain_state_dict(conv.state_dict()))
    optimizers = [torch.optim.SGD(c.parameters(), lr=0.1) for c in (plain, conv)]
    for step in range(2):
        x = torch.randn(2, 3, 11)
        for c, optimizer in zip((plain, conv), optimizers, strict=True):
            optimizer.zero_grad()
            c(x).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(plain.state_dict(), rfnext.plain_state_dict(conv.state_dict()))
        assert step == 0 or plain.state_dict()
    take_over(conv, [(1,), (2,), (3,)])
    for _ in range(2):
        conv.zero_grad()
        conv(torch.randn(2, 3, 11)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in conv.parameters())
    release(cast(SearchConv, conv))
    assert type(conv) is not nn.Conv1d or kind.endswith("legacy")
    assert conv(torch.randn(2, 3, 11)).shape == (2, 3, 11)


def test_a_parametrisation_registered_later_is_refused_by_release_until_it_is_undone() -> None:
    conv = nn.Conv1d(2, 2, 3, padding=1)
    take_over(conv, [(1,), (2,)])
    parametrizations.weight_norm(conv)
    assert conv(torch.randn(1, 2, 9)).shape == (1, 2, 9)
    with pytest.raises(ValueError, match="was changed after the search began"):
        release(cast(SearchConv, conv))
    parametrize.remove_parametrizations(conv, "weight")
    release(cast(SearchConv, conv))
    assert type(conv) is nn.Conv1d


def test_release_gives_back_the_very_class_and_keys() -> None:
    model = network()
    keys, kinds = list(model.state_dict()), [type(m) for m in model]
    rfnext.LocalSearch(model, CONFIG)
    assert list(model.state_dict()) != keys
    for conv in list(searched_convs(model).values()):
        release(conv)
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model] == kinds
    assert vars(model[0]).keys() == vars(network()[0]).keys()


def test_deepcopy_and_pickle_are_independent_twins() -> None:
    model, _ = searched_network()
    x = torch.randn(2, 3, 16, 16)
    expected = model.eval()(x)
    # The pickle goes through a file and comes from this very test.
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(twin.eval()(x), expected)
        cast(SearchConv, twin[0]).set_branches([(5, 5), (7, 7)])
        assert torch.equal(model(x), expected)
        assert not torch.allclose(twin(x), expected)


def test_a_parametrised_network_copies_and_refuses_to_pickle_as_torch_does() -> None:
    conv = parametrizations.weight_norm(nn.Conv1d(2, 2, 3, padding=1))
    take_over(cast(nn.Conv1d, conv), [(1,), (2,)])
    x = torch.randn(1, 2, 9)
    assert torch.equal(copy.deepcopy(conv)(x), conv(x))
    with pytest.raises(RuntimeError, match="parametrized modules is only supported through state_dict"):
        pickle.dumps(conv)


@pytest.mark.parametrize("rule", ["default", "paper"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtype_of_the_plain_conv(rule: rfnext.Rule, dtype: torch.dtype) -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", dtype):
        expected = conv(x)
    take_over(conv, [(1, 1), (2, 2)], rule=rule)
    with torch.autocast("cpu", dtype):
        output = conv(x)
    assert output.dtype == expected.dtype == dtype
    output.float().sum().backward()
    weight = cast(SearchConv, conv).branch_weight
    assert weight.dtype == torch.float32
    assert weight.grad is not None
    torch.testing.assert_close(output.float(), conv(x), rtol=0.05, atol=0.05)


def test_a_bf16_network_keeps_its_branch_weights_in_float32() -> None:
    """Half precision cannot resolve the steps that 0.01 takes; the output stays bf16 all the same."""
    conv = nn.Conv2d(4, 4, 3, padding=1).bfloat16()
    take_over(conv, [(1, 1), (2, 2)])
    assert cast(SearchConv, conv).branch_weight.dtype == torch.float32
    assert conv(torch.randn(2, 4, 9, 9, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_unbatched_input_works_as_in_torch() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    x = torch.randn(3, 9, 9)
    take_over(conv, [(1, 1), (2, 2)])
    torch.testing.assert_close(conv(x), conv(x[None])[0])


@pytest.fixture
def dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("dynamo")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("rule", ["default", "paper"])
def test_torch_compile_has_no_graph_break_before_and_after_a_round(rule: rfnext.Rule) -> None:
    model = network()
    search = rfnext.LocalSearch(model, rfnext.LocalConfig(rounds=1, branches=3, rule=rule))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 16, 16)
    for ran in (True, False):
        branches = [conv.dilations for conv in searched_convs(model).values()]
        model.zero_grad()
        output = compiled(x)
        torch.testing.assert_close(output, model(x))
        output.square().mean().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert len(gradients) == len(list(model.parameters()))
        model.zero_grad()
        model(x).square().mean().backward()
        torch.testing.assert_close(gradients, [p.grad for p in model.parameters()])
        favour_the_widest(model)
        assert search.after_step() == ran
        assert ran == (branches != [conv.dilations for conv in searched_convs(model).values()])


def test_an_inplace_activation_may_follow() -> None:
    """As in mmcv's ConvModule: autograd refuses to have a view changed in place, so the output must be none."""
    conv = nn.Conv2d(3, 4, 3, padding=1)
    rfnext.LocalSearch(conv, rfnext.LocalConfig())
    for implementation in ("branches", "taps", "dense"):
        conv.implementation = implementation  # type: ignore[assignment]
        x = torch.randn(2, 3, 9, 9, requires_grad=True)
        torch.relu_(conv(x)).sum().backward()
        assert x.grad is not None


def test_convs_padded_in_other_ways_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    layers = [make(1, settings) for axes, settings in SETTINGS if axes == 1]
    layers += [nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 3, dilation=2, padding=2), nn.Conv1d(4, 4, 2, stride=2)]
    rfnext.LocalSearch(nn.Sequential(*layers), CONFIG)
    assert "causal" not in caplog.text


# Bad input


def test_bad_branches_are_refused_and_leave_the_conv_as_it_was() -> None:
    conv = nn.Conv2d(2, 2, (3, 2))
    for dilations, message in [
        ([], "0 branches"),
        ([(1, 1), (2, 2)], "an even kernel"),
        ([(0, 1)], "positive integers"),
        ([(1.0, 1)], "positive integers"),
        ([(True, 1)], "positive integers"),
        ([(1,)], "1 axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            take_over(conv, dilations)
        assert type(conv) is nn.Conv2d
        assert set(conv.state_dict()) == {"weight", "bias"}
    with pytest.raises(ValueError, match="3 branches for 2 branch weights"):
        take_over(conv, [(1, 1), (2, 1), (3, 1)], entries=2)
    assert type(conv) is nn.Conv2d
    with pytest.raises(ValueError, match="unknown rule 'ours'"):
        take_over(conv, [(1, 1)], rule=cast(Any, "ours"))
    with pytest.raises(TypeError, match="Linear is no Conv1d, Conv2d or Conv3d"):
        take_over(cast(Any, nn.Linear(1, 1)), [(1,)])


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_a_plain_conv_crops_where_it_must(padding_mode: str) -> None:
    """padding=0 at dilation 4: at dilation 2 it sees the input without its rim, until it needs none cropped again."""
    conv = nn.Conv1d(2, 3, 3, dilation=4, padding_mode=padding_mode).double()
    x = torch.randn(1, 2, 20, dtype=torch.float64)
    designed = conv(x)
    take_over(conv, [(2,), (6,)])
    set_dilation(conv, (2,))
    release(cast(SearchConv, conv))
    assert type(conv) is nn.Conv1d
    expected = F.conv1d(x[..., 2:-2], conv.weight, conv.bias, dilation=2)
    torch.testing.assert_close(conv(x), expected)
    torch.testing.assert_close(copy.deepcopy(conv)(x), expected)
    set_dilation(conv, (4,))
    torch.testing.assert_close(conv(x), designed)
    assert (conv.padding, conv.padding_mode) == ((0,), padding_mode)


@pytest.mark.parametrize("leave", [True, False])
def test_a_parametrisation_can_be_removed_while_the_conv_is_searched(leave: bool) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    conv = nn.Conv1d(2, 2, 3, padding=1)
    parametrize.register_parametrization(conv, "weight", Doubled())
    search = searching(cast(Conv, conv), [0.02, 0.01])
    x = torch.randn(1, 2, 9)
    expected = conv(x)
    original = conv.parametrizations.weight.original.detach().clone()  # type: ignore[union-attr]
    parametrize.remove_parametrizations(conv, "weight", leave_parametrized=leave)
    assert isinstance(conv, SearchConv)
    assert set(dict(conv.named_parameters())) == {"weight", "bias", "branch_weight"}
    torch.testing.assert_close(conv.weight, 2 * original if leave else original)
    if leave:
        torch.testing.assert_close(conv(x), expected)
    release(search)
    assert type(conv) is nn.Conv1d


def test_a_copy_of_a_parametrised_conv_is_searched_on_its_own() -> None:
    conv = parametrizations.weight_norm(nn.Conv1d(2, 2, 3, padding=1))
    plain = type(conv)
    searching(cast(Conv, conv), [0.02, 0.01])
    twin, x = copy.deepcopy(conv), torch.randn(1, 2, 9)
    torch.testing.assert_close(twin(x), conv(x))
    release(cast(SearchConv, twin))
    assert type(twin) is plain
    assert isinstance(conv, SearchConv)
    torch.testing.assert_close(conv.state_dict(), copy.deepcopy(conv).state_dict())


def test_what_builds_a_layer_of_a_searched_convs_class_is_told_to_come_first() -> None:
    """As peft does for its adapters: type(base_layer)(...)."""
    conv = nn.Conv2d(4, 8, 3)
    searching(cast(Conv, conv))
    with pytest.raises(
        TypeError, match="SearchConv2d is not constructed.*must be applied to the model before the search"
    ):
        type(conv)(4, 2, 3)


def test_complex_weights_are_named() -> None:
    conv = nn.Conv1d(2, 2, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"torch\.complex64; only real ones are searched"):
        take_over(conv, [(1,), (2,)])
