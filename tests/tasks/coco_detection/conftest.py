"""Ten small scenes, made once, that all tests of the task train and score on; and small folders of own data."""

import json

import numpy as np
import pytest
from PIL import Image

from rfnext import Bounds, LocalConfig
from tasks.coco_detection.config import Config


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def config():
    """Eight training images in two steps an epoch, two validation and three test images."""
    return Config(
        scenes=10,
        digits=3,
        size="tiny",
        image=64,
        epochs=3,
        batch=4,
        validate_every=2,
        search=LocalConfig(interval=1, rounds=2, spread=0.5, branches=2, bounds=Bounds(1, 24)),
    )


WIDTH, HEIGHT = 96, 64


@pytest.fixture
def own_data(tmp_path):
    """Makes a folder of own data: 6 training and 4 test images with two annotated rectangles each.

    Called with a function that changes the content of an annotation file, and with an EXIF orientation of all images.
    """

    def make(change=lambda content: None, orientation=None, root=tmp_path / "data"):
        generator = np.random.default_rng(0)
        (root / "annotations").mkdir(parents=True)
        for part, count in (("train2017", 6), ("val2017", 4)):
            (root / part).mkdir()
            content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "thing"}]}
            for i in range(count):
                name = f"{i:03d}.jpg"
                pixels = generator.integers(90, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                content["images"].append({"id": i + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
                for x, y in ((4 + i, 6), (56, 30 - i)):
                    pixels[y : y + 20, x : x + 24] = 220, 40, 40
                    content["annotations"].append(annotation(len(content["annotations"]) + 1, i + 1, x, y))
                exif = Image.Exif()
                if orientation is not None:
                    exif[0x0112] = orientation
                Image.fromarray(pixels).save(root / part / name, quality=95, exif=exif)
            change(content)
            (root / f"annotations/instances_{part}.json").write_text(json.dumps(content))
        return root

    return make


def annotation(number, image, x, y, width=24, height=20):
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number,
        "image_id": image,
        "category_id": 7,
        "iscrowd": 0,
        "bbox": [x, y, width, height],
        "area": width * height,
        "segmentation": [polygon],
    }
