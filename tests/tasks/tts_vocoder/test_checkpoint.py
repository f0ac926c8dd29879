"""Generators in files: every form comes back as the same function, and broken files are named."""

import io

import pytest
import torch

from rfnext import LocalConfig, LocalSearch, Structure, keep_branches, merge
from tasks.tts_vocoder import checkpoint
from tasks.tts_vocoder.generators import build, searched
from tasks.tts_vocoder.mel import MelConfig

MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0)
SIZES = {
    "hifi_gan_v3": {"channels": 16, "upsampling": (8, 8)},
    "parallel_wavegan": {"layers": 4, "stacks": 2, "upsampling": (8, 8)},
    "vocos": {"dim": 16, "layers": 2},
}
FORMS = ("designed", "single", "multi", "searching", "merged")


def network(name, form="designed"):
    torch.manual_seed(0)
    model = build(name, MEL, **SIZES[name])
    config = LocalConfig(interval=1, rounds=1, branches=3, spread=0.5)
    structure = Structure({key: tuple(d + 1 for d in value) for key, value in Structure.read(model, searched).items()})
    if form == "single":
        structure.apply(model)
    elif form in ("multi", "merged"):
        keep_branches(model, structure, config)
    elif form == "searching":
        LocalSearch(model, config, searched).after_step()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    if form == "merged":
        merge(model)
    return model.eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.filterwarnings("ignore:no branch weight has changed")
def test_comes_back_as_the_same_function(name, form, tmp_path):
    model = network(name, form)
    checkpoint.save(tmp_path / "generator.pt", model, name, SIZES[name])
    again = checkpoint.load(tmp_path / "generator.pt")
    assert not again.training
    assert again.mel_config == MEL
    assert Structure.read(again, searched) == Structure.read(model, searched)
    mel = torch.randn(2, 20, 9)
    with torch.no_grad():
        assert torch.equal(again(mel), model(mel))


class TestBadFiles:
    @pytest.fixture
    def path(self, tmp_path):
        checkpoint.save(tmp_path / "generator.pt", network("vocos"), "vocos", SIZES["vocos"])
        return tmp_path / "generator.pt"

    def rewrite(self, path, **changes):
        content = torch.load(path, weights_only=True) | changes
        buffer = io.BytesIO()
        torch.save(content, buffer)
        path.write_bytes(buffer.getvalue())

    @pytest.mark.parametrize("data", [b"", b"no checkpoint", b"PK\x03\x04"])
    def test_unreadable(self, path, data):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"generator\.pt is not a readable checkpoint.*results/work"):
            checkpoint.load(path)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            checkpoint.load(tmp_path / "no.pt")

    def test_code_is_not_run(self, path):
        torch.save({"format": checkpoint.FORMAT, "state_dict": network("vocos").head}, path)  # a pickled object
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            checkpoint.load(path)

    def test_another_file(self, path):
        torch.save({"weight": torch.ones(1)}, path)
        with pytest.raises(ValueError, match="not a checkpoint of format 'rfnext vocoder 1'"):
            checkpoint.load(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"generator": "vocal"}, "unknown generator 'vocal'"),
            ({"sizes": {"dim": 8, "layers": 2}}, "size mismatch"),
            ({"sizes": {"width": 8}}, "width"),
            ({"mel": {"sample_rate": 8000}}, "mel configuration has the entries"),
            ({"mel": MEL.to_dict() | {"fmax": 3000.0}}, "fmax 4000.0 against 3000.0"),
            ({"state_dict": {}}, "Missing key"),
            ({"convs": {"head": {}}}, "head"),
        ],
    )
    def test_contradictions(self, path, changes, message):
        self.rewrite(path, **changes)
        with pytest.raises(ValueError, match=rf"(?s)generator\.pt contradicts itself.*{message}.*results/work"):
            checkpoint.load(path)
