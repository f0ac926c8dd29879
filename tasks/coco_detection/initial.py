"""A detector that starts from the network of a file: its convs, with their dilations and branches, and its weights.

What belongs to the classes is taken only if the file's classes are the data's. The rest is taken whole, or refused.
"""

import logging
from typing import Any, cast, get_args

from torch import Tensor, nn

from rfnext.description import describe, restore
from tasks import checkpoint
from tasks.coco_detection import detectors
from tasks.coco_detection.config import Config
from tasks.coco_detection.detector_names import BoxDetector
from tasks.spec import Facts

log = logging.getLogger(__name__)

OF_CLASSES = {"fc_cls", "fc_reg", "conv_logits", "rtm_cls"}
"""Layers of heads with outputs for each class; a cascade's fc_reg has four outputs, those of a box, for all. RTMDet has
a list of them."""

MASKS = "roi_head.mask_head."


def start_from(model: nn.Module, config: Config, facts: Facts) -> None:
    """Give a detector the convs and weights of the file `config.init`, in place.

    Where the file's classes are others than those of `facts`, the last layers of the heads start at random, and a line
    of the log names them. A detector without masks starts from one with masks.

    Raises:
        ValueError: naming the file, if it is of another detector, or has other classes and `config.epochs` is 0.
        OSError: if it cannot be read.
    """
    path = cast(Any, config.init)
    opened = checkpoint.load(path, "coco_detection")
    found = opened.config
    if (detectors.family(found.detector), found.size) != (detectors.family(config.detector), config.size):
        raise ValueError(
            f"{path} is of detector {found.detector!r}, size {found.size!r}; give --detector {found.detector} "
            f"--size {found.size}, or a file of {config.detector!r}, size {config.size!r}"
        )
    same = all(opened.facts[name] == facts[name] for name in ("classes", "things"))
    cast(Any, model).backbone.init_cfg = None  # nothing is downloaded: it is overwritten
    detectors.initialise(model)
    state = dict(opened.model.state_dict())
    fresh = {} if same else {name: value for name, value in model.state_dict().items() if _of_classes(name, value)}
    convs = describe(opened.model)
    if config.detector in get_args(BoxDetector) and found.detector not in get_args(BoxDetector):
        convs, state = _without_masks(convs), _without_masks(state)
        log.info("%s has masks, which this training does not: its mask heads are left out", path)
    lacking = sorted({name.rpartition(".")[0] for name in fresh})
    if not same and config.epochs == 0:
        raise ValueError(
            f"{path} has other classes ({_some(opened.facts)}) than the data ({_some(facts)}), so that it cannot be "
            "scored without training; give --epochs, or data of its classes in its order"
        )
    try:
        restore(model, convs, state | fresh)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the detector of this training: {error}") from error
    if lacking:
        log.warning("%s has other classes than the data: these layers start at random: %s", path, ", ".join(lacking))


def _of_classes(name: str, value: Tensor) -> bool:
    found = OF_CLASSES.intersection(name.split("."))
    return bool(found) and not ("fc_reg" in found and len(value) == 4)


def _without_masks(named: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if not name.startswith(MASKS)}


def _some(facts: Facts) -> str:
    names = list(facts["classes"])
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if names[3:] else ''}"
