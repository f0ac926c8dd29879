"""The command lines that people use: copy synthesis, saved mels, export, scoring, speed."""

# pyright: reportArgumentType=false, reportCallIssue=false
import json

import numpy as np
import pytest
import soundfile
import torch

from rfnext import LocalConfig, LocalSearch, Structure
from tasks import checkpoint
from tasks.tts_vocoder import models, score, speed, synthesize
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.export import load_onnx, run_onnx
from tasks.tts_vocoder.generators import searched
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.mels.saved_mel import write_mel

MEL = MelConfig(sample_rate=16000, n_fft=512, hop=128, window=512, mels=40)
CONFIG = Config(mel=MEL, generator="vocos", dim=16, layers=2)


@pytest.fixture
def generator(tmp_path):
    """Path of a checkpoint with branches, and its network."""
    torch.manual_seed(0)
    network = models.build(CONFIG)
    LocalSearch(network, LocalConfig(branches=3), searched)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05)
    checkpoint.save(tmp_path / "generator.pt", "tts_vocoder", CONFIG, network)
    return tmp_path / "generator.pt", network.eval()


@pytest.fixture
def recording(espeak):
    return espeak / "wavs" / "espeak-001.wav"


class TestSynthesize:
    def test_copy_synthesis(self, generator, recording, tmp_path):
        path, network = generator
        out = tmp_path / "made" / "out.wav"
        synthesize.main([str(recording), str(out), "--checkpoint", str(path)])
        wave, rate = soundfile.read(out, dtype="float32")
        assert rate == 16000
        assert abs(len(wave) / rate - soundfile.info(recording).duration) < 128 / 16000
        mel = synthesize.mel_of_recording(recording, MEL)
        with torch.no_grad():
            expected = network(mel)[0, 0].clamp(-1, 1).numpy()
        np.testing.assert_allclose(wave, expected, atol=1e-4)

    def test_from_a_saved_mel(self, generator, recording, tmp_path):
        path, _ = generator
        out, again, mel = (tmp_path / name for name in ("out.wav", "again.wav", "mel.npy"))
        synthesize.main([str(recording), str(out), "--checkpoint", str(path), "--save-mel", str(mel)])
        assert json.loads((tmp_path / "mel.json").read_text()) == MEL.to_dict()
        assert np.load(mel).shape[0] == 40
        synthesize.main([str(mel), str(again), "--checkpoint", str(path)])
        assert again.read_bytes() == out.read_bytes()
        (tmp_path / "mel.json").unlink()
        synthesize.main([str(mel), str(again), "--checkpoint", str(path)])
        assert again.read_bytes() == out.read_bytes()

    @pytest.mark.slow
    def test_onnx(self, generator, recording, tmp_path):
        path, network = generator
        synthesize.main(["--checkpoint", str(path), "--onnx", str(tmp_path / "g.onnx")])
        session, config = load_onnx(tmp_path / "g.onnx")
        assert config == MEL
        mel = synthesize.mel_of_recording(recording, MEL)
        with torch.no_grad():
            np.testing.assert_allclose(run_onnx(session, mel.numpy()), network(mel).numpy(), atol=1e-4)

    def fails(self, capsys, *arguments):
        with pytest.raises(SystemExit) as caught:
            synthesize.main([str(argument) for argument in arguments])
        return str(caught.value) + capsys.readouterr().err

    def test_mismatch_names_both(self, generator, tmp_path, capsys):
        path, _ = generator
        np.save(tmp_path / "mel.npy", np.zeros((80, 10), np.float32))
        text = self.fails(capsys, tmp_path / "mel.npy", tmp_path / "o.wav", "--checkpoint", path)
        assert "mel.npy: holds 80 bands of 10 frames; the generator takes 40 bands, MelConfig(sample_rate=16000" in text
        other = MelConfig(sample_rate=22050)
        write_mel(tmp_path / "mel.npy", torch.zeros(40, 10), other)
        text = self.fails(capsys, tmp_path / "mel.npy", tmp_path / "o.wav", "--checkpoint", path)
        assert "differs from that of" in text
        assert "sample_rate 16000 against 22050" in text
        assert not (tmp_path / "o.wav").exists()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.zeros((40, 0), np.float32), "of shape (40, 0)"),
            (np.zeros((1, 40, 5), np.float32), "of shape (1, 40, 5)"),
            (np.zeros((40, 5), np.int64), "holds int64"),
            (np.full((40, 5), np.nan), "not finite"),
            (np.array({"a": 1}), "not a readable .npy file"),
        ],
    )
    def test_bad_mels(self, generator, tmp_path, capsys, values, message):
        np.save(tmp_path / "mel.npy", values, allow_pickle=True)
        text = self.fails(capsys, tmp_path / "mel.npy", tmp_path / "o.wav", "--checkpoint", generator[0])
        assert "mel.npy: " in text
        assert message in text

    def test_bad_files(self, generator, recording, tmp_path, capsys):
        path, out = generator[0], tmp_path / "o.wav"
        assert "no such file" in self.fails(capsys, tmp_path / "no.npy", out, "--checkpoint", path)
        assert "no such file" in self.fails(capsys, tmp_path / "no.wav", out, "--checkpoint", path)
        (tmp_path / "text.wav").write_text("no sound")
        assert "not readable as audio" in self.fails(capsys, tmp_path / "text.wav", out, "--checkpoint", path)
        assert "no.pt" in self.fails(capsys, recording, out, "--checkpoint", tmp_path / "no.pt")
        assert "give SOURCE and OUTPUT.wav" in self.fails(capsys, recording, "--checkpoint", path)
        soundfile.write(tmp_path / "short.wav", 0.1 * np.sin(np.arange(100)), 16000)
        assert "less than one window" in self.fails(capsys, tmp_path / "short.wav", out, "--checkpoint", path)
        (tmp_path / "mel.json").write_text("{}")
        np.save(tmp_path / "mel.npy", np.zeros((40, 5)))
        assert "mel.json: not a mel" in self.fails(capsys, tmp_path / "mel.npy", out, "--checkpoint", path)

    def test_the_mel_is_that_of_training(self, recording):
        wave, _ = soundfile.read(recording, dtype="float32")
        mel = MelConfig()
        assert torch.equal(synthesize.mel_of_recording(recording, mel), LogMel(mel)(torch.from_numpy(wave)[None]))


class TestScore:
    @pytest.fixture
    def folders(self, espeak, tmp_path):
        for kind in ("truth", "output"):
            (tmp_path / kind).mkdir()
        for number in (1, 2):
            wave, rate = soundfile.read(espeak / "wavs" / f"espeak-00{number}.wav")
            soundfile.write(tmp_path / "truth" / f"{number}.wav", wave, rate)
            soundfile.write(tmp_path / "output" / f"{number}.wav", wave[:-100], rate)
        return tmp_path / "truth", tmp_path / "output"

    def test_equal(self, folders, capsys):
        score.main([str(folder) for folder in folders])
        scores = json.loads(capsys.readouterr().out)
        assert (scores["mel_l1"], scores["vuv_f1"]) == (0, 100)
        assert "pesq" in scores

    def test_rates_of_telephones(self, tmp_path, capsys):
        """At 8 kHz there is nothing above 4 kHz, where the bands end then."""
        (tmp_path / "a").mkdir()
        tone = 0.5 * np.sin(2 * np.pi * 200 / 8000 * np.arange(8000))
        soundfile.write(tmp_path / "a/1.wav", tone, 8000)
        score.main([str(tmp_path / "a"), str(tmp_path / "a"), "--sample-rate", "8000"])
        assert json.loads(capsys.readouterr().out)["mel_l1"] == 0

    def test_subset_and_errors(self, folders):
        truth, output = folders
        (output / "2.wav").unlink()
        assert score.score_folders(truth, output, MelConfig())["mel_l1"] == 0
        soundfile.write(output / "1.wav", 0.1 * np.sin(np.arange(8000)), 22050)
        with pytest.raises(SystemExit, match=r"1\.wav: 0\.36 s long, its truth .* s; synthesise it again"):
            score.main([str(truth), str(output)])
        (output / "1.wav").rename(output / "3.wav")
        with pytest.raises(SystemExit, match=r"3\.wav: there is no 3 in .*truth"):
            score.main([str(truth), str(output)])

    def test_pesq_where_it_is_installed(self, folders):
        pytest.importorskip("pesq")
        assert score.score_folders(*folders, MelConfig())["pesq"] > 4.6


class TestSpeed:
    def test_forms_compute_what_they_stand_for(self):
        torch.manual_seed(0)
        network = models.build(CONFIG).eval()
        structure = Structure(dict.fromkeys(Structure.read(network, searched), (3,)))
        forms = speed.forms(network, structure)
        mel = torch.randn(1, 40, 12)
        with torch.no_grad():
            assert torch.equal(forms["hand-designed"](mel), network(mel))
            torch.testing.assert_close(forms["3 branches"](mel), forms["3 branches merged"](mel), atol=1e-5, rtol=1e-4)
            assert not torch.allclose(forms["single branch"](mel), network(mel))
        assert set(Structure.read(forms["single branch"], searched).values()) == {(3,)}
        factors = speed.real_time_factors(forms, seconds=0.1, turns=1)
        assert list(factors) == list(forms)
        assert all(factor > 0 for factor in factors.values())

    def test_training_steps(self):
        times = speed.training_steps(models.build(CONFIG), batch=1, segment=2048, turns=1)
        assert times.keys() == {"plain", "search"}

    def test_command(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setattr(speed, "build", lambda name, mel: models.build(CONFIG))
        threads = torch.get_num_threads()
        speed.main(["vocos", "--seconds", "0.1", "--turns", "1"])
        torch.set_num_threads(threads)
        out = capsys.readouterr().out
        assert "| hand-designed |" in out
        assert "Training step: plain" in out
        with pytest.raises(SystemExit, match=r"error: .*no\.json"):
            speed.main(["vocos", "--structure", str(tmp_path / "no.json")])
