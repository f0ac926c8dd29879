"""A small folder in COCO's layout, with polygons, run lengths and panoptic PNGs, past findings, and its reader."""

import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from tasks.coco_detection.check import check
from tasks.coco_detection.coco_format import images, masks
from tasks.coco_detection.coco_format.annotations import Kind
from tasks.coco_detection.coco_format.layout import Layout
from tasks.coco_detection.data import open_dataset
from tasks.findings import Findings
from tests.faults.fuzz.mutations import SPARSE, Sample
from tests.faults.fuzz.samples import DEEP, HUGE, each

WIDTH, HEIGHT = 24, 16
THING, STUFF = 7, 9
INSTANCES, PANOPTIC = "annotations/instances_train2017.json", "annotations/panoptic_train2017.json"
CATEGORIES = [{"id": THING, "name": "thing", "isthing": 1}, {"id": STUFF, "name": "stuff", "isthing": 0}]


def picture(pixels: np.ndarray, kind: str) -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _annotation(number: int, image: int, segmentation: Any, box: list[int], crowd: int = 0) -> dict[str, Any]:
    made = {"id": number, "image_id": image, "category_id": THING, "iscrowd": crowd}
    return made | {"bbox": box, "area": box[2] * box[3], "segmentation": segmentation}


def scenes() -> list[Sample]:
    """Three training images and a test image, each with two objects."""
    sample: Sample = {}
    columns = [HEIGHT * 4, *[8, HEIGHT - 8] * 6, HEIGHT * (WIDTH - 10)]  # the upper half of columns 4 to 9
    upper = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    upper[:8, 4:10] = 1
    text = bytes(rle.encode(upper)["counts"]).decode()  # type: ignore[arg-type]
    for part, count in (("train2017", 3), ("val2017", 1)):
        shown = [{"id": i + 1, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(count)]
        found, segments = [], []
        for i in range(count):
            sample[f"{part}/{i}.jpg"] = picture(np.full((HEIGHT, WIDTH, 3), 90 + count + i, np.uint8), "JPEG")
            polygon = [[2, 2, 8, 2, 8, 9, 2, 9]]
            runs = {"size": [HEIGHT, WIDTH], "counts": text if i else columns}
            found += [_annotation(2 * i + 1, i + 1, polygon, [2, 2, 6, 7])]
            found += [_annotation(2 * i + 2, i + 1, runs, [4, 0, 6, 8], crowd=i % 2)]
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            pixels[..., 0], pixels[2:9, 2:8, 0] = 200, 100
            sample[f"annotations/panoptic_{part}/{i}.png"] = picture(pixels, "PNG")
            listed = [
                {"id": 100, "category_id": THING, "iscrowd": 0, "bbox": [2, 2, 6, 7], "area": 42},
                {"id": 200, "category_id": STUFF, "iscrowd": 0, "bbox": [0, 0, WIDTH, HEIGHT], "area": 342},
            ]
            segments.append({"image_id": i + 1, "file_name": f"{i}.png", "segments_info": listed})
        things = {"images": shown, "annotations": found, "categories": CATEGORIES[:1]}
        whole = {"images": shown, "annotations": segments, "categories": CATEGORIES}
        sample[f"annotations/instances_{part}.json"] = json.dumps(things).encode()
        sample[f"annotations/panoptic_{part}.json"] = json.dumps(whole).encode()
    return [sample]


def past_scenes() -> list[Sample]:
    """What hung, crashed or filled the memory of pycocotools and Pillow, and values that no check had looked at."""
    (good,) = scenes()
    size = [HEIGHT, WIDTH]
    segmentations = (
        "[[0,0,NaN,0,5,5]]",
        "[[0,0,1e9,0,1e9,1e9]]",
        '{"size":[2147483648,2147483648],"counts":"5"}',
        *(f'{{"size":{size},"counts":{json.dumps(text)}}}' for text in ("~~~~~~~~", "P", "o" * 50, "é1", "0" * 9000)),
        f'{{"size":{size},"counts":[{HUGE}]}}',
        f'{{"size":{size},"counts":[-5,{HEIGHT * WIDTH + 5}]}}',
        f"[[{HUGE},0,1,1,2,2]]",
        DEEP,
        "{}",
        '{"counts":{}}',
    )
    content = json.loads(good[INSTANCES])
    content["annotations"][0]["segmentation"] = "@@"
    samples = [good | {INSTANCES: json.dumps(content).replace('"@@"', s).encode()} for s in segmentations]
    changes: list[dict[str, Any]] = [
        {"category_id": []},
        {"image_id": {}},
        {"bbox": [0, 0, float("nan"), 1]},
        {"bbox": [0, 0, 10**400, 1]},
        {"id": [1]},
        {"iscrowd": "no"},
        {"area": float("inf")},
    ]
    for change in changes:
        content = json.loads(good[INSTANCES])
        content["annotations"][0] |= change
        samples.append(good | {INSTANCES: json.dumps(content).encode()})
    for name in ("../../etc/passwd", "/etc/passwd", "\0", "a" * 5000):
        for file, key in ((INSTANCES, "images"), (PANOPTIC, "annotations")):
            content = json.loads(good[file])
            content[key][0]["file_name"] = name
            samples.append(good | {file: json.dumps(content).encode()})
    samples += [good | {name: SPARSE + struct.pack("<Q", 2**33)} for name in (INSTANCES, PANOPTIC)]
    for name in ("train2017/0.jpg", "annotations/panoptic_train2017/0.png"):
        samples += [good | {name: png(30_000, 30_000)}, good | {name: SPARSE + struct.pack("<Q", 2**33)}]
        samples += each(good, name)
    return samples + each(good, INSTANCES) + each(good, PANOPTIC)


def png(width: int, height: int, kind: bytes = b"\x08\x02\0\0\0") -> bytes:
    """A PNG whose header says that it is so large; what follows is next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">II", width, height) + kind)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def read_scenes(folder: Path, told: Any) -> None:
    """Check the folder; open what has no problem, and decode all masks and pixels of it."""
    layout = Layout(folder)
    os.environ["RFNEXT_CACHE"] = str(folder / "cache")
    report = Findings()
    summary = check(layout, report, panoptic=True, pixels=True)
    told([*report.remarks, *(report.problems or [summary])])
    for kind in get_args(Kind):
        dataset = open_dataset(layout, kind, validation=0.4)
        for part in (dataset.train, dataset.validation, dataset.test):
            content = json.loads(part.annotations.read_text("utf-8"))
            for entry in content["annotations"] if kind == "instances" else []:
                size = next((i["width"], i["height"]) for i in content["images"] if i["id"] == entry["image_id"])
                if (fault := masks.fault(entry["segmentation"], *size)) is not None:
                    raise AssertionError(f"a mask that is not whole was taken: {fault}")
                _decode(entry["segmentation"], *size)
            for image in content["images"]:
                images.read(part.images / image["file_name"])


def _decode(segmentation: Any, width: int, height: int) -> None:
    """As mmdet does."""
    if isinstance(segmentation, list):
        made = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        made = rle.frPyObjects(segmentation, height, width)
    else:
        made = segmentation
    if rle.decode(made).shape != (height, width):
        raise AssertionError(f"a mask of {rle.decode(made).shape} in an image of {(height, width)}")
