"""One reading of images: headers say what is decoded, and check, training and pictures see the same pixels."""

import dataclasses
import logging
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from tasks import image_files
from tasks.coco_detection import datasets
from tasks.coco_detection.check import main
from tasks.coco_detection.coco_format import images
from tasks.coco_detection.config import PRESETS
from tasks.coco_detection.mmdetection.loading import read_part
from tasks.coco_detection.task import TASK
from tasks.coco_detection.training import fit
from tasks.spec import DataError, Run
from tests.tasks.coco_detection.bombs import bomb

PIXELS = np.kron(np.random.default_rng(0).integers(0, 255, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "BMP"])
def test_headers_say_what_is_decoded(tmp_path, format_, orientation):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = orientation
    path = tmp_path / f"image.{format_.lower()}"
    Image.fromarray(PIXELS).save(path, format_, exif=exif)
    found, pixels = image_files.header(path), images.read(path)
    assert found.size == (pixels.shape[1], pixels.shape[0])
    if format_ != "AVIF":  # not turned by OpenCV
        with Image.open(path) as image:
            assert np.abs(np.asarray(ImageOps.exif_transpose(image).convert("RGB")) - pixels.astype(int)).mean() < 2


def test_orientations_in_xmp_data_do_not_turn(tmp_path):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", xmp=xmp)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.getexif()[image_files.ORIENTATION] == 6
    assert image_files.header(tmp_path / "a.jpg").size == (48, 32)
    assert images.read(tmp_path / "a.jpg").shape == (32, 48, 3)


def test_headers_are_read_without_the_pixels(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert image_files.header(tmp_path / "a.png").size == (48, 32)


def test_odd_headers(tmp_path):
    exif = Image.Exif()
    exif[image_files.ORIENTATION] = 77
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    assert image_files.header(tmp_path / "a.jpg") == ((48, 32), (48, 32), 1, False, "JPEG")
    for data in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"?"):
        Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=data)
        assert image_files.header(tmp_path / "a.jpg") == ((48, 32), (48, 32), 1, False, "JPEG")
        assert images.read(tmp_path / "a.jpg").shape == (32, 48, 3)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    for read in (image_files.header, images.read):
        with pytest.raises(DataError, match="b.jpg: cannot be read .cannot identify image file.; get it again"):
            read(tmp_path / "b.jpg")


@pytest.mark.parametrize("size", [(30_000, 30_000), (16_384, 8_193), (2**27 + 1, 1)])
def test_bombs_are_refused_by_their_header(tmp_path, size):
    path = tmp_path / "a.png"
    path.write_bytes(bomb(*size))
    for read in (image_files.header, images.read):
        with pytest.raises(DataError, match="a.png: has [0-9,]+ pixels, at most 134,217,728 are read; make it smaller"):
            read(path)
    path.write_bytes(bomb(16_384, 8_192))
    assert image_files.header(path).size == (16_384, 8_192)


def test_sparse_files_are_not_read(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    with open(tmp_path / "a.jpg", "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="a.jpg: has 1,099,511,627,776 bytes, images have 1 to 1,073,741,824"):
        images.read(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["grey", "colour", "TIFF", "float", "PPM", "JPEG2000"])
def test_more_than_8_bits_are_refused(tmp_path, kind):
    """OpenCV would take the upper 8 of 16 bits: a picture of a camera of 12 bits would be 0 to 15, nearly black."""
    import cv2

    endings = {"TIFF": "tiff", "float": "tiff", "PPM": "ppm", "JPEG2000": "jp2"}
    path = tmp_path / f"a.{endings.get(kind, 'png')}"
    pixels = PIXELS[..., 0] if kind in ("grey", "TIFF", "float") else PIXELS
    assert cv2.imwrite(str(path), pixels.astype(np.float32 if kind == "float" else np.uint16) * 16)
    with pytest.raises(DataError, match="a.*: has values of more than 8 bits.*; save it with 8 bits a value"):
        images.read(path)
    assert cv2.imwrite(str(path), pixels)
    assert abs(int(images.read(path).max()) - pixels.max()) < 3  # JPEG 2000 is lossy here


def test_bits_of_jpeg_2000_are_found_before_a_long_text(tmp_path):
    import cv2

    path = tmp_path / "a.jp2"
    text = struct.pack(">I4s", 8 + 2**17, b"xml ") + b" " * 2**17
    for kind, deep in ((np.uint8, False), (np.uint16, True)):
        assert cv2.imwrite(str(path), PIXELS.astype(kind))
        boxes = path.read_bytes()
        place = boxes.index(b"jp2c") - 4
        path.write_bytes(boxes[:place] + text + boxes[place:])
        assert image_files.header(path).deep == deep


def test_tiles_of_older_versions_of_pillow_are_read(tmp_path, monkeypatch):
    """Before version 11 they are plain tuples."""
    newer = Image.open

    def older(*given, **settings):
        image = newer(*given, **settings)
        vars(image).update(tile=[tuple(tile) for tile in image.tile])
        return image

    monkeypatch.setattr(Image, "open", older)
    for name, depth, deep in (("a.ppm", 255, False), ("b.ppm", 1023, True)):
        (tmp_path / name).write_bytes(f"P6 1 1 {depth}\n".encode() + b"\0\1" * 3)
        assert image_files.header(tmp_path / name).deep == deep
    Image.fromarray(PIXELS).save(tmp_path / "c.png")
    assert not image_files.header(tmp_path / "c.png").deep


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_of_10_bits_is_deep(tmp_path):
    """Pillow writes none: the boxes that say how many bits there are are changed. It opens it as 8 bits."""
    path = tmp_path / "a.avif"
    Image.new("RGB", (16, 16)).save(path)
    assert not image_files.header(path).deep
    data = bytearray(path.read_bytes())
    data[data.index(b"av1C") + 6] |= 0x40
    start = data.index(b"pixi") + 9
    data[start : start + 3] = b"\n" * 3
    path.write_bytes(data)
    with Image.open(path) as image:
        assert image.mode == "RGB"
    assert image_files.header(path).deep


def test_colours_that_share_16_bits_are_not_deep(tmp_path):
    """A BMP of one pixel, of 5, 6 and 5 bits, written from the format's description: pure red."""
    header = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0) + struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    file = struct.pack("<2sIHHI", b"BM", 14 + len(header) + 4, 0, 0, 14 + len(header))
    (tmp_path / "a.bmp").write_bytes(file + header + struct.pack("<HH", 0xF800, 0))
    assert not image_files.header(tmp_path / "a.bmp").deep
    assert images.read(tmp_path / "a.bmp").argmax() == 0


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "BMP"])
def test_images_that_are_cut_off_are_refused(tmp_path, format_):
    path = tmp_path / "a"
    exif = Image.Exif()
    exif[0x010E] = "\xff\xd9"  # an end of a JPEG, before its pixels
    Image.fromarray(PIXELS).save(path, format_, exif=exif)
    whole = path.read_bytes()
    path.write_bytes(whole + b"appended")
    assert images.read(path).shape == (32, 48, 3)
    for size in (len(whole) // 2, len(whole) - 20, len(whole) - 2):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="a: (is cut off|cannot be (read|decoded).*); get it again"):
            images.read(path)


def test_links_are_followed_and_those_to_nothing_are_said(own_data, tmp_path, capsys):
    root = own_data()
    path = root / "train2017/000.jpg"
    path.rename(tmp_path / "elsewhere.jpg")
    path.symlink_to(tmp_path / "elsewhere.jpg")
    assert main([str(root)]) == 0
    (tmp_path / "elsewhere.jpg").unlink()
    assert main([str(root)]) == 1
    assert f"{path}: is a link to nothing; put an image file there\n" in capsys.readouterr().out


def test_programs_are_not_started_for_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 32\n%%EndComments\n")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "EPS"
    assert images.pixel_fault(tmp_path / "a.jpg") == ("cannot be read (cannot identify image file)", "get it again")


def config(root):
    return dataclasses.replace(PRESETS["folder"], root=root, size="tiny", image=64, epochs=1, batch=4)


def test_pixels_as_stored_are_refused_by_check_and_training(own_data, capsys):
    root = own_data(orientation=6)
    assert main([str(root)]) == 1
    out = capsys.readouterr().out
    assert "train2017/000.jpg: is 64 x 96, its annotations are for 96 x 64: it is turned upright on reading" in out
    assert "(and 5 more images like it); annotate the upright picture, or remove the tag" in out
    with pytest.raises(DataError, match="000.jpg: is 64 x 96, .* EXIF orientation 6 .*exiftool"):
        TASK.build(config(root))


def test_an_orientation_that_keeps_the_size_is_said(own_data, capsys, caplog):
    root = own_data(orientation=3)
    assert main([str(root), "--pixels"]) == 0
    assert "of the upright pictures: 6, such as 000.jpg" in capsys.readouterr().out
    with caplog.at_level(logging.WARNING, logger="tasks.coco_detection"):
        dataset = datasets.open_fold(config(root), 1)
    assert "images with an EXIF orientation, turned upright" in caplog.text
    data = read_part(dataset, dataset.test, config(root), training=False)
    upright = images.read(root / "val2017/000.jpg")
    turned = np.asarray(Image.fromarray(upright).rotate(180))
    assert np.array_equal(turned, np.asarray(Image.open(root / "val2017/000.jpg").convert("RGB")))
    loaded = data[0]["inputs"].permute(1, 2, 0).numpy()[..., ::-1]  # BGR, resized from 96 x 64 to 64 x 43
    resized = np.asarray(Image.fromarray(upright).resize((64, 43), Image.Resampling.BILINEAR))
    assert np.abs(loaded.astype(int) - resized).mean() < 12
    assert np.abs(loaded[::-1, ::-1].astype(int) - resized).mean() > 20


class TestTrainingLosesNoImage:
    def fails(self, root, tmp_path, spoil, **settings):
        given = dataclasses.replace(config(root), **settings)
        model = TASK.build(given)
        spoil(root / "train2017")
        with pytest.raises(DataError, match="train2017/00.*jpg: ") as error:
            fit(model, given, Run(0, 1, tmp_path, device="cpu"))
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_broken_after_the_check(self, own_data, tmp_path):
        def spoil(folder):
            for path in folder.iterdir():
                path.write_bytes(path.read_bytes()[:100])

        assert "cannot be read" in self.fails(own_data(), tmp_path, spoil, workers=1)

    def test_another_size_after_the_check(self, own_data, tmp_path):
        def spoil(folder):
            for path in folder.iterdir():
                with Image.open(path) as image:
                    turned = image.transpose(Image.Transpose.ROTATE_90)
                turned.save(path)

        assert "is 64 x 96, its annotations are for 96 x 64; are" in self.fails(own_data(), tmp_path, spoil)

    def test_small_images_are_trained_on(self, own_data):
        def small(content):
            for image in content["images"]:
                image.update(width=24, height=16)
            for entry in content["annotations"]:
                entry.update(
                    bbox=[v / 4 for v in entry["bbox"]], segmentation=[[v / 4 for v in entry["segmentation"][0]]]
                )

        root = own_data(small)
        for path in root.glob("*2017/*.jpg"):
            with Image.open(path) as image:
                shrunk = image.resize((24, 16))
            shrunk.save(path)
        dataset = datasets.open_fold(config(root), 1)
        assert len(read_part(dataset, dataset.train, config(root), training=True)) == 5
