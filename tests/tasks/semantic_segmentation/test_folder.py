"""Own data: what is read is what was written, and each fault is one error that names the file."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tasks.image_files import ORIENTATION
from tasks.semantic_segmentation.check import main
from tasks.semantic_segmentation.data import open_own
from tasks.semantic_segmentation.folder import read_folder, read_image, read_labels
from tasks.spec import DataError, fail
from tests.tasks.coco_detection.bombs import bomb

Make = Callable[..., Path]


def opened(root: Path):
    folder = read_folder(root, fail)
    assert folder is not None
    return open_own(root, folder, 0.2, 0.25)


def test_reads_what_was_written(own_data: Make, capsys: pytest.CaptureFixture[str]):
    root = own_data()
    (root / "images" / "._0.png").write_bytes(b"what macOS writes beside a file")
    dataset = opened(root)
    assert dataset.classes == ("ground", "square")
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [5, 1, 2]
    parts = [{files.image.name for files in part.files} for part in (dataset.train, dataset.validation, dataset.test)]  # type: ignore[attr-defined]
    assert set.union(*parts) == {f"{number}.png" for number in range(8)}
    assert sum(map(len, parts)) == 8
    sample = dataset.train[0]
    name = dataset.train.files[0].image.name  # type: ignore[attr-defined]
    assert np.array_equal(sample.image, np.asarray(Image.open(root / "images" / name)))
    assert np.array_equal(sample.labels, np.asarray(Image.open(root / "labels" / name)))
    assert main([str(root)]) == 0
    # 8 of 32 x 36 pixels: a square of 16 x 16 each, and a border of 68 pixels that has no class.
    said = "ground 76.4 %, square 23.6 %; 5.9 % of all pixels have no class"
    assert said in capsys.readouterr().out


def test_a_list_of_test_images(own_data: Make):
    root = own_data()
    (root / "test.txt").write_text("3\n5\n\n")
    assert [files.image.stem for files in opened(root).test.files] == ["3", "5"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("3\n5\n", "1 of 2 files are in the training part, too, byte for byte: 3.png as 6.png; take them out"),
        ("3\n6\n", None),
        (None, "1 of 8 files are there twice, byte for byte: 6.png as 3.png; take out one of each"),
    ],
)
def test_images_that_were_learnt(
    own_data: Make, listed: str | None, said: str | None, capsys: pytest.CaptureFixture[str]
):
    root = own_data()
    for folder in ("images", "labels"):
        (root / folder / "6.png").write_bytes((root / folder / "3.png").read_bytes())
    if listed is not None:
        (root / "test.txt").write_text(listed)
    assert main([str(root)]) == (said is not None)
    assert (f"{root}/images: {said}" if said else "fine: ") in capsys.readouterr().out


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(read_image(tmp_path / "a.png", fail), np.asarray(ImageOps.exif_transpose(image)))  # type: ignore[arg-type]


def test_palettes_and_16_bits_hold_classes(tmp_path: Path):
    values = np.array([[0, 1], [255, 2]], np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette(range(256 * 3 // 3))
    palette.save(tmp_path / "p.png")
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "i.png")
    for name in ("p.png", "i.png"):
        assert np.array_equal(read_labels(tmp_path / name, "abc", fail), values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "JPEG2000", "TIFF", "WEBP", "BMP"])
def test_labels_are_pngs_whatever_their_name(own_data: Make, kind: str):
    """A JPEG's values are near what was written, a GIF's are numbered anew: each could pass for classes."""
    root = own_data()
    path = root / "labels" / "2.png"
    Image.open(path).save(path, kind)
    with pytest.raises(
        DataError, match=f"2.png: is a {kind} file, which need not hold the values .*; write it as a PNG"
    ):
        read_labels(path, ["ground", "square"], fail)
    with pytest.raises(DataError, match=f"2.png: is a {kind} file"):
        read_folder(root, fail)


@pytest.mark.parametrize(("depth", "row", "values"), [(1, b"\x40", [0, 1, 0, 0]), (2, b"\x1b", [0, 1, 2, 3])])
@pytest.mark.parametrize("palette", [b"", bytes(48)])
def test_few_bits_hold_classes(tmp_path: Path, depth: int, row: bytes, values: list[int], palette: bytes):
    # Pillow reads greyscale of 2 bits as 0, 85, 170, 255.
    (tmp_path / "a.png").write_bytes(png(4, depth, row, palette))
    assert np.array_equal(read_labels(tmp_path / "a.png", "abcd", fail), [values])  # type: ignore[arg-type]


def png(width: int, depth: int, row: bytes, palette: bytes) -> bytes:
    """A picture of one row, greyscale or of a palette, written from the format's description."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, 1, depth, 3 if palette else 0, 0, 0, 0)
    colours = chunk(b"PLTE", palette) if palette else b""
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + colours + data + chunk(b"IEND", b"")


def test_photographs_of_more_than_8_bits_are_refused(own_data: Make):
    root = own_data()
    Image.fromarray(np.full((32, 36), 4000, np.uint16)).save(root / "images" / "2.png")
    with pytest.raises(DataError, match="2.png: has values of more than 8 bits"):
        read_folder(root, fail)
    with pytest.raises(DataError, match="2.png: has values of more than 8 bits"):
        read_image(root / "images" / "2.png", fail)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


FAULTS = [
    ("classes.txt", lambda p: p.unlink(), "classes.txt: no such file; name the classes"),
    ("classes.txt", lambda p: p.write_text("a\nb\na\n"), "classes.txt:3: a stands in line 1, too"),
    ("classes.txt", lambda p: p.write_text("a\n\nb\n"), "classes.txt:2: is empty"),
    ("classes.txt", lambda p: p.write_bytes(b"\xff\xfe\xfd"), "classes.txt: cannot be read"),
    ("classes.txt", lambda p: p.write_text("\n".join(map(str, range(256)))), "256 classes; name at most 255"),
    ("classes.txt", lambda p: p.write_text("a\n"), "have values beyond the 1 classes, such as 1; write 0 to 0, or 255"),
    ("images/3.png", lambda p: p.write_bytes(b"no image"), "images/3.png: cannot be read"),
    ("images/3.png", cut, "images/3.png: cannot be read"),
    ("images/3.png", lambda p: p.write_bytes(bomb(30_000, 30_000)), "images/3.png: has [0-9,]+ pixels, at most"),
    ("labels/3.png", lambda p: p.write_bytes(bomb(30_000, 30_000)), "labels/3.png: has [0-9,]+ pixels, at most"),
    ("labels/3.png", lambda p: p.unlink(), "images/3.png: has no labels: there is no .*3.png; add them"),
    ("labels/3.png", lambda p: Image.new("L", (36, 31)).save(p), "labels/3.png: is 36 x 31, 3.png is 36 x 32"),
    (
        "labels/3.png",
        lambda p: Image.new("RGB", (36, 32)).save(p),
        "labels/3.png: has several channels .RGB.; save",
    ),
    ("labels/3.png", lambda p: Image.new("L", (36, 32), 7).save(p), "1152 pixels have values beyond .*, such as 7"),
    ("labels/3.png", cut, "labels/3.png: cannot be read"),
    ("images/3.jpg", lambda p: Image.new("L", (36, 32)).save(p), "images/3.png: has the name of 3.jpg"),
    ("test.txt", lambda p: p.write_text("1\n1\n"), "test.txt:2: 1 stands in line 1, too"),
    ("test.txt", lambda p: p.write_text("1\n3.png\n"), "test.txt:2: there is no image '3.png'; write names without"),
]


@pytest.mark.parametrize(("name", "spoil", "said"), FAULTS)
def test_each_fault_is_one_error(
    own_data: Make, name: str, spoil: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
):
    root = own_data(images=4)
    spoil(root / name)
    with pytest.raises(DataError, match=said):
        dataset = opened(root)
        for part in (dataset.train, dataset.validation, dataset.test):
            for index in range(len(part)):
                part[index]
    assert main([str(root)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == (4 if said.startswith("have values") else 1)


def test_too_few_images(own_data: Make):
    with pytest.raises(DataError, match="none of the 2 images is left for train; add images"):
        opened(own_data(images=2))
