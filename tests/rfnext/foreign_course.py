"""What every network of another library goes through, and the reference to which it is compared on the way.

The reference shares no code with the library: an explicit sum over branches of torch's own convolution, in float64.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfnext
from rfnext.convs.searchable import unsearchable
from rfnext.structure import named_convs, searched_convs
from tests.rfnext.foreign_networks import Foreign

CONFIG = rfnext.LocalConfig(interval=1, rounds=2, branches=3, bounds=rfnext.Bounds(1, 64))
DOUBLE, SINGLE = 1e-9, 1e-5
"""Largest errors in float64 and float32, relative to the largest value of what is compared."""


CONVOLVING = ("StdConv2d", "ScaledStdConv2d", "Conv2dSame")
"""Classes that call torch's convolution in a forward() of their own."""


class Branches(NamedTuple):
    """Of one conv: its branches, and their weights a, of which the probabilities are softmax(a / 0.01)."""

    dilations: Sequence[tuple[int, ...]]
    weights: Tensor


class Measured(NamedTuple):
    """What a network came through with.

    idle: searched convs that are not called. passed_over: reasons by layer. errors: the largest by step. notes: what
    else a reader must know.
    """

    convs: int
    searched: int
    idle: int
    passed_over: dict[str, str]
    errors: dict[str, float]
    notes: list[str]


class Explicit(nn.Module):
    """A conv as defined: sum_i p_i conv(x, W, d_i), each branch padded so that size and anchor stay."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = cast(Any, self)
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        function = [F.conv1d, F.conv2d, F.conv3d][len(conv.kernel_size) - 1]
        shares = torch.softmax(conv.branches.weights / 0.01, 0)
        total: Any = 0
        for share, dilation in zip(shares, conv.branches.dilations, strict=True):
            padded = F.pad(input, _sides(conv, dilation), mode)
            total = total + share * function(padded, weight, None, conv.stride, 0, dilation, conv.groups)
        return total if bias is None else total + bias.reshape(-1, *[1] * len(conv.kernel_size))


class ExplicitByForward(nn.Module):
    """A conv that convolves in its class's own forward(): sum_i p_i of that forward() at dilation d_i.

    Its padding grows as that of other convs, unless the class pads by its dilation itself.
    """

    def forward(self, input: Tensor) -> Tensor:
        conv, plain = cast(Any, self), type(self).__bases__[1]
        designed = {"dilation": conv.dilation, "padding": conv.padding}
        shares = torch.softmax(conv.branches.weights / 0.01, 0)
        total: Any = 0
        for share, dilation in zip(shares, conv.branches.dilations, strict=True):
            sides = [0, 0] if getattr(conv, "same_pad", "Same" in plain.__name__) else _sides(conv, dilation)[::-2]
            vars(conv).update(dilation=dilation, padding=tuple(sides))
            total = total + share * cast(Any, plain).forward(self, input)
            vars(conv).update(designed)
        return total


def _sides(conv: Any, dilation: tuple[int, ...]) -> list[int]:
    """What F.pad takes, last axis first.

    The designed padding, and for the centre (d - d0) (k - 1) / 2 more on both sides, for the last tap all of it before.
    """
    anchors = conv.anchor if isinstance(conv.anchor, tuple) else (conv.anchor,) * len(conv.kernel_size)
    sides: list[int] = []
    for axis, (k, new, old) in enumerate(zip(conv.kernel_size, dilation, conv.dilation, strict=True)):
        if isinstance(conv.padding, str):
            total = old * (k - 1) if conv.padding == "same" else 0
            before, after = total // 2, total - total // 2
        else:
            before = after = conv.padding[axis]
        growth = (new - old) * (k - 1)
        if anchors[axis] == "last":
            before += growth
        else:
            assert growth % 2 == 0, "an even kernel cannot keep its centre"
            before, after = before + growth // 2, after + growth // 2
        sides = [before, after, *sides]
    return sides


def explicit(foreign: Foreign, state: Mapping[str, Any], branches: Mapping[str, Branches]) -> nn.Module:
    """The network of this state_dict, in float64, whose convs have these branches as defined."""
    model = foreign.network()
    model.load_state_dict(rfnext.plain_state_dict(state))
    for name, conv in named_convs(model).items():
        if name in branches:
            anchor = foreign.anchor(name, conv) if callable(foreign.anchor) else foreign.anchor
            vars(conv).update(branches=branches[name], anchor=anchor or "centre")
            kind = ExplicitByForward if type(conv).__name__ in CONVOLVING else Explicit
            cast(Any, conv).__class__ = type("Explicit", (kind, type(conv)), {})
    return model


def branches_of(model: nn.Module) -> dict[str, Branches]:
    """The branches of a searched network; tied convs share their weights here, too."""
    copies: dict[int, Tensor] = {}
    found = {}
    for name, conv in searched_convs(model).items():
        count = len(conv.dilations)
        weights = conv.branch_weight.detach()[:count].double().requires_grad_()
        found[name] = Branches(conv.dilations, copies.setdefault(id(conv.branch_weight), weights))
    return found


def one_each(structure: Mapping[str, tuple[int, ...]]) -> dict[str, Branches]:
    """A structure as branches: one per conv."""
    return {name: Branches([dilation], torch.zeros(1)) for name, dilation in structure.items()}


def tensors(value: Any) -> list[Tensor]:
    """The floating-point tensors of an output, whatever holds them."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def error(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest expected value of each tensor."""
    pairs = list(zip(tensors(found), tensors(expected), strict=True))
    assert pairs, "no tensor to compare"
    assert all(a.shape == b.shape for a, b in pairs), f"sizes {[(a.shape, b.shape) for a, b in pairs]}"
    assert all(bool(b.isfinite().all() and b.any()) for _, b in pairs), "the reference is zero or not finite"
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs if b.numel())


def reason_of(conv: Any) -> str:
    """Why a conv is passed over, in short."""
    if max(conv.kernel_size) == 1:
        return "kernel of 1"
    reason = unsearchable(conv)
    if reason is None:
        return "padded by its parent, by its dilation"
    if "has no odd axis" in reason:
        return "even kernel"
    return f"{type(conv).__name__} " + ("pads by itself" if "pads or crops" in reason else "computes by itself")


def shuffle_probabilities(model: nn.Module, seed: int) -> None:
    """Give all branches unlike weights, the wider the larger, so that a round moves the dilations."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for conv in searched_convs(model).values():
            rising = 3.0 * torch.arange(len(conv.branch_weight))
            conv.branch_weight.copy_(0.01 * (1 + rising + torch.rand(rising.shape, generator=generator)))


Calls = dict[str, list[tuple[Tensor, Any]]]


@contextlib.contextmanager
def noted(convs: Mapping[str, nn.Module]) -> Iterator[Calls]:
    """Copies of the inputs and outputs of all calls of these convs: activations in place overwrite outputs."""
    calls: Calls = {name: [] for name in convs}

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, output: calls[name].append((args[0].detach().clone(), output.detach().clone()))

    handles = [conv.register_forward_hook(hook(name)) for name, conv in convs.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def error_of_convs(model: nn.Module, reference: nn.Module, names: Sequence[str], inputs: Sequence[Tensor]) -> float:
    """The largest error of a conv on the inputs that it really sees."""
    convs, explicit_convs = named_convs(model), named_convs(reference)
    with noted({name: convs[name] for name in names}) as calls:
        model(*inputs)
    assert all(calls.values())
    return max(
        error(output.double(), explicit_convs[name](x.double())) for name, seen in calls.items() for x, output in seen
    )


def error_of_gradients(model: nn.Module, reference: nn.Module, inputs: Sequence[Tensor]) -> float:
    """The largest error of a parameter's gradient, branch weights included."""
    for network in (model, reference):
        network.zero_grad()
        loss_of(network(*inputs)).backward()
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    explicit_convs = named_convs(reference)
    for name, parameter in model.named_parameters():
        if name.endswith("branch_weight"):
            conv = explicit_convs[name.removesuffix(".branch_weight")]
            gradient = cast(Any, conv).branches.weights.grad
            assert gradient is not None, f"{name} has no influence"
            expected[name] = F.pad(gradient, (0, len(parameter) - len(gradient)))
    assert found.keys() == expected.keys()
    # A branch weight's gradient is a small difference of sums, so all of them are measured by the largest.
    groups = {name: name.endswith("branch_weight") for name in expected}
    largest = {group: max(float(g.abs().max()) for n, g in expected.items() if groups[n] == group) for group in (0, 1)}
    scale = {n: max(float(g.abs().max()), (1 if groups[n] else 1e-4) * largest[groups[n]]) for n, g in expected.items()}
    return max(float((found[name] - g).abs().max()) / scale[name] for name, g in expected.items())


def loss_of(output: Any) -> Tensor:
    return sum((y.square().mean() for y in tensors(output)), torch.zeros(()))


def train(model: nn.Module, inputs: Sequence[Tensor], steps: int = 2) -> None:
    """A user's own loop."""
    torch.manual_seed(0)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model(*inputs)).backward()
        optimizer.step()
    model.eval()


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Networks that make tensors in their forward() make them in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def run(foreign: Foreign) -> Measured:
    """Search a network and do with it all that the library promises; AssertionError where it does not hold."""
    with in_float64(), rfnext.reproducible(torch.device("cpu")):
        return Course(foreign).run()


class Course:
    """One network on its way, with the errors so far."""

    def __init__(self, foreign: Foreign) -> None:
        self.foreign, self.inputs = foreign, foreign.inputs()
        self.errors: dict[str, float] = {}
        self.notes: list[str] = []

    def wrapped(self, seed: int = 0) -> tuple[nn.Module, rfnext.LocalSearch]:
        """A network that is searched."""
        model = self.foreign.network(seed)
        return model, rfnext.LocalSearch(model, CONFIG, anchor=self.foreign.anchor)

    def note(self, step: str, value: float, limit: float = DOUBLE) -> None:
        """Keep the error of a step."""
        assert value <= limit, f"{step}: error {value:.1e}"
        self.errors[step] = value

    def output(self, model: nn.Module) -> Any:
        """The output, without a graph."""
        with torch.no_grad():
            return model(*self.inputs)

    def compare(self, step: str, model: nn.Module, reference: nn.Module, names: Sequence[str]) -> None:
        """Compare every conv, the whole output and all gradients with the reference."""
        self.note(f"{step}, convs", error_of_convs(model, reference, names, self.inputs))
        self.note(f"{step}, network", error(self.output(model), self.output(reference)))

    def run(self) -> Measured:
        """All steps."""
        designed = self.output(self.foreign.network())
        model, search = self.wrapped()
        plain = named_convs(self.foreign.network())
        passed_over = {name: reason_of(conv) for name, conv in plain.items() if name not in search.convs}
        if idle := self.not_called(model, list(search.convs)):
            self.notes.append(f"{len(idle)} searched convs are not called and keep their dilations")
        if names := [name for name in search.convs if name not in idle]:
            self.searching(model, search, names, designed)
        return Measured(len(plain), len(names), len(idle), passed_over, self.errors, self.notes)

    def not_called(self, model: nn.Module, names: Sequence[str]) -> set[str]:
        """Searched convs whose weight another module reads; they learn nothing and must keep their dilations."""
        convs = named_convs(model)
        with noted({name: convs[name] for name in names}) as calls:
            self.output(model)
        if idle := {name for name, seen in calls.items() if not seen}:
            trained, search = self.wrapped()
            train(trained, self.inputs)
            search.after_step()
            assert {name for name in idle if search.structure()[name] != search.initial[name]} == set()
        return idle

    def searching(self, model: nn.Module, search: rfnext.LocalSearch, names: Sequence[str], designed: Any) -> None:
        """Train, run a round, and compare on the way."""
        self.all_at_the_designed_dilation(designed)
        train(model, self.inputs)
        shuffle_probabilities(model, 1)
        self.compare("searched", model, explicit(self.foreign, model.state_dict(), branches_of(model)), names)
        assert search.after_step()
        assert any(search.structure()[name] != search.initial[name] for name in names)
        shuffle_probabilities(model, 2)
        reference = explicit(self.foreign, model.state_dict(), branches_of(model))
        self.compare("after a round", model, reference, names)
        self.note("gradients", error_of_gradients(model, reference, self.inputs))
        assert [y.shape for y in tensors(self.output(model))] == [y.shape for y in tensors(designed)]
        self.checkpoints(model)
        self.export(model)
        self.structures(model, search.structure())

    def all_at_the_designed_dilation(self, designed: Any) -> None:
        """Branches that are all as designed leave the network as it was."""
        model, search = self.wrapped()
        for name, conv in search.convs.items():
            conv.set_branches([search.initial[name]] * 2)
        shuffle_probabilities(model, 3)
        with rfnext.pin_implementation("branches"):  # the others add equal branches up before they compute
            self.note("as designed", error(self.output(model), designed))

    def checkpoints(self, model: nn.Module) -> None:
        """Own and plain checkpoints, the plain before and after wrapping."""
        own, _ = self.wrapped(seed=5)
        own.load_state_dict(model.state_dict())
        self.note("own checkpoint", error(self.output(own), self.output(model)), 0)
        state = self.foreign.network(seed=7).state_dict()
        after, _ = self.wrapped()
        after.load_state_dict(state)
        before = self.foreign.network()
        before.load_state_dict(state)
        rfnext.LocalSearch(before, CONFIG, anchor=self.foreign.anchor)
        self.note("plain checkpoint", error(self.output(after), self.output(before)), 0)
        self.in_float32(own)

    def in_float32(self, model: nn.Module) -> None:
        """Compare every conv of the network in float32 with the reference in float64, on what it sees."""
        model.float()
        torch.set_default_dtype(torch.float32)
        with torch.no_grad(), noted(searched_convs(model)) as calls:
            model(*[x.float() for x in self.inputs])
        torch.set_default_dtype(torch.float64)
        convs = named_convs(explicit(self.foreign, model.state_dict(), branches_of(model)))
        with torch.no_grad():
            errors = [error(y.double(), convs[name](x.double())) for name, seen in calls.items() for x, y in seen]
        self.note("float32, convs", max(errors), SINGLE)

    def export(self, model: nn.Module) -> None:
        """torch.export, by the implementation that a graph holds."""
        try:
            exported = torch.export.export(model, tuple(self.inputs)).module()
        except Exception:
            with pytest.raises(Exception, match=".*"):
                torch.export.export(self.foreign.network(), tuple(self.inputs))
            self.notes.append("torch.export does not take the plain network either")
            return
        self.note("exported", error(self.output(exported), self.output(model)))

    def structures(self, model: nn.Module, structure: rfnext.Structure) -> None:
        """The structure as plain convs, and with branches, which are merged."""
        state = rfnext.plain_state_dict(model.state_dict())
        single, multi = self.foreign.network(seed=5), self.foreign.network(seed=5)
        structure.apply(single)
        single.load_state_dict(state)
        reference = explicit(self.foreign, state, one_each(structure))
        self.compare("single", single, reference, list(structure))
        multi.load_state_dict(state)
        rfnext.keep_branches(multi, structure, CONFIG)
        shuffle_probabilities(multi, 4)
        self.compare("multi", multi, explicit(self.foreign, state, branches_of(multi)), list(structure))
        expected = self.output(multi)
        rfnext.merge(multi)
        assert not searched_convs(multi)
        self.note("merged", error(self.output(multi), expected))
        structure.apply(model)
        self.note("released", error(self.output(model), self.output(single)), 0)
