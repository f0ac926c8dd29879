"""Trainings by Lightning: killed and resumed, interrupted, on a full disk; on a network of one linear layer."""

import logging
import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tasks.lightning_fit import CHECKPOINT, Training, Validation, derived_seed, train
from tasks.spec import SELECTED, Run

WEIGHTS = torch.tensor([[1.0, -2.0, 3.0]])
INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


class Regression(Training):
    """Fits the linear map `WEIGHTS`; its dropout and its learning rate depend on the epoch."""

    def configure_optimizers(self):
        return torch.optim.Adam(self.network_groups(), lr=0.1)

    def on_train_epoch_start(self):
        self.scale_learning_rates(0.5**self.current_epoch)

    def training_step(self, batch, batch_idx):
        self.seed_step("dropout", batch_idx)
        return (self.network(nn.functional.dropout(batch, 0.2)) - batch @ WEIGHTS.T).square().mean()


class Recorded(Validation):
    """Measures given values instead of the network."""

    def __init__(self, folder, values, *, every=1, higher_is_better=True):
        def keep(network):
            torch.save(network.state_dict(), folder / SELECTED)

        super().__init__(keep, every, higher_is_better=higher_is_better)
        self.values, self.seen = values, []

    def measure(self, network):
        value = self.values[len(self.seen)]
        self.seen.append({name: weight.clone() for name, weight in network.state_dict().items()})
        return {"value": value}, value


def start(folder, epochs=4, network=None, validation=None, marks=None, **settings):
    torch.manual_seed(0)
    network = network or nn.Linear(3, 1)
    run = Run(**{"seed": 3, "fold": 1, "folder": folder, "device": "cpu"} | settings)
    module = Regression(network, run, **(marks or {}))
    loader = DataLoader(cast(Any, INPUTS), batch_size=4, generator=torch.Generator())
    train(module, loader, SimpleNamespace(epochs=epochs), run, validation or Recorded(folder, [0.0] * 9))
    return network


def killed_at(step):
    """A network whose training ends in an error at that step, counted from 0; an epoch has three."""
    network, steps = nn.Linear(3, 1), []

    def die(*_):
        steps.append(1)
        if len(steps) > step:
            raise RuntimeError("killed")

    torch.manual_seed(0)
    network.reset_parameters()
    network.register_forward_hook(die)
    return network


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, step):
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    expected = start(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        start(tmp_path / "killed", network=killed_at(step))
    assert (tmp_path / "killed" / CHECKPOINT).exists() == (step >= 3)
    torch.randn(step)  # another process has drawn other numbers
    resumed = start(tmp_path / "killed", resume=True)
    assert same(resumed.state_dict(), expected.state_dict())


def test_a_longer_training_continues_a_shorter_one(tmp_path):
    start(tmp_path, epochs=2)
    resumed = start(tmp_path, epochs=4, resume=True)
    (tmp_path / "whole").mkdir()
    assert same(resumed.state_dict(), start(tmp_path / "whole").state_dict())


@pytest.mark.parametrize(("higher", "best"), [(True, 1), (False, 2)])
def test_the_first_of_the_best_epochs_is_selected(tmp_path, higher, best):
    validation = Recorded(tmp_path, [1.0, 3.0, 0.0, 3.0], higher_is_better=higher)
    start(tmp_path, validation=validation)
    assert len(validation.seen) == 4
    assert same(torch.load(tmp_path / SELECTED, weights_only=True), validation.seen[best])


def test_some_epochs_are_scored_and_always_the_last(tmp_path):
    validation = Recorded(tmp_path, [0.0] * 9, every=3)
    start(tmp_path, validation=validation)
    assert len(validation.seen) == 2


def test_a_resumed_run_knows_the_best_value_before(tmp_path):
    start(tmp_path, epochs=1, validation=Recorded(tmp_path, [5.0]))
    before = (tmp_path / SELECTED).read_bytes()
    start(tmp_path, validation=Recorded(tmp_path, [1.0] * 3), resume=True)
    assert (tmp_path / SELECTED).read_bytes() == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    start(tmp_path, epochs=1)
    others: list[dict[str, Any]] = [{"seed": 9}, {"fold": 2}, {"marks": {"recipe": "gan"}}]
    for settings in others:
        with pytest.raises(ValueError, match=r"cannot resume.*'seed': 3.*give another folder"):
            start(tmp_path, resume=True, **settings)


@pytest.mark.parametrize("content", [b"", b"half", "truncated"])
def test_a_broken_checkpoint_is_refused(tmp_path, content):
    start(tmp_path, epochs=1)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000] if content == "truncated" else content)
    with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint.*delete it"):
        start(tmp_path, resume=True)


def test_without_a_checkpoint_it_starts_anew(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="tasks.lightning_fit"):
        start(tmp_path, epochs=1, resume=True)
    assert "starting from the first" in caplog.text


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    start(tmp_path, epochs=1)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def fsync(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt.*No space left"):
        start(tmp_path, validation=Recorded(tmp_path, [0.0], every=9), resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, SELECTED]


@pytest.fixture
def _ctrl_c_works():
    """Tests that were started in the background have Ctrl-C switched off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_works")
def test_ctrl_c_reaches_the_caller(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    network = nn.Linear(3, 1)
    network.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, network=network)
    assert signal.getsignal(signal.SIGINT) is before


def test_writes_nothing_to_the_terminal(tmp_path, capfd):
    start(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_seeds_differ_wherever_their_parts_do():
    seeds = {derived_seed("order", a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derived_seed("order", 1, 2) == derived_seed("order", 1, 2)


def test_a_step_draws_what_torch_draws_from_the_same_seed(tmp_path):
    module = Regression(nn.Linear(3, 1), Run(seed=3, fold=1, folder=tmp_path, device="cpu"))
    torch.manual_seed(derived_seed("dropout", 3, 0, 4))
    expected = torch.rand(5)
    torch.rand(7)
    module.seed_step("dropout", 4)
    assert torch.equal(torch.rand(5), expected)
    module.seed_step("dropout", 5)
    assert not torch.equal(torch.rand(5), expected)


def test_a_step_on_another_device_seeds_that_one_too(tmp_path, monkeypatch):
    """Only torch.manual_seed knows the generators of all kinds of devices, those of mps and xpu among them."""
    module = Regression(nn.Linear(3, 1), Run(seed=3, fold=1, folder=tmp_path, device="cpu")).to("meta")
    seeds: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    module.seed_step("dropout", 4)
    assert seeds == [derived_seed("dropout", 3, 0, 4)]
