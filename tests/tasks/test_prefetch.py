"""Batches read ahead on a thread: those of a DataLoader, in its order, and errors as they are."""

import threading

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from tasks.prefetch import Prefetching
from tasks.spec import DataError


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_batches_are_those_of_a_loader(batch_size):
    def loader(kind):
        order = RandomSampler(range(10), generator=torch.Generator().manual_seed(0))
        return kind(range(10), batch_size, sampler=order, generator=torch.Generator())

    torch.manual_seed(0)
    ahead, plain = loader(Prefetching), loader(DataLoader)
    state = torch.get_rng_state()
    for _ in range(2):  # epochs
        assert [batch.tolist() for batch in ahead] == [batch.tolist() for batch in plain]
    assert torch.equal(torch.get_rng_state(), state)
    assert not readers()


def test_the_next_batch_is_read_while_one_is_used():
    begun = {number: threading.Event() for number in range(4)}

    class Numbers:
        def __len__(self):
            return len(begun)

        def __getitem__(self, number):
            begun[number].set()
            return number

    batches = iter(Prefetching(Numbers(), 1))  # type: ignore[arg-type]
    next(batches)
    assert begun[1].wait(60)
    assert not begun[2].is_set()
    next(batches)
    assert begun[2].wait(60)
    assert not begun[3].is_set()


class Broken:
    def __len__(self):
        return 3

    def __getitem__(self, number):
        if number == 1:
            raise DataError("video.npy: no such file; add it")
        return number


def test_an_error_is_raised_as_it_is_and_leaves_no_thread():
    seen = []
    with pytest.raises(DataError, match=r"^video\.npy: no such file; add it$"):
        seen.extend(Prefetching(Broken(), 1))  # type: ignore[arg-type]
    assert not readers()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_training_that_ends_within_an_epoch_leaves_no_thread(error):
    def train():
        for _ in Prefetching(range(10), 1):  # type: ignore[arg-type]
            raise error

    with pytest.raises(error):
        train()
    assert not readers()
