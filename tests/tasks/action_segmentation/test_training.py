"""Loss, order, validation, checkpoints: every fit runs Lightning's Trainer on the embedded recordings."""

import dataclasses
from pathlib import Path

import pytest
import torch

from rfnext import Bounds, LocalConfig, LocalSearch
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.datasets import open_fold
from tasks.action_segmentation.evaluation import score
from tasks.action_segmentation.models import ms_tcn, searched
from tasks.action_segmentation.models.layers import DilatedConv
from tasks.action_segmentation.training import Shuffled, fit
from tasks.lightning_fit import CHECKPOINT
from tasks.spec import SELECTED, Run

CONFIG = Config(
    stages=2,
    layers=3,
    maps=8,
    stride=16,
    epochs=5,
    lr=2e-2,
    lr_drop_epoch=4,
    validate_every=2,
    search=LocalConfig(interval=1, rounds=3, spread=0.5, branches=3, bounds=Bounds(1, 32)),
)


@pytest.fixture(scope="module")
def config(embedded):
    return dataclasses.replace(CONFIG, root=embedded)


def network(searching=False):
    torch.manual_seed(0)
    model = ms_tcn(12, 7, stages=CONFIG.stages, layers=CONFIG.layers, maps=CONFIG.maps)
    return model, LocalSearch(model, CONFIG.search, searched) if searching else None


def run(folder, **settings):
    folder.mkdir(exist_ok=True)
    return Run(**{"seed": 3, "fold": 1, "folder": folder, "device": "cpu"} | settings)


def train(config, folder, searching=False, **settings):
    model, search = network(searching)
    fit(model, config, run(folder, search=search, **settings))
    return model, search


def die_at(model, step):
    """Make training fail in the given step, in the middle of an epoch."""
    steps = []

    def hook(*_):
        steps.append(model.training)
        if sum(steps) > step:
            raise RuntimeError("killed")

    return model.register_forward_hook(hook)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_order_depends_on_seed_and_epoch_only():
    order = Shuffled(20, seed=1)
    first = list(order)
    assert sorted(first) == list(range(20))
    assert list(order) == first
    order.set_epoch(1)
    assert list(order) != first
    torch.manual_seed(5)
    order.set_epoch(0)
    assert list(order) == first
    assert list(Shuffled(20, seed=2)) != first


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "searching"])
def whole(request, config, tmp_path_factory):
    """An uninterrupted run: (searching, network, search, folder)."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, *train(config, folder, request.param), folder


def test_learns(config, tmp_path):
    config = dataclasses.replace(config, epochs=30, lr_drop_epoch=None, validate_every=30)
    model, _ = train(config, tmp_path)
    data = open_fold(config, 1)
    before, after = (score(m, data, data.train, "i+1") for m in (network()[0], model))
    assert after["accuracy"] > before["accuracy"] + 15
    assert after["f1@10"] > before["f1@10"] + 15


def weights(folder):
    return torch.load(folder / SELECTED, weights_only=True)["state_dict"]


class TestFit:
    def test_leaves_two_files_only(self, whole):
        assert sorted(path.name for path in whole[-1].iterdir()) == [CHECKPOINT, SELECTED]

    def test_selects_the_best_validated_epoch(self, config, whole):
        searching, _, _, folder = whole
        data, means = open_fold(config, 1), []
        for epochs in (2, 4, 5):  # validate_every = 2, and the last one
            short = dataclasses.replace(config, epochs=epochs, validate_every=epochs)
            part, search = network(searching)
            (folder.parent / f"{searching}{epochs}").mkdir()
            fit(part, short, run(folder.parent / f"{searching}{epochs}", search=search))
            selected, _ = network(searching)
            selected.load_state_dict(weights(folder.parent / f"{searching}{epochs}"))
            scores = score(selected, data, data.validation, "i+1")
            means.append((sum(scores.values()), selected.state_dict()))
        best = max(means, key=lambda pair: pair[0])
        assert_same_weights(weights(folder), best[1])

    def test_drops_the_learning_rate(self, whole):
        state = torch.load(whole[-1] / CHECKPOINT)
        assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(2e-3)

    def test_runs_the_rounds_of_a_search(self, whole):
        searching, model, search, _ = whole
        if searching:
            assert search.step == CONFIG.epochs
            assert len(search.history) == CONFIG.search.rounds
            assert search.structure() != search.initial
        assert isinstance(model.stages[0].layers[0].dilated, DilatedConv)

    @pytest.mark.parametrize("step", [2, 8, 13])  # five steps per epoch
    def test_resumed_equals_uninterrupted(self, config, whole, tmp_path, step):
        searching, expected, expected_search, folder = whole
        model, search = network(searching)
        hook = die_at(model, step)
        with pytest.raises(RuntimeError, match="killed"):
            fit(model, config, run(tmp_path, search=search))
        hook.remove()
        assert (tmp_path / CHECKPOINT).exists() == (step >= 5)
        torch.manual_seed(step)  # another process has drawn other numbers
        torch.randn(step + 1)
        model, search = network(searching)
        fit(model, config, run(tmp_path, search=search, resume=True))
        assert_same_weights(model.state_dict(), expected.state_dict())
        assert_same_weights(
            weights(tmp_path),
            weights(folder),
        )
        if searching:
            assert search.state_dict() == expected_search.state_dict()

    def test_finished_run_stays_as_it_is(self, config, whole, tmp_path):
        searching, expected, _, folder = whole
        (tmp_path / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes())
        model, _ = train(config, tmp_path, searching, resume=True)
        assert_same_weights(model.state_dict(), expected.state_dict())

    def test_can_be_made_longer(self, config, whole, tmp_path):
        searching, expected, _, _ = whole
        shorter = dataclasses.replace(config, epochs=3)
        train(shorter, tmp_path, searching)
        model, _ = train(config, tmp_path, searching, resume=True)
        assert_same_weights(model.state_dict(), expected.state_dict())

    def test_ignores_an_old_checkpoint_unless_told_to_resume(self, config, whole, tmp_path):
        searching, expected, _, folder = whole
        for name in (CHECKPOINT, SELECTED):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        model, _ = train(config, tmp_path, searching)
        assert_same_weights(model.state_dict(), expected.state_dict())

    def test_checkpoint_holds_no_pickled_objects(self, whole):
        assert "state_dict" in torch.load(whole[-1] / CHECKPOINT, weights_only=True)

    def test_another_seed_gives_other_weights(self, config, whole, tmp_path):
        searching = whole[0]
        short = dataclasses.replace(config, epochs=1)
        one, _ = train(short, tmp_path, searching)
        other, _ = train(short, tmp_path, searching, seed=4)
        assert not torch.equal(one.stages[0].enter.weight, other.stages[0].enter.weight)


class TestMicroBatch:
    def test_of_a_whole_batch_changes_no_digit(self, config, tmp_path):
        short = dataclasses.replace(config, epochs=1)
        expected, _ = train(short, tmp_path / "whole")
        found, _ = train(dataclasses.replace(short, micro_batch=short.batch), tmp_path / "parts")
        assert_same_weights(found.state_dict(), expected.state_dict())

    @pytest.mark.parametrize("searching", [False, True])
    def test_trains_as_the_whole_does(self, config, tmp_path, searching):
        found = []
        for micro_batch in (None, 3):  # 8 videos a step: 3, 3 and 2
            folder = tmp_path / str(micro_batch)
            folder.mkdir()
            torch.manual_seed(0)
            model = ms_tcn(12, 7, stages=2, layers=3, maps=8, dropout=0.0)
            search = LocalSearch(model, CONFIG.search, searched) if searching else None
            settings = dataclasses.replace(config, epochs=2, lr=1e-3, micro_batch=micro_batch)
            fit(model, settings, run(folder, search=search))
            found.append((model.state_dict(), search and search.structure()))
        (whole, structure), (parts, other) = found
        assert structure == other
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-4, msg=name)

    def test_killed_between_two_parts_it_is_resumed_exactly(self, config, tmp_path):
        config = dataclasses.replace(config, epochs=2, micro_batch=3)
        expected, _ = train(config, tmp_path / "whole")
        model, _ = network()
        hook = die_at(model, 3 * 6 + 1)  # in the seventh step, of the second epoch
        with pytest.raises(RuntimeError, match="killed"):
            fit(model, config, run(tmp_path / "killed"))
        hook.remove()
        model, _ = train(config, tmp_path / "killed", resume=True)
        assert_same_weights(model.state_dict(), expected.state_dict())


def test_only_its_own_checkpoint_is_resumed(config, tmp_path):
    train(dataclasses.replace(config, epochs=1), tmp_path)
    for settings in ({"seed": 9}, {"fold": 2}):
        with pytest.raises(ValueError, match=r"cannot resume.*'seed': 3.*give another folder"):
            train(config, tmp_path, resume=True, **settings)
    with pytest.raises(ValueError, match="'searching': True"):
        train(config, tmp_path, searching=True, resume=True)


class TestLoggers:
    def test_csv(self, config, tmp_path):
        train(dataclasses.replace(config, epochs=2), tmp_path, searching=True, logger="csv")
        text = (tmp_path / "csv" / "metrics.csv").read_text()
        for column in ("loss", "validation/f1@25", "dilation/stages.0.layers.0.dilated"):
            assert column in text.splitlines()[0]

    def test_tensorboard(self, config, tmp_path):
        train(dataclasses.replace(config, epochs=2), tmp_path, logger="tensorboard")
        (events,) = (tmp_path / "tensorboard").glob("events.out.*")
        assert b"validation/edit" in events.read_bytes()

    @pytest.mark.slow
    def test_wandb_without_account_or_network(self, config, tmp_path, monkeypatch):
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        train(dataclasses.replace(config, epochs=2), tmp_path / "run", logger="wandb")
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
        assert [path.name for path in Path().iterdir()] == ["run"]
