"""Reading recordings: every kind of bad input, and every treatment."""

import os
import struct

import numpy as np
import pytest
import soundfile

from tasks.spec import DataError, fail
from tasks.tts_vocoder.recordings.clips import PEAK, Shape, clipped_samples, list_clips, read_clip, speech

RATE = 16000
SHAPE = Shape(RATE, 8000.0, loudness="as_is")


def tone(seconds=1.0, rate=RATE, hertz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, wave, rate=RATE, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **settings)
    return path


def read(path, shape=SHAPE):
    clip = read_clip(path.stem, path, shape, fail)
    assert clip is not None  # `fail` raises
    return clip


class TestBadClips:
    def refused(self, path, match, shape=SHAPE):
        with pytest.raises(DataError, match=match) as caught:
            read(path, shape)
        assert str(path) in str(caught.value)
        assert "; " in str(caught.value), "the message does not say how to fix it"

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "no.wav", "no such file")

    def test_empty_file(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(b"")
        self.refused(tmp_path / "a.wav", r"not readable as audio \(it is empty\)")

    def test_not_audio(self, tmp_path):
        (tmp_path / "a.wav").write_text("A report on speech.")
        self.refused(tmp_path / "a.wav", "not readable as audio.*save it as WAV or FLAC")

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.wav")
        self.refused(tmp_path / "a.wav", "it is a pipe or a device")

    def test_zero_length(self, tmp_path):
        self.refused(write(tmp_path / "a.wav", np.zeros(0)), "a length of 0")

    @pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF"])
    def test_truncated(self, tmp_path, kind):
        noise = np.random.default_rng(0).normal(0, 0.1, RATE)
        path = write(tmp_path / "a.wav", noise, format=kind)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refused(path, "truncated")

    @pytest.mark.parametrize("rest", [np.zeros(9000, "<i2"), np.arange(9000, dtype="<i2") * 7 + 5])
    def test_a_header_that_counts_only_some_of_the_samples(self, tmp_path, rest):
        """As a recorder leaves it that writes the length now and then, and loses its power."""
        path = write(tmp_path / "a.wav", tone())
        assert len(read(path).wave) == RATE
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))  # ID3
        assert len(read(path).wave) == RATE
        path = write(tmp_path / "b.wav", tone())
        path.write_bytes(path.read_bytes() + rest.tobytes())
        self.refused(path, "bytes follow that its header does not count")

    @pytest.mark.parametrize("offset", [0.3, -0.9])
    def test_a_constant_offset_is_no_sound(self, tmp_path, offset):
        path = write(tmp_path / "a.wav", np.full(RATE, offset), subtype="FLOAT")
        self.refused(path, f"silent: its samples stay within .* of full scale around {offset}")
        assert len(read(write(tmp_path / "b.wav", tone(level=0.01) + offset)).wave) == RATE

    @pytest.mark.parametrize("level", [0.0, 9e-4])
    def test_silent(self, tmp_path, level):
        self.refused(write(tmp_path / "a.wav", tone(level=level)), "silent")

    def test_channels_that_cancel(self, tmp_path):
        wave = tone()
        self.refused(write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1)), "cancel each other")

    def test_not_finite(self, tmp_path):
        wave = tone()
        wave[3:5] = np.nan
        self.refused(write(tmp_path / "a.wav", wave, subtype="FLOAT"), "2 samples are not finite")

    def test_integers_saved_as_floats(self, tmp_path):
        path = write(tmp_path / "a.wav", 32768 * tone(), subtype="FLOAT")
        self.refused(path, r"its samples reach 1.638e\+04 times full scale; divide by 32768")
        assert read(write(tmp_path / "a.wav", 4 * tone(), subtype="FLOAT")).wave.max() > 1.9

    @pytest.mark.parametrize(
        ("at", "value", "message"),
        [
            (24, 2147483647, "says 2147483647 Hz; sample rates are 1000 to 768000 Hz"),
            (24, 1, "says 1 Hz"),
            (24, 22050, "contradicts itself: 22050 Hz, 1 channels and 16 bits, but 32000 bytes per second"),
            (22, 2 | RATE << 16, "contradicts itself: 16000 Hz, 2 channels"),
            (22, 1000 | RATE << 16, "1000 channels, more than 64"),
            (40, 2**32 - 1, "does not know its length"),
            (40, 10**6, "truncated: 32000 of 1000000 bytes"),
            (40, 0, "a length of 0"),
        ],
    )
    def test_headers_that_cannot_be(self, tmp_path, at, value, message):
        path = write(tmp_path / "a.wav", tone())
        data = bytearray(path.read_bytes())
        data[at : at + 4] = struct.pack("<I", value)
        path.write_bytes(data)
        self.refused(path, message)

    def test_a_length_that_does_not_fit_in_memory(self, tmp_path):
        path = write(tmp_path / "a.flac", tone())
        data = bytearray(path.read_bytes())
        data[21] |= 0x0F  # the upper bits of the number of samples
        path.write_bytes(data)
        self.refused(path, r"claims 64424[0-9]+ samples of 1 channels, 1.12e\+03 hours; .*4 hours are the most")

    @pytest.mark.parametrize(
        ("rate", "samples", "hours"),
        [(48_000, 600_000_000, "3.47"), (16_000, 288_000_000, "5")],
        ids=["number", "hours"],
    )
    def test_each_limit_of_the_length_alone(self, tmp_path, rate, samples, hours):
        path = write(tmp_path / "a.flac", tone(), rate)
        data = bytearray(path.read_bytes())
        data[22:26] = struct.pack(">I", samples)
        path.write_bytes(data)
        self.refused(path, f"claims {samples} samples of 1 channels, {hours} hours; ")

    def test_sound_in_any_encoding(self, tmp_path):
        for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"):
            clip = read(write(tmp_path / "a.wav", np.stack([tone(), tone()], axis=1), subtype=subtype))
            np.testing.assert_allclose(clip.wave[50:RATE], tone()[50:], atol=0.03)  # IMA takes a few samples

    def test_too_low_a_rate(self, tmp_path):
        path = write(tmp_path / "a.wav", tone(rate=8000), 8000)
        self.refused(path, r"8000 Hz holds nothing above 4000 Hz.*up to 8000 Hz; record at 16000 Hz or more")
        assert len(read(path, Shape(8000, 4000.0)).wave) == 8000


class TestTreatments:
    def test_none_for_what_is_right(self, tmp_path):
        wave = tone()
        clip = read(write(tmp_path / "a.wav", wave))
        assert clip.treatments == {}
        np.testing.assert_allclose(clip.wave, wave, atol=1e-4)
        assert clip.wave.dtype == np.float32

    def test_channels_are_averaged(self, tmp_path):
        one, other = tone(hertz=300), tone(hertz=500)
        clip = read(write(tmp_path / "a.wav", np.stack([one, other], axis=1)))
        assert clip.treatments == {"channels": "2 channels averaged"}
        np.testing.assert_allclose(clip.wave, (one + other) / 2, atol=1e-4)

    @pytest.mark.parametrize("rate", [22050, 44100, 48000])
    def test_resampled(self, tmp_path, rate):
        clip = read(write(tmp_path / "a.wav", tone(rate=rate), rate))
        assert clip.treatments == {"rate": f"resampled from {rate} to {RATE} Hz"}
        assert len(clip.wave) == RATE
        middle = slice(1000, -1000)  # the filter rings at both ends
        np.testing.assert_allclose(clip.wave[middle], tone()[middle], atol=2e-3)

    def test_peak(self, tmp_path):
        clip = read(write(tmp_path / "a.wav", tone(level=0.1)), Shape(RATE, 8000.0, loudness="peak"))
        assert np.abs(clip.wave).max() == pytest.approx(PEAK)
        assert clip.treatments == {"loudness": "scaled by +19.6 dB to a peak of 0.95"}

    def test_trimmed(self, tmp_path):
        silence = np.full(RATE // 2, 1e-4, np.float32)
        wave = np.concatenate([silence, tone(), silence, silence])
        clip = read(write(tmp_path / "a.wav", wave), Shape(RATE, 8000.0, trim=True, loudness="as_is"))
        assert clip.treatments == {"trimmed": "1.30 s of silence trimmed"}  # a margin of 0.1 s stays at either end
        np.testing.assert_allclose(clip.wave, wave[int(0.4 * RATE) : int(1.6 * RATE)], atol=1e-4)
        assert speech(tone(), RATE) == (0, RATE)

    @pytest.mark.parametrize("offset", [0.005, -0.2])
    def test_a_constant_offset_is_trimmed_like_silence(self, tmp_path, offset):
        silence = np.zeros(RATE, np.float32)
        wave = np.concatenate([silence, tone(), silence])
        clip = read(write(tmp_path / "a.wav", wave + offset), Shape(RATE, 8000.0, trim=True, loudness="as_is"))
        assert clip.treatments == {"trimmed": "1.80 s of silence trimmed"}

    def test_a_constant_offset_makes_no_click_at_the_ends_of_a_resampled_clip(self, tmp_path):
        silence = np.zeros(48000, np.float32)
        wave = np.concatenate([silence, tone(rate=48000, level=0.05), silence]) + 0.05
        clip = read(write(tmp_path / "a.wav", wave, 48000), Shape(RATE, 8000.0, trim=True, loudness="as_is"))
        assert 1.7 < float(clip.treatments["trimmed"].split()[0]) <= 1.8

    def test_clipping_is_said_and_kept(self, tmp_path):
        wave = np.clip(tone(level=1.4), -1, 1)
        path = write(tmp_path / "a.wav", wave)
        assert read(path).treatments["clipped"].startswith("clipped: ")
        assert clipped_samples(wave[:, None]) == np.count_nonzero(np.abs(wave) == 1)
        assert clipped_samples(tone(level=1.0)[:, None]) == 0
        assert clipped_samples(np.clip(tone(), -0.3, 0.3)[:, None]) == 0  # flat, but that is the sound


class TestFolder:
    def test_ljspeech_layout(self, tmp_path):
        for name in "bac":
            write(tmp_path / "wavs" / f"{name}.wav", tone())
        assert list(list_clips(tmp_path, fail)) == ["a", "b", "c"]
        (tmp_path / "metadata.csv").write_text("c|Hello.|Hello.\na|Bye|Bye\n")
        assert list(list_clips(tmp_path, fail)) == ["a", "c"]

    def test_torchaudio_lists_the_same(self, tmp_path, shared):
        datasets = pytest.importorskip("torchaudio.datasets")
        folder = shared / "data/speech/ljspeech_mini"
        (tmp_path / "LJSpeech-1.1").symlink_to(folder)
        theirs = datasets.LJSPEECH(tmp_path)
        clips = list_clips(folder, fail)
        assert len(theirs) == len(clips) == 24
        assert [entry[0] for entry in theirs._flist] == list(clips)  # its items need torchcodec

    def test_any_folder_of_audio(self, tmp_path):
        write(tmp_path / "one" / "x.flac", tone())
        write(tmp_path / "y.wav", tone())
        (tmp_path / "._y.wav").write_bytes(b"left by a file manager")
        (tmp_path / "notes.txt").write_text("no clip")
        assert list(list_clips(tmp_path, fail)) == ["one/x", "y"]

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ("a|x\nd|Hello\n", r"metadata.csv:2: there is no clip d in .*wavs; add the file"),
            ("a|x\na|y\n", r"metadata.csv:2: a is already named in line 1"),
            ("a|x\n|y\n", r"metadata.csv:2: '\|y' names no clip"),
            ("../a|x\n", r"metadata.csv:1: '\.\./a\|x' names no clip"),
            ("", r"metadata.csv:1: no clip is named"),
        ],
    )
    def test_bad_metadata(self, tmp_path, metadata, message):
        write(tmp_path / "wavs" / "a.wav", tone())
        (tmp_path / "metadata.csv").write_text(metadata)
        with pytest.raises(DataError, match=message):
            list_clips(tmp_path, fail)

    @pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0b", "\x0c", "\x1e"])
    def test_separators_within_a_sentence(self, tmp_path, separator):
        write(tmp_path / "wavs" / "a.wav", tone())
        write(tmp_path / "wavs" / "b.wav", tone())
        (tmp_path / "metadata.csv").write_text(f"a|one{separator}two\r\nb|three{separator}\r\n", newline="")
        assert list(list_clips(tmp_path, fail)) == ["a", "b"]

    def test_a_long_list(self, tmp_path):
        """A corpus of 300,000 sentences, in fewer lines."""
        names = [f"clip{number}" for number in range(20)]
        for name in names:
            write(tmp_path / "wavs" / f"{name}.wav", tone(0.1))
        (tmp_path / "metadata.csv").write_text("".join(f"{name}|{'a word ' * 150_000}\n" for name in names))
        assert list(list_clips(tmp_path, fail)) == sorted(names)

    def test_metadata_that_is_no_text(self, tmp_path):
        write(tmp_path / "wavs" / "a.wav", tone())
        (tmp_path / "metadata.csv").write_bytes(b"a|\xff\xfe\x00")
        with pytest.raises(DataError, match=r"metadata.csv: cannot be read as text"):
            list_clips(tmp_path, fail)

    def test_no_folder_and_no_clip(self, tmp_path):
        with pytest.raises(DataError, match="no such folder"):
            list_clips(tmp_path / "no", fail)
        with pytest.raises(DataError, match="there is no audio file in it"):
            list_clips(tmp_path, fail)

    def test_two_files_of_one_name(self, tmp_path):
        write(tmp_path / "a.flac", tone())
        write(tmp_path / "a.wav", tone())
        with pytest.raises(DataError, match=r"a\.wav: there is also a\.flac"):
            list_clips(tmp_path, fail)
