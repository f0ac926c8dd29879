"""What a detector is measured by: COCO's box and mask mAP, or panoptic quality."""

from typing import get_args

from tasks.coco_detection.config import Config
from tasks.coco_detection.detector_names import BoxDetector
from tasks.spec import Metric

METRICS = tuple(Metric(f"{what}_mAP{which}") for which in ("", "50", "_s", "_m", "_l") for what in ("box", "mask"))
PANOPTIC_METRICS = (Metric("PQ"), Metric("SQ"), Metric("RQ"))


def metrics_by_config(config: Config) -> tuple[Metric, ...]:
    """Panoptic configs have their own, and detectors without masks those of boxes.

    Own data has no mAP by size, which is undefined where a size does not occur; nor have scenes of large digits alone.
    """
    if config.detector == "panoptic":
        return PANOPTIC_METRICS
    sizes = config.dataset != "folder" and config.smallest == Config.smallest
    metrics = METRICS if sizes else METRICS[:4]
    if config.detector in get_args(BoxDetector):
        return tuple(metric for metric in metrics if metric.name.startswith("box"))
    return metrics
