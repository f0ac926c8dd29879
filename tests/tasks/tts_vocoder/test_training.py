"""Both recipes, validation, averages, checkpoints: every fit runs Lightning's Trainer on the embedded speech."""

import dataclasses
import math
import os

import numpy as np
import pytest
import soundfile
import torch

from rfnext import Bounds, LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, merge
from tasks import checkpoint
from tasks.lightning_fit import CHECKPOINT
from tasks.spec import SELECTED, Run, Split
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.data import open_recordings
from tasks.tts_vocoder.evaluation import copy_synthesis, evaluate, synthesise
from tasks.tts_vocoder.generators import searched
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.metrics import log_mel_l1
from tasks.tts_vocoder.models import build
from tasks.tts_vocoder.training import AUDIO, fit

MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0)
CONFIG = Config(
    dataset="espeak",
    clips=8,
    test=1,
    validation=2,
    mel=MEL,
    generator="hifi_gan_v3",
    channels=16,
    upsampling=(8, 8),
    recipe="stft",
    discriminators=("period",),
    discriminator_divisor=8,
    epochs=4,
    batch=3,
    segment=2048,
    lr=3e-3,
    lr_decay=0.8,
    validate_every=2,
    search=LocalConfig(interval=1, rounds=2, spread=0.5, branches=3, bounds=Bounds(1, 16)),
)
KINDS = {
    "stft": CONFIG,
    "gan": dataclasses.replace(CONFIG, recipe="gan"),
    "searching": CONFIG,
    "searching gan with average": dataclasses.replace(CONFIG, search_recipe="gan", discriminators=("scale",), ema=0.7),
}


@pytest.fixture(scope="module")
def recordings(espeak):
    return open_recordings(espeak, CONFIG.shape, test=CONFIG.test, validation=CONFIG.validation, clips=CONFIG.clips)


@pytest.fixture(scope="module", autouse=True)
def _speech(espeak):
    """Data that nobody names is the embedded speech."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFNEXT_CACHE", str(espeak.parent))
        yield


def network(config=CONFIG, searching=False):
    torch.manual_seed(0)
    model = build(config)
    return model, LocalSearch(model, config.search, searched) if searching else None


def train(config, folder=CONFIG, searching=False, **settings):
    folder.mkdir(exist_ok=True)
    model, search = network(config, searching)
    fit(
        model,
        config,
        Run(**{"seed": 3, "fold": 1, "folder": folder, "device": "cpu"} | settings, search=search),
    )
    return model, search


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    """A training that nothing interrupts: config, whether it searches, network, search and folder."""
    config, searching = KINDS[request.param], "searching" in request.param
    folder = tmp_path_factory.mktemp("whole")
    return config, searching, *train(config, folder, searching), folder


class TestTraining:
    def test_learns(self, whole, recordings):
        config, _, model, _, folder = whole
        before, _ = network(config)

        def distance(generator):
            pairs = copy_synthesis(generator, recordings.validation)
            return np.mean([log_mel_l1(*pair, MEL) for pair in pairs])

        assert distance(model) < 0.9 * distance(before)  # of eight steps
        selected = checkpoint.load(folder / SELECTED).model
        assert distance(selected) <= distance(model) + 1e-6
        assert model.training

    def test_leaves_audio(self, whole, recordings):
        names = recordings.validation.names
        folder = whole[-1] / AUDIO
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            f"{name}-{kind}.wav" for name in names for kind in ("truth", "output")
        )
        for name, pair in zip(names, copy_synthesis(whole[2], recordings.validation), strict=True):
            for kind, expected in zip(("truth", "output"), pair, strict=True):
                wave, rate = soundfile.read(folder / f"{name}-{kind}.wav", dtype="float32")
                assert rate == 8000
                np.testing.assert_allclose(wave, expected, atol=1e-4)

    def test_one_that_diverges_ends(self, tmp_path):
        """An error would also end the searches that try several networks, of which others may be good."""
        config = dataclasses.replace(CONFIG, epochs=1, lr=1e9)
        model, _ = train(config, tmp_path)
        assert all(map(math.isnan, evaluate(model, config, Split("validation", 1)).values()))
        assert {path.name for path in tmp_path.iterdir()} == {CHECKPOINT}  # nothing is selected, there is no audio

    def test_killed_and_resumed(self, whole, tmp_path):
        config, searching, expected, found, _ = whole
        model, search = network(config, searching)
        tmp_path.mkdir(exist_ok=True)
        run = Run(seed=3, fold=1, folder=tmp_path, device="cpu", search=search)
        steps = []

        def die(*_):
            steps.append(model.training)
            if sum(steps) > 4:  # in the middle of the third epoch
                raise RuntimeError("killed")

        handle = model.register_forward_hook(die)
        with pytest.raises(RuntimeError, match="killed"):
            fit(model, config, run)
        handle.remove()
        torch.randn(5)
        model, search = train(config, tmp_path, searching, resume=True)
        assert_same_weights(model.state_dict(), expected.state_dict())
        if searching:
            assert search.history == found.history
            assert search.structure() == found.structure()

    def test_resuming_a_finished_run_changes_nothing(self, whole, tmp_path):
        config, searching, expected, _, folder = whole
        (tmp_path / CHECKPOINT).write_bytes((folder / CHECKPOINT).read_bytes())
        model, _ = train(config, tmp_path, searching, resume=True)
        assert_same_weights(model.state_dict(), expected.state_dict())


def test_search_moves_and_uses_the_cheap_recipe(tmp_path):
    config = dataclasses.replace(KINDS["gan"], epochs=2)
    _, search = train(config, tmp_path, searching=True)
    assert len(search.history) == 2
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["run"]["recipe"] == "stft"
    assert not [key for key in state["state_dict"] if key.startswith("discriminators")]


def test_average_is_what_remains(tmp_path):
    """One epoch of two steps: the first average is the weights themselves."""
    seen = []
    config = dataclasses.replace(CONFIG, epochs=1, ema=0.75)
    model, _ = network(config)

    def remember(module, *_):
        if module is model and model.training:  # the average is a copy, hook and all
            seen.append(model.conv_post.bias.detach().clone())

    model.register_forward_hook(remember)  # before each step
    fit(model, config, Run(seed=3, fold=1, folder=tmp_path, device="cpu"))
    last = torch.load(tmp_path / CHECKPOINT, weights_only=True)["state_dict"]["network.conv_post.bias"]
    assert len(seen) == 2
    torch.testing.assert_close(model.conv_post.bias.detach(), 0.75 * seen[1] + 0.25 * last)


def test_one_shot_search_has_its_own_learning_rate(tmp_path):
    model, _ = network()
    search = OneShotSearch(model, OneShotConfig(candidates=(1, 2, 4), interval=1), searched)
    config = dataclasses.replace(CONFIG, epochs=2)
    fit(model, config, Run(seed=3, fold=1, folder=tmp_path, device="cpu", search=search))
    groups = torch.load(tmp_path / CHECKPOINT, weights_only=True)["optimizer_states"][0]["param_groups"]
    rates = [group["lr"] for group in groups]
    assert rates == pytest.approx([0.8 * CONFIG.lr, 0.8 * search.parameter_groups()[1]["lr"]])
    assert len(search.history) == 2


def test_merged_generator_is_trained_on(tmp_path):
    model, _ = network(searching=True)
    merge(model)
    fit(model, dataclasses.replace(CONFIG, epochs=1), Run(seed=3, fold=1, folder=tmp_path, device="cpu"))
    mel = torch.randn(1, 20, 8)
    again = checkpoint.load(tmp_path / SELECTED).model
    assert torch.equal(synthesise(again, mel), synthesise(model, mel))


def test_mixed_precision(tmp_path):
    config = dataclasses.replace(KINDS["gan"], discriminators=("resolution",), precision="bf16-mixed", epochs=1)
    mixed, _ = train(config, tmp_path / "mixed")
    single, _ = train(dataclasses.replace(config, precision="32-true"), tmp_path / "single")
    one, other = mixed.state_dict(), single.state_dict()
    torch.testing.assert_close(one, other, atol=0.03, rtol=0)  # an AdamW step is at most about the learning rate
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_workers_change_nothing(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=2)
    one, _ = train(config, tmp_path / "one")
    two, _ = train(dataclasses.replace(config, workers=1), tmp_path / "two")
    assert_same_weights(one.state_dict(), two.state_dict())


def test_only_its_own_checkpoint_is_resumed(tmp_path):
    train(dataclasses.replace(CONFIG, epochs=1), tmp_path)
    with pytest.raises(ValueError, match=r"cannot resume.*'seed': 3.*give another folder"):
        train(CONFIG, tmp_path, resume=True, seed=9)
    with pytest.raises(ValueError, match="'recipe': 'gan'"):
        train(KINDS["gan"], tmp_path, resume=True)


class TestLoggers:
    SHORT = dataclasses.replace(CONFIG, epochs=2)

    def test_csv(self, tmp_path):
        train(self.SHORT, tmp_path, searching=True, logger="csv")
        columns = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0]
        for column in ("loss/mel", "loss/stft", "validation/mel_l1", "dilation/resblocks.0.convs.0"):
            assert column in columns

    def test_tensorboard_gets_audio_and_pictures(self, recordings, tmp_path):
        train(self.SHORT, tmp_path, logger="tensorboard")
        (events,) = (tmp_path / "tensorboard").glob("events.out.*")
        data = events.read_bytes()
        for part in (b"validation/mel_l1", b"\x89PNG", b"RIFF", f"output/{recordings.validation.names[0]}".encode()):
            assert part in data

    @pytest.mark.slow
    def test_wandb_without_account_or_network(self, tmp_path, monkeypatch):
        for name in ("WANDB_MODE", "WANDB_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        train(self.SHORT, tmp_path / "run", searching=True, logger="wandb", name="one", group="all")
        (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
        media = [path.suffix for path in (run / "files" / "media").rglob("*") if path.is_file()]
        assert {".png", ".wav"} <= set(media)
        assert os.listdir() == ["run"]
