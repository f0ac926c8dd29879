"""Names of the detectors and of their sizes, as configs and command lines have them; `detectors` builds them."""

from typing import Literal

Detector = Literal["convnext", "pvtv2", "res2net", "hrnet", "panoptic"]
BoxDetector = Literal["convnext-boxes", "pvtv2-boxes", "res2net-boxes", "hrnet-boxes", "rtmdet"]
"""The same without masks: Cascade R-CNN, and Faster R-CNN for pvtv2. rtmdet: RTMDet-tiny, which has none."""
Size = Literal["tiny", "small", "published"]
