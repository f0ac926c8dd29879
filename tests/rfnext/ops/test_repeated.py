"""What a searched conv keeps of its calls."""

import torch
from torch import nn

from rfnext import LocalConfig, LocalSearch
from rfnext.ops.repeated import CALLS, Repeated


def test_a_size_that_recurs_is_kept_among_others_that_do_not() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1))
    LocalSearch(model, LocalConfig())

    def of_ten() -> Repeated | None:
        model(torch.ones(1, 1, 10))
        return next(call for call in vars(model[0])[CALLS] if call.key[0] == (1, 1, 10))

    model(torch.ones(1, 1, 50))  # the longest of all, which each call notes
    first = of_ten()
    for n in range(20, 41):
        model(torch.ones(1, 1, n))
        assert of_ten() is first
    assert len(vars(model[0])[CALLS]) == 8
