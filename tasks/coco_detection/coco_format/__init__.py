"""Data folders in COCO's format: where their files lie, what is wrong with them, and mending that."""
