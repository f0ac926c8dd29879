"""What a detector is measured by: COCO's box and mask mAP, or panoptic quality."""

from tasks.coco_detection.config import Config
from tasks.spec import Metric

METRICS = tuple(Metric(f"{what}_mAP{which}") for which in ("", "50", "_s", "_m", "_l") for what in ("box", "mask"))
PANOPTIC_METRICS = (Metric("PQ"), Metric("SQ"), Metric("RQ"))


def metrics_by_config(config: Config) -> tuple[Metric, ...]:
    """Panoptic configs have their own; own data has no mAP by size, which is undefined where a size does not occur."""
    if config.detector == "panoptic":
        return PANOPTIC_METRICS
    return METRICS[:4] if config.dataset == "folder" else METRICS
