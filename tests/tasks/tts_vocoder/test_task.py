"""The task as the benchmarks use it; the contract that all tasks share is in test_contract.py."""

import dataclasses

import pytest
import soundfile
import torch

import tasks
from rfnext import Structure
from tasks.spec import DataError, Run, Split
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.task import TASK

SMALL = {
    "mel": MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0),
    "recipe": "stft",
    "clips": 6,
    "test": 2,
    "validation": 1,
    "segment": 2048,
    "epochs": 1,
}
GENERATORS = {
    "hifi_gan_v1": {"channels": 16, "upsampling": (8, 8)},
    "causal_hifi_gan": {"channels": 4, "upsampling": (8, 8)},
    "bigvgan_base": {"channels": 4, "upsampling": (8, 8)},
    "parallel_wavegan": {"layers": 3, "upsampling": (8, 8)},
    "vocos": {"dim": 16, "layers": 2},
    "source_filter": {"dim": 16, "layers": 2},
}


def test_is_what_the_folder_name_loads():
    assert tasks.load("tts_vocoder") is TASK
    assert TASK.metrics[0].name == "mel_l1"
    assert not TASK.metrics[0].higher_is_better


def test_the_papers_presets():
    assert TASK.presets_of("paper") == ("ljspeech",)


@pytest.mark.defect(2)
def test_training_never_reads_the_test_part(espeak, tmp_path):
    """Test clips are silent, which is an error for whoever reads them."""
    root = tmp_path / "data"
    (root / "wavs").mkdir(parents=True)
    for number in range(1, 7):
        source, rate = soundfile.read(espeak / "wavs" / f"espeak-{number:03d}.wav")
        soundfile.write(root / "wavs" / f"{number}.wav", source if number < 5 else 0 * source, rate)
    config = Config(dataset="folder", root=root, generator="vocos", **GENERATORS["vocos"], **SMALL)
    model = TASK.build(config)
    (tmp_path / "run").mkdir()
    TASK.fit(model, config, Run(seed=0, fold=1, folder=tmp_path / "run", device="cpu"))
    TASK.evaluate(model, config, Split("validation", 1))
    with pytest.raises(DataError, match=r"5\.wav: silent"):
        TASK.evaluate(model, config, Split("test", 1))


# A source-filter network needs bands that hold single harmonics.
MELS = {"source_filter": MelConfig(sample_rate=8000, n_fft=512, hop=64, window=512, mels=40, fmax=4000.0)}


@pytest.mark.parametrize("name", GENERATORS)
def test_builds_trains_and_scores_every_generator(espeak, tmp_path, name):
    config = Config(root=espeak, generator=name, **GENERATORS[name], **SMALL)
    config = dataclasses.replace(config, mel=MELS.get(name, config.mel))
    model = TASK.build(config)
    assert Structure.read(model, TASK.where)
    TASK.fit(model, config, Run(seed=0, fold=1, folder=tmp_path, device="cpu"))
    scores = TASK.evaluate(model, config, Split("test", 1))
    assert 0 < scores["mel_l1"] < 5
    assert TASK.evaluate(model, config, Split("test", 1)) == scores


def test_pictures(espeak, tmp_path):
    config = Config(root=espeak, generator="vocos", **GENERATORS["vocos"], **SMALL)
    model = TASK.build(config)
    assert TASK.illustrate is not None
    (path,) = TASK.illustrate(model, config, Split("test", 1), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (other,) = TASK.illustrate(model, config, Split("validation", 1), tmp_path)
    assert other != path
    with pytest.raises(TypeError, match="Conv1d is no generator"):
        TASK.illustrate(torch.nn.Conv1d(1, 1, 1), config, Split("test", 1), tmp_path)


def test_trains_on_real_recordings(shared, tmp_path):
    root = shared / "data" / "speech" / "ljspeech_mini"
    if not root.is_dir():
        pytest.skip(f"no {root.name} in shared/")
    settings = SMALL | {"clips": None, "epochs": 2, "segments_per_clip": 4, "batch": 8}
    config = Config(dataset="folder", root=root, generator="vocos", dim=64, layers=3, lr=5e-3, **settings)
    assert TASK.unavailable(config) is None
    torch.manual_seed(0)
    model = TASK.build(config)
    before = TASK.evaluate(model, config, Split("validation", 1))["mel_l1"]
    TASK.fit(model, config, Run(seed=0, fold=1, folder=tmp_path, device="cpu"))
    assert TASK.evaluate(model, config, Split("validation", 1))["mel_l1"] < 0.8 * before
