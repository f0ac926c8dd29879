"""Training in the terms of MMDetection: its pipelines and schedules, datasets and batches, and mmengine configs."""
