"""Seeding of a step."""

import torch

from tasks.lightning_fit import derived_seed, seed_step


def test_a_step_draws_what_torch_draws_from_the_same_seed():
    torch.manual_seed(derived_seed("dropout", 3, 1, 4))
    expected = torch.rand(5)
    torch.rand(7)
    seed_step("dropout", 3, 1, 4)
    assert torch.equal(torch.rand(5), expected)
    seed_step("dropout", 3, 1, 5)
    assert not torch.equal(torch.rand(5), expected)
