"""Mels in files: read as they were written, and what a file claims is not believed."""

import numpy as np
import pytest
import torch

from tasks.spec import DataError
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.mels.saved_mel import read_mel, write_mel

MEL = MelConfig()


@pytest.fixture
def mel():
    torch.manual_seed(0)
    return LogMel(MEL)(0.1 * torch.randn(1, 256 * 50))[0]


def test_comes_back(tmp_path, mel):
    write_mel(tmp_path / "a.npy", mel, MEL)
    assert torch.equal(read_mel(tmp_path / "a.npy", MEL), mel)
    (tmp_path / "a.json").unlink()
    for kind, accuracy in ((np.float16, 5e-3), (np.float64, 0), (">f4", 0)):
        np.save(tmp_path / "a.npy", mel.numpy().astype(kind))
        torch.testing.assert_close(read_mel(tmp_path / "a.npy", MEL), mel, rtol=0, atol=accuracy)


def test_values_just_below_the_floor_are_raised(tmp_path):
    predicted = np.full((80, 5), -11.9, np.float32)
    np.save(tmp_path / "a.npy", predicted)
    assert read_mel(tmp_path / "a.npy", MEL).unique().tolist() == pytest.approx([np.log(1e-5)])
    decades = MelConfig(floor=1e-10, convention="parallel_wavegan")
    write_mel(tmp_path / "a.npy", torch.tensor([[-12.0, -1.0]]).expand(80, 2), decades)
    assert read_mel(tmp_path / "a.npy", decades).unique().tolist() == [-10, -1], "logarithms to the base 10"


def test_its_own_configuration_settles_what_it_is(tmp_path, mel):
    write_mel(tmp_path / "a.npy", mel + 8, MEL)  # louder than any recording
    assert read_mel(tmp_path / "a.npy", MEL) is not None
    (tmp_path / "a.json").unlink()
    with pytest.raises(DataError, match=r"a\.npy: is no natural logarithm"):
        read_mel(tmp_path / "a.npy", MEL)


def test_all_problems_can_be_collected(tmp_path):
    found = []
    assert read_mel(tmp_path / "no.npy", MEL, lambda *problem: found.append(problem)) is None
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    assert read_mel(tmp_path / "a.npy", MEL, lambda *problem: found.append(problem)) is None
    (tmp_path / "a.json").write_text("[" * 100000)
    np.save(tmp_path / "a.npy", np.zeros((80, 2), np.float32))
    assert read_mel(tmp_path / "a.npy", MEL, lambda *problem: found.append(problem)) is None
    assert [(path.name, what.partition(" (")[0]) for path, _, what, _ in found] == [
        ("no.npy", "no such file"),
        ("a.npy", "not a readable .npy file"),
        ("a.json", "not a mel configuration"),
    ]


def test_a_claim_of_gigabytes_is_refused_unread(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (80, 10**8)})
        file.truncate(file.tell() + 4 * 80 * 10**8)
    with pytest.raises(DataError, match=r"a\.npy: .*it claims float32 of shape \(80, 100000000\), more than 268435456"):
        read_mel(tmp_path / "a.npy", MEL)
