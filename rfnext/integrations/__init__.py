"""Searches in training frameworks: Lightning and mmengine (MMDetection and others); logging to Weights & Biases."""
