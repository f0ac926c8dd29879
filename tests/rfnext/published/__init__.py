"""Tests of what is read from, and written for, the published code."""
