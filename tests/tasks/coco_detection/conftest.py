"""Ten small scenes, made once, that all tests of the task train and score on."""

import pytest

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
