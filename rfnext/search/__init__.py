"""The searches: local, one-shot, evolution, successive halving."""
