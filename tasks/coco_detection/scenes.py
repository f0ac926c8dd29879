"""The embedded scenes (`tasks.scenes`) as a data folder in COCO's format, in the cache.

Things are the digits, stuff is the kind of photograph. Masks are the very pixels that were painted and that no later
digit covers; boxes are tight around them.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfnext.files import cache_folder, new_folder
from tasks.coco_detection.coco_format.layout import Layout
from tasks.scenes import FOLDS, SIDE, SMALLEST, STUFF, Pixels, Source, compose, missing
from tasks.spec import DataError

VERSION = 1
"""Part of the cache folder's name: raise it with any change of what is written there."""

README = f"""Made by tasks/coco_detection/scenes.py (version {VERSION}) from the digits of scikit-learn and the
photographs of scikit-image. Delete this folder to have it made again.
"""


def prepare(fold: int, train: int, test: int, digits: int = 10, smallest: float = SMALLEST) -> Path:
    """The folder of one fold with so many training and test scenes, made on the first call (seconds).

    digits: only the digits 0 .. digits - 1 occur. smallest: height of the smallest digit in pixels.

    It has the layout of COCO with the parts "train" and "test". Safe with several processes: each builds a folder of
    its own and the first to finish gives it its name.

    Raises:
        DataError: if a package is missing. OSError: if nothing can be written.
    """
    if fold not in FOLDS or min(train, test) < 1 or not 1 <= digits <= 10:
        raise ValueError(f"no scenes of fold {fold} (there are {FOLDS}), {train} + {test} of them with {digits} digits")
    name = f"fold{fold}-{train}-{test}-digits{digits}" + (f"-from{smallest:g}" if smallest != SMALLEST else "")
    folder = cache_folder() / f"digit_scenes-v{VERSION}" / name
    if folder.is_dir():
        return folder
    if reason := missing():
        raise DataError(reason)
    with new_folder(folder) as building:
        (building / "README.txt").write_text(README)
        for number, (part, scenes) in enumerate({"train": train, "test": test}.items()):
            source = Source.open(fold, held_out=part == "test", digits=digits, smallest=smallest)
            write_part(Layout(building, "train", "test"), part, source, fold, scenes, first_id=1 + number * train)
    return folder


def write_part(layout: Layout, part: str, source: Source, fold: int, scenes: int, first_id: int) -> None:
    """Write images, instances, panoptic JSON and PNGs of a part.

    first_id: id of its first image; no id occurs in two parts.
    """
    from pycocotools import mask as rle

    for folder in (layout.images(part), layout.panoptic_maps(part)):
        folder.mkdir(parents=True)
    images, instances, panoptic = [], [], []
    for number in range(scenes):
        scene = compose(source, f"digit scenes {fold} {part} {number}")
        image_id, name = first_id + number, f"{number:06d}"
        _write_image(layout.images(part) / f"{name}.jpg", scene.image, quality=90)
        # Ids of segments are those of the PNG's pixels: r + 256 g + 256^2 b; 0 is for pixels without any.
        ids = scene.segments + 1
        _write_image(layout.panoptic_maps(part) / f"{name}.png", np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8))
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": SIDE, "height": SIDE})
        segments = []
        for segment, category in enumerate(scene.categories):
            mask = scene.segments == segment
            if not mask.any():  # a straight line may leave a photograph no pixel
                continue
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            left, top = int(columns[0]), int(rows[0])
            box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
            known = {"category_id": category, "bbox": box, "area": int(mask.sum()), "iscrowd": 0}
            segments.append({"id": segment + 1, **known})
            if category <= 10:
                counts: dict[str, Any] = rle.encode(np.asfortranarray(mask))  # type: ignore[assignment]
                segmentation = {"size": [SIDE, SIDE], "counts": counts["counts"].decode()}
                extra = {"id": len(instances) + 1, "image_id": image_id, "segmentation": segmentation}
                instances.append({**extra, **known})
        panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments})
    things = [{"id": 1 + digit, "name": f"digit {digit}", "isthing": 1} for digit in range(len(source.glyphs))]
    stuff = [{"id": id_, "name": name, "isthing": 0} for name, id_ in STUFF.items()]
    layout.annotations.mkdir(exist_ok=True)
    layout.instances(part).write_text(
        json.dumps({"images": images, "annotations": instances, "categories": things}), "utf-8"
    )
    layout.panoptic(part).write_text(
        json.dumps({"images": images, "annotations": panoptic, "categories": things + stuff}), "utf-8"
    )


def _write_image(path: Path, pixels: Pixels, **options: Any) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if path.suffix == ".jpg" else "PNG", **options)
    path.write_bytes(buffer.getvalue())
