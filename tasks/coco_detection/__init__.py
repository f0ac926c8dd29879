"""COCO detection: the five published detectors, searchable in MMDetection 3."""
