"""Silence where libraries talk: pycocotools prints, and mmengine's loggers repeat every initialised parameter."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from mmengine.logging import MMLogger


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries print, and without their warnings that no user of theirs can act on."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            # pycocotools 2.0.11 with numpy 2
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
            # mmdet 3.3, after a cascade's mask heads
            warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
            yield
    finally:
        logger.setLevel(level)
