"""Suppressing what libraries print: pycocotools' progress, and mmengine's line for every initialised parameter."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from mmengine.logging import MMLogger

IGNORED_WARNINGS = (
    "__array__ implementation doesn't accept a copy keyword",  # pycocotools 2.0.11 with numpy 2
    "To copy construct from a tensor",  # mmdet 3.3, after a cascade's mask heads
    "Default ``avg_non_ignore`` is False",  # mmdet 3.3, of its own panoptic config
    "The 'warn' method is deprecated",  # mmdet 3.3, of its PVT
    r"`torch.cuda.amp.autocast\(args",  # mmdet 3.3, in RTMDet's channel attention
    "torch.meshgrid: in an upcoming release",  # mmdet 3.3, of the points of its head
)
"""The beginnings of warnings that users of these libraries cannot act on."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries print and the warnings in `IGNORED_WARNINGS`."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            for message in IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
