"""Checkpoints and structures of the published code: opened with equal outputs, and written for its tools."""
