"""The command line of the check; that each kind of bad clip is named is tested with the reader, in test_data.py."""

import numpy as np
import pytest
import soundfile

from tasks.tts_vocoder.check import main


@pytest.fixture
def root(tmp_path):
    (tmp_path / "wavs").mkdir()
    for name, level in zip("abc", (0.3, 0.4, 0.5), strict=True):
        soundfile.write(tmp_path / "wavs" / f"{name}.wav", level * np.sin(np.arange(22050)), 22050)
    (tmp_path / "metadata.csv").write_text("a|x\nb|y\nc|z\n")
    return tmp_path


def test_good_data_is_summed_up(root, capsys):
    soundfile.write(root / "wavs" / "b.wav", 0.1 * np.sin(np.arange(88200)).reshape(-1, 2), 44100)
    assert main([str(root)]) == 0
    expected = (
        "fine: 3 clips, 0.1 minutes, 2 at 22050 Hz, 1 at 44100 Hz (resampled to 22050 Hz), 1 with several channels"
    )
    assert capsys.readouterr().out == f"{expected} (averaged)\n"


def test_every_problem_is_printed_in_one_run(root, capsys):
    (root / "metadata.csv").write_text("a|x\nb|y\nc|z\nd|w\n")
    (root / "wavs" / "a.wav").write_bytes(b"RIFF")
    soundfile.write(root / "wavs" / "b.wav", np.zeros(1000), 22050)
    soundfile.write(root / "wavs" / "c.wav", np.clip(2 * np.sin(np.arange(22050) / 100), -1, 1), 22050)
    assert main([str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    expected = ["metadata.csv:4: there is no clip d", "a.wav: not readable", "b.wav: silent", "c.wav: clipped: "]
    assert len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert part in line
        assert "; " in line


def test_rate_and_band_can_be_given(root, capsys):
    assert main([str(root), "--sample-rate", "24000", "--fmax", "12000"]) == 1
    assert capsys.readouterr().out.count("holds nothing above 11025 Hz, but the mel needs up to 12000 Hz") == 3
    assert main([str(root), "--sample-rate", "24000"]) == 0
    assert "resampled to 24000 Hz" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--fmax=nan", "--fmax=inf", "--fmax=-1", "--fmax=12000", "--sample-rate=-1"])
def test_a_mel_that_cannot_be_is_no_check(root, option, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(root), option])
    assert end.value.code == 2
    assert option[2:6] in capsys.readouterr().err.replace("bands from 0.0 to", "fmax")


def test_a_recording_that_is_there_twice(root, capsys):
    """Each clip is in the test part of some fold."""
    (root / "wavs" / "c.wav").write_bytes((root / "wavs" / "a.wav").read_bytes())
    assert main([str(root)]) == 1
    said = "1 of 3 files are there twice, byte for byte: wavs/c.wav as wavs/a.wav; take out one of each"
    assert f"{root}: {said}" in capsys.readouterr().out


def test_no_folder(tmp_path, capsys):
    assert main([str(tmp_path / "no")]) == 1
    assert "no such folder" in capsys.readouterr().out


def test_real_recordings(shared, capsys):
    root = shared / "data" / "speech" / "ljspeech_mini"
    if not root.is_dir():
        pytest.skip(f"no {root.name} in shared/")
    assert main([str(root)]) == 0
    assert capsys.readouterr().out == "fine: 24 clips, 2.7 minutes, 24 at 22050 Hz\n"
