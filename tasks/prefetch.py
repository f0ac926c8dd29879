"""Batches that are read while the one before them is trained on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader


class Prefetching(DataLoader[Any]):
    """A DataLoader that reads the next batch on a thread. Batches, their order and errors are those of a DataLoader.

    Two batches are in memory at a time.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch asks for its own class of iterators
        batches = super().__iter__()
        with ThreadPoolExecutor(1, "prefetch") as thread:
            coming = thread.submit(next, batches, None)
            while (batch := coming.result()) is not None:
                coming = thread.submit(next, batches, None)
                yield batch
