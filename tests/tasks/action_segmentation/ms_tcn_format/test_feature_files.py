"""Feature files of every kind of content; missing and cut-off ones are in test_layout.py."""

import os
import struct

import numpy as np
import pytest

from tasks.action_segmentation.ms_tcn_format.feature_files import read_features
from tasks.spec import DataError, fail

VALUES = np.random.default_rng(0).integers(-100, 100, (4, 9)).astype(np.float64)


def with_header(path, shape, descr="<f4", data=b""):
    """A file whose header says what is given, whatever its data are."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", ">f8", "i1", "<i2", ">i4", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_real_type_byte_order_and_memory_layout(tmp_path, kind, order):
    path = tmp_path / "a.npy"
    np.save(path, np.asarray(VALUES, dtype=kind, order=order))
    features = read_features(path, fail)
    assert (features.dtype, features.flags.c_contiguous) == (np.float32, True)
    assert features.tolist() == VALUES.tolist()
    assert read_features(path, fail, vectors=7, stride=3).tolist() == VALUES[:, [0, 3, 6]].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_values_that_are_not_finite(tmp_path, kind, value):
    features = VALUES.astype(kind)
    features[2, 6] = value
    np.save(tmp_path / "a.npy", features)
    with pytest.raises(DataError, match=rf"value 2 of feature vector 6 is {value} \(1 values are not finite\)"):
        read_features(tmp_path / "a.npy", fail, stride=2)


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        (
            lambda p: np.savez(p.with_suffix(".npz"), a=VALUES) or p.with_suffix(".npz").rename(p),
            "it is a zip archive, as numpy.savez and torch.save write it",
        ),
        (lambda p: np.savetxt(p, VALUES), "it is text"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "it is an HDF5 file"),
        (lambda p: p.write_bytes(b"\x00" * 4096), "it is of another format"),
        (lambda p: p.write_bytes(b""), "it is empty"),
        (lambda p: p.mkdir(), "Is a directory"),
        (lambda p: os.mkfifo(p), "it is a pipe or a device"),
        (lambda p: np.save(p, VALUES.astype(object), allow_pickle=True), "object of shape (4, 9): Python objects are"),
        (lambda p: np.save(p, np.float32(1)), "holds float32 of shape (), not (D, T) floats"),
        (lambda p: np.save(p, VALUES[0]), "holds float64 of shape (9,), not (D, T) floats"),
        (lambda p: np.save(p, VALUES[None]), "holds float64 of shape (1, 4, 9), not (D, T) floats"),
        (lambda p: np.save(p, VALUES[:, :0]), "holds float64 of shape (4, 0), not (D, T) floats"),
        (lambda p: np.save(p, VALUES.astype("U5")), "holds <U5 of shape (4, 9), not (D, T) floats"),
        (lambda p: np.save(p, VALUES.astype([("x", "f4")])), "holds [('x', '<f4')] of shape (4, 9), not (D, T)"),
        (lambda p: with_header(p, (-4, -9), data=bytes(144)), "its shape is float32 of shape (-4, -9)"),
        (lambda p: with_header(p, (4, 9), data=bytes(100)), "claims 272 bytes, the file has 228"),
        (lambda p: with_header(p, (4, 9), "<f8", bytes(144)), "claims 416 bytes, the file has 272"),
        (lambda p: with_header(p, (4, 9), "<f2", bytes(144)), "claims 200 bytes, the file has 272"),
        (
            lambda p: with_header(p, (2**40, 2**40), data=bytes(144)),
            "claims float32 of shape (1099511627776, 1099511627776), more than",
        ),
        (lambda p: with_header(p, (4, 9), "<f4\\", bytes(144)), "not a readable .npy file"),
    ],
)
def test_what_is_no_features_is_refused_in_one_line(tmp_path, save, expected):
    path = tmp_path / "a.npy"
    save(path)
    with pytest.raises(DataError) as caught:
        read_features(path, fail)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert "\n" not in message


def test_a_long_file_that_was_never_written_is_refused_unread(tmp_path):
    path = tmp_path / "a.npy"
    with_header(path, (2048, 200_000))
    os.truncate(path, path.stat().st_size + 4 * 2048 * 200_000)
    with pytest.raises(
        DataError, match=r"shape \(2048, 200000\), 1638400128 bytes, of which \d{3,5} were ever written"
    ):
        read_features(path, fail)


def test_more_than_any_video_has_is_refused_unread(tmp_path):
    path = tmp_path / "a.npy"
    with_header(path, (2048, 400_000))
    os.truncate(path, path.stat().st_size + 4 * 2048 * 400_000)
    with pytest.raises(DataError, match=r"claims float32 of shape \(2048, 400000\), more than 536870912 values"):
        read_features(path, fail)
