"""Recorded clips: listing, checking and reading them, and the embedded ones."""
