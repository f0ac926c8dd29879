"""The embedded speech: the same bytes every time, and Debian's prompts decoded."""

import hashlib

import numpy as np
import pytest
import soundfile

from tasks.spec import DataError
from tasks.tts_vocoder.recordings import embedded, espeak
from tasks.tts_vocoder.recordings.espeak import SENTENCES


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_sentences():
    assert len(set(espeak.SENTENCES)) == len(espeak.SENTENCES) == 84
    assert list(espeak.SENTENCES) == sorted(espeak.SENTENCES)


class TestEspeak:
    def test_is_speech(self, espeak):
        lines = (espeak / "metadata.csv").read_text().splitlines()
        assert len(lines) == len(SENTENCES)
        assert lines[0].split("|")[:2] == ["espeak-001", "A narrow bridge leads over the river to the old mill."]
        for line in lines:
            wave, rate = soundfile.read(espeak / "wavs" / f"{line.split('|')[0]}.wav")
            assert rate == 22050
            assert 1.5 < len(wave) / rate < 6
            assert 0.1 < np.abs(wave).max() <= 1
        assert "SYNTHETIC" in (espeak / "README.txt").read_text()

    def test_is_the_same_every_time(self, espeak, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
        again = embedded.prepare("espeak")
        assert again != espeak
        assert digest(again) == digest(espeak)
        assert [path.name for path in tmp_path.iterdir()] == [again.name]  # nothing half-made is left
        (again / "README.txt").write_text("kept")
        assert (embedded.prepare("espeak") / "README.txt").read_text() == "kept"

    def test_failure_is_reported_and_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
        monkeypatch.setattr(embedded, "ROOT", tmp_path)  # where there is no tasks.tts_vocoder to start
        monkeypatch.delenv("PYTHONPATH", raising=False)
        with pytest.raises(DataError, match="eSpeak NG failed: .*reinstall espeakng-loader"):
            embedded.prepare("espeak")
        assert list(tmp_path.iterdir()) == []


class TestAsterisk:
    @pytest.fixture
    def sounds(self, tmp_path, monkeypatch, espeak):
        """Prompts as Debian's package has them: G.722 at 64 kbit/s, some in folders."""
        from G722 import G722

        folder = tmp_path / "sounds"
        wave, _ = soundfile.read(espeak / "wavs" / "espeak-002.wav", dtype="int16")  # whatever it is, as 16 kHz
        for name, samples in {
            "hello": wave,
            "phonetic/long": wave,
            "digits/1": wave[:8000],
            "beep": wave,
            "silence/3": 0 * wave,
        }.items():
            path = folder / f"{name}.g722"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(G722(16000, 64000).encode(samples)))
        monkeypatch.setenv("RFNEXT_ASTERISK", str(folder))
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
        return folder, wave

    def test_decodes(self, sounds):
        _, wave = sounds
        assert embedded.best_source() == "asterisk"
        folder = embedded.prepare("asterisk")
        assert sorted(path.name for path in (folder / "wavs").iterdir()) == ["hello.wav", "phonetic-long.wav"]
        decoded, rate = soundfile.read(folder / "wavs" / "hello.wav", dtype="int16")
        assert rate == 16000
        delay = 22  # samples, of the codec's filters
        length = len(wave) // 2 * 2 - delay
        error = decoded[delay : delay + length].astype(float) - wave[:length]
        assert 10 * np.log10(np.square(wave[:length].astype(float)).mean() / np.square(error).mean()) > 10  # dB

    def test_without_usable_prompts(self, sounds):
        folder, _ = sounds
        for name in ("hello.g722", "phonetic/long.g722"):
            (folder / name).unlink()
        with pytest.raises(DataError, match="no usable .*g722 in .*sounds; apt-get install --reinstall"):
            embedded.prepare("asterisk")

    def test_missing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_ASTERISK", str(tmp_path / "no"))
        assert "apt-get install asterisk-core-sounds-en-g722" in embedded.unavailable("asterisk")
        assert embedded.best_source() == "espeak"
        with pytest.raises(DataError, match="no folder"):
            embedded.prepare("asterisk")


def test_cache_that_cannot_be_written(tmp_path, monkeypatch, espeak):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("RFNEXT_CACHE", str(blocked))
    with pytest.raises(OSError, match="file"):
        embedded.prepare("espeak")
