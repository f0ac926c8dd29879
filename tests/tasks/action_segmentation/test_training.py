"""Loss, order, validation, checkpoints: every fit runs Lightning's Trainer on the embedded recordings."""

import dataclasses
import logging
import os
import signal
import threading
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rfnext import Bounds, LocalConfig, LocalSearch, OneShotConfig, OneShotSearch
from tasks.action_segmentation import training
from tasks.action_segmentation.data import IGNORED, collate, open_dataset
from tasks.action_segmentation.models import DilatedConv, ms_tcn, searched
from tasks.action_segmentation.task import Config, data_folder
from tasks.action_segmentation.training import CHECKPOINT, Alternating, Shuffled, fit, loss, predict, score
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
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        root = data_folder(CONFIG)
    return open_dataset(root, fold=1, stride=CONFIG.stride, group=CONFIG.group)


def network(searching=False):
    torch.manual_seed(0)
    model = ms_tcn(12, 7, stages=CONFIG.stages, layers=CONFIG.layers, maps=CONFIG.maps)
    return model, LocalSearch(model, CONFIG.search, searched) if searching else None


def run(folder, **settings):
    folder.mkdir(exist_ok=True)
    return Run(**{"seed": 3, "fold": 1, "folder": folder, "device": "cpu"} | settings)


def train(dataset, folder, searching=False, config=CONFIG, **settings):
    model, search = network(searching)
    fit(model, dataset, config, run(folder, search=search, **settings))
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


class TestLoss:
    @staticmethod
    def slow(logits, labels, lengths, smoothing):
        """Frame by frame."""
        total = 0.0
        for stage in logits:
            entropies, steps = [], []
            for video, target, length in zip(stage, labels, lengths, strict=True):
                log_p = F.log_softmax(video, dim=0)
                for t in range(length):
                    if target[t] != IGNORED:
                        entropies.append(-log_p[target[t], t])
                    if t > 0:
                        difference = log_p[:, t] - log_p[:, t - 1].detach()
                        steps.extend(torch.clamp(difference**2, max=16))
            total = total + torch.stack(entropies).mean()
            if steps:
                total = total + smoothing * torch.stack(steps).mean()
        return total

    @pytest.mark.parametrize("lengths", [[9, 9], [4, 9], [1, 2], [1, 1]])
    def test_equals_a_loop_over_frames(self, lengths):
        frames = max(lengths)
        logits = 4 * torch.randn(3, 2, 5, frames, dtype=torch.float64)  # large enough for the clip to count
        labels = torch.randint(0, 5, (2, frames))
        mask = torch.zeros(2, 1, frames, dtype=torch.bool)
        for k, length in enumerate(lengths):
            labels[k, length:] = IGNORED
            mask[k, :, :length] = True
        labels[0, 0] = IGNORED if lengths[0] > 1 else labels[0, 0]  # an unlabelled frame of the video itself
        one, other = (logits.clone().requires_grad_() for _ in range(2))
        value, expected = loss(one, labels, mask, 0.15), self.slow(other, labels, lengths, 0.15)
        torch.testing.assert_close(value, expected)
        value.backward()
        expected.backward()
        torch.testing.assert_close(one.grad, other.grad)

    def test_padding_changes_nothing(self):
        logits = torch.randn(2, 3, 4, 10)
        labels = torch.randint(0, 4, (3, 10))
        mask = torch.ones(3, 1, 10, dtype=torch.bool)
        padded = (F.pad(logits, (0, 7)), F.pad(labels, (0, 7), value=IGNORED), F.pad(mask, (0, 7)))
        torch.testing.assert_close(loss(logits, labels, mask, 0.15), loss(*padded, 0.15))

    def test_is_finite_without_any_label(self):
        logits = torch.randn(2, 1, 4, 1, requires_grad=True)
        value = loss(logits, torch.full((1, 1), IGNORED), torch.ones(1, 1, 1, dtype=torch.bool), 0.15)
        value.backward()
        assert value == 0
        assert not logits.grad.any()


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


def test_prediction_covers_every_frame_and_restores_the_mode(dataset):
    model, _ = network()
    video = dataset.test[0]
    for training_mode in (False, True):
        model.train(training_mode)
        found = predict(model, video, dataset.stride)
        assert all(module.training is training_mode for module in model.modules())
    assert found.shape == video.full_labels.shape
    batch = collate([video])
    expected = model.eval()(batch.features)[-1, 0].argmax(0).numpy()
    assert (found[::16] == expected).all()
    assert (found[15::16] == expected[: len(found[15::16])]).all()


def test_background_counts_only_in_accuracy(dataset):
    model, _ = network()
    renamed = dataclasses.replace(dataset, classes=("background", *dataset.classes[1:]))
    scores = score(model, renamed, dataset.validation, "i+1")
    assert scores["accuracy"] == score(model, dataset, dataset.validation, "i+1")["accuracy"]
    with torch.no_grad():  # predict nothing but background
        for parameter in model.parameters():
            parameter.zero_()
        model.stages[-1].classify.bias[0] = 1
    assert score(model, renamed, dataset.validation, "i+1")["edit"] == 0
    assert score(model, dataset, dataset.validation, "i+1")["edit"] > 0


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "searching"])
def whole(request, dataset, tmp_path_factory):
    """An uninterrupted run: (searching, network, search, folder)."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, *train(dataset, folder, request.param), folder


def test_learns(dataset, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=30, lr_drop_epoch=None, validate_every=30)
    model, _ = train(dataset, tmp_path, config=config)
    before, after = (score(m, dataset, dataset.train, "i+1") for m in (network()[0], model))
    assert after["accuracy"] > before["accuracy"] + 15
    assert after["f1@10"] > before["f1@10"] + 15


class TestFit:
    def test_leaves_two_files_only(self, whole):
        assert sorted(path.name for path in whole[-1].iterdir()) == [CHECKPOINT, SELECTED]

    def test_selects_the_best_validated_epoch(self, dataset, whole):
        searching, _, _, folder = whole
        means = []
        for epochs in (2, 4, 5):  # validate_every = 2, and the last one
            config = dataclasses.replace(CONFIG, epochs=epochs, validate_every=epochs)
            part, search = network(searching)
            (folder.parent / f"{searching}{epochs}").mkdir()
            fit(part, dataset, config, run(folder.parent / f"{searching}{epochs}", search=search))
            selected, _ = network(searching)
            selected.load_state_dict(torch.load(folder.parent / f"{searching}{epochs}" / SELECTED))
            scores = score(selected, dataset, dataset.validation, "i+1")
            means.append((sum(scores.values()), selected.state_dict()))
        best = max(means, key=lambda pair: pair[0])
        assert_same_weights(torch.load(folder / SELECTED), best[1])

    def test_drops_the_learning_rate(self, whole):
        state = torch.load(whole[-1] / CHECKPOINT)
        assert state["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(2e-3)

    def test_runs_the_rounds_of_a_search(self, whole):
        searching, model, search, _ = whole
        if searching:
            assert search.step == CONFIG.epochs
            assert search.round == CONFIG.search.rounds
            assert search.structure() != search.initial
        assert isinstance(model.stages[0].layers[0].dilated, DilatedConv)

    @pytest.mark.parametrize("step", [2, 8, 13])  # five steps per epoch
    def test_resumed_equals_uninterrupted(self, dataset, whole, tmp_path, step):
        searching, expected, expected_search, folder = whole
        model, search = network(searching)
        hook = die_at(model, step)
        with pytest.raises(RuntimeError, match="killed"):
            fit(model, dataset, CONFIG, run(tmp_path, search=search))
        hook.remove()
        assert (tmp_path / CHECKPOINT).exists() == (step >= 5)
        torch.manual_seed(step)  # another process has drawn other numbers
        torch.randn(step + 1)
        model, search = network(searching)
        fit(model, dataset, CONFIG, run(tmp_path, search=search, resume=True))
        assert_same_weights(model.state_dict(), expected.state_dict())
        assert_same_weights(torch.load(tmp_path / SELECTED), torch.load(folder / SELECTED))
        if searching:
            assert search.state_dict() == expected_search.state_dict()

    def test_finished_run_stays_as_it_is(self, dataset, whole, tmp_path):
        searching, expected, _, folder = whole
        (tmp_path / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes())
        model, _ = train(dataset, tmp_path, searching, resume=True)
        assert_same_weights(model.state_dict(), expected.state_dict())

    def test_can_be_made_longer(self, dataset, whole, tmp_path):
        searching, expected, _, _ = whole
        shorter = dataclasses.replace(CONFIG, epochs=3)
        train(dataset, tmp_path, searching, shorter)
        model, _ = train(dataset, tmp_path, searching, resume=True)
        assert_same_weights(model.state_dict(), expected.state_dict())

    def test_ignores_an_old_checkpoint_unless_told_to_resume(self, dataset, whole, tmp_path):
        searching, expected, _, folder = whole
        for name in (CHECKPOINT, SELECTED):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        model, _ = train(dataset, tmp_path, searching)
        assert_same_weights(model.state_dict(), expected.state_dict())

    def test_checkpoint_holds_no_pickled_objects(self, whole):
        assert "state_dict" in torch.load(whole[-1] / CHECKPOINT, weights_only=True)

    def test_another_seed_gives_other_weights(self, dataset, whole, tmp_path):
        searching = whole[0]
        short = dataclasses.replace(CONFIG, epochs=1)
        one, _ = train(dataset, tmp_path, searching, short)
        other, _ = train(dataset, tmp_path, searching, short, seed=4)
        assert not torch.equal(one.stages[0].enter.weight, other.stages[0].enter.weight)


class TestHeldOut:
    """Probabilities on batches of their own."""

    def test_halves_are_disjoint_and_cover_the_videos(self):
        order = Alternating(19, 4, seed=3)
        first, second = map(set, order.halves)
        assert (len(first), len(second)) == (10, 9)
        assert first | second == set(range(19))
        seen = list(order)
        assert len(seen) == len(order) == 6
        assert sorted(chain(*seen[::2])) == sorted(first)
        assert sorted(chain(*seen[1::2])) == sorted(second)
        order.set_epoch(1)
        assert sorted(chain(*order)) == list(range(19))
        assert list(order) != seen
        assert order.halves == Alternating(19, 2, seed=3).halves != Alternating(19, 4, seed=4).halves
        # 5 and 4 videos make 3 and 2 batches: the second half's first one comes twice.
        batches = list(Alternating(9, 2, seed=0))
        assert (len(batches), batches[1]) == (6, batches[5])

    @pytest.mark.parametrize("kind", ["local", "one_shot"])
    def test_each_half_trains_its_part_only(self, dataset, tmp_path, kind):
        model, _ = network()
        if kind == "local":
            search = LocalSearch(model, CONFIG.search, searched)
        else:
            search = OneShotSearch(model, OneShotConfig((1, 2, 4)), searched)
        own = {name for name, _ in model.named_parameters() if name.endswith("branch_weight")}
        snapshots, shown = [], []

        def watch(module, inputs):
            if module.training:
                snapshots.append({name: p.detach().clone() for name, p in module.named_parameters()})
                shown.append(inputs[0])

        model.register_forward_pre_hook(watch)
        config = dataclasses.replace(CONFIG, epochs=2, batch=3, search=dataclasses.replace(CONFIG.search, interval=9))
        fit(model, dataset, config, run(tmp_path, search=search, probability_batches="held_out"))
        snapshots.append(dict(model.named_parameters()))
        halves = Alternating(len(dataset.train), 3, seed=3).halves
        for step, (before, after) in enumerate(pairwise(snapshots)):
            moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
            assert moved == (own if step % 2 else before.keys() - own)
            features = [torch.from_numpy(dataset.train[index].features) for index in halves[step % 2]]
            for video in shown[step]:
                assert any(torch.equal(video[:, : x.shape[1]], x) for x in features if x.shape[1] <= video.shape[1])

    @pytest.mark.parametrize("step", [1, 4, 9])
    def test_resumed_equals_uninterrupted(self, dataset, tmp_path, step):
        settings = {"probability_batches": "held_out"}
        expected, expected_search = train(dataset, tmp_path / "whole", True, **settings)
        model, search = network(True)
        hook = die_at(model, step)
        with pytest.raises(RuntimeError, match="killed"):
            fit(model, dataset, CONFIG, run(tmp_path / "killed", search=search, **settings))
        hook.remove()
        torch.manual_seed(step)
        model, search = train(dataset, tmp_path / "killed", True, resume=True, **settings)
        assert_same_weights(model.state_dict(), expected.state_dict())
        assert search.state_dict() == expected_search.state_dict()
        plain, _ = train(dataset, tmp_path / "plain", True)
        assert not torch.equal(plain.stages[0].enter.weight, model.stages[0].enter.weight)
        with pytest.raises(ValueError, match="cannot resume.*'held_out': True"):
            train(dataset, tmp_path / "killed", True, resume=True)

    def test_needs_a_search_and_two_videos(self, dataset, tmp_path):
        with pytest.raises(ValueError, match="probabilities of a search, and there is none"):
            train(dataset, tmp_path, probability_batches="held_out")
        with pytest.raises(ValueError, match="1 training video cannot be divided"):
            Alternating(1, 4, seed=0)


class TestBadResume:
    @pytest.fixture
    def folder(self, dataset, tmp_path):
        train(dataset, tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
        return tmp_path

    def test_of_another_run(self, dataset, folder):
        for settings in ({"seed": 9}, {"fold": 2}):
            with pytest.raises(ValueError, match=r"cannot resume.*'seed': 3.*give another folder"):
                train(dataset, folder, resume=True, **settings)
        with pytest.raises(ValueError, match="'searching': True"):
            train(dataset, folder, searching=True, resume=True)

    @pytest.mark.parametrize("content", [b"", b"half", "truncated"])
    def test_from_a_broken_checkpoint(self, dataset, folder, content):
        path = folder / CHECKPOINT
        path.write_bytes(path.read_bytes()[:5000] if content == "truncated" else content)
        with pytest.raises(ValueError, match=r"last\.ckpt is not a readable checkpoint.*delete it"):
            train(dataset, folder, resume=True)

    def test_without_a_checkpoint_starts_anew(self, dataset, folder, tmp_path, caplog):
        (folder / CHECKPOINT).unlink()
        with caplog.at_level(logging.INFO, logger=training.__name__):
            train(dataset, folder, config=dataclasses.replace(CONFIG, epochs=1), resume=True)
        assert "starting from the first" in caplog.text


def test_full_disk_keeps_the_last_checkpoint(dataset, tmp_path, monkeypatch):
    train(dataset, tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    before = (tmp_path / CHECKPOINT).read_bytes()

    def fsync(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt.*No space left"):
        train(dataset, tmp_path, config=dataclasses.replace(CONFIG, epochs=3, validate_every=5), resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, SELECTED]


def test_ctrl_c_reaches_the_caller(dataset, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    model, _ = network()
    model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(model, dataset, CONFIG, run(tmp_path))
    assert signal.getsignal(signal.SIGINT) is before
    assert threading.current_thread() is threading.main_thread()


def test_writes_nothing_to_the_terminal(dataset, tmp_path, capfd):
    train(dataset, tmp_path, config=dataclasses.replace(CONFIG, epochs=1))
    assert capfd.readouterr() == ("", "")


class TestLoggers:
    SHORT = dataclasses.replace(CONFIG, epochs=2)

    def test_csv(self, dataset, tmp_path):
        train(dataset, tmp_path, searching=True, config=self.SHORT, logger="csv")
        text = (tmp_path / "csv" / "metrics.csv").read_text()
        for column in ("loss", "validation/f1@25", "dilation/stages.0.layers.0.dilated"):
            assert column in text.splitlines()[0]

    def test_tensorboard(self, dataset, tmp_path):
        train(dataset, tmp_path, config=self.SHORT, logger="tensorboard")
        (events,) = (tmp_path / "tensorboard").glob("events.out.*")
        assert b"validation/edit" in events.read_bytes()

    @pytest.mark.slow
    def test_wandb_without_account_or_network(self, dataset, tmp_path, monkeypatch):
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        train(dataset, tmp_path / "run", config=self.SHORT, logger="wandb")
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
        assert [path.name for path in Path().iterdir()] == ["run"]
