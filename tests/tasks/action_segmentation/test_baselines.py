"""Dilations that double up to a largest one."""

import pytest
import torch

from rfnext import Structure
from tasks.action_segmentation.baselines import doubling
from tasks.action_segmentation.models import ms_tcn, ms_tcn_pp, searched


def test_of_ms_tcn():
    network = ms_tcn(3, 2, stages=2, layers=10, maps=4)
    structure = doubling(network, 32)
    for stage in range(2):
        found = [structure[f"stages.{stage}.layers.{layer}.dilated"][0] for layer in range(10)]
        assert found == [1, 2, 4, 8, 16, 32, 1, 2, 4, 8]
    assert doubling(network, 512) == doubling(network, 4096) == Structure.read(network, searched)
    structure.apply(network)
    assert network(torch.randn(1, 3, 20)).shape == (2, 1, 2, 20)


def test_of_ms_tcn_pp():
    network = ms_tcn_pp(3, 2, stages=1, layers=(4, 10), maps=4)
    structure = doubling(network, 2)
    assert [structure[f"stages.0.layers.{i}.growing"][0] for i in range(4)] == [1, 2, 1, 2]
    assert [structure[f"stages.0.layers.{i}.shrinking"][0] for i in range(4)] == [2, 1, 2, 1]


@pytest.mark.parametrize("largest", [0, 3, -4])
def test_refuses_what_is_no_power_of_two(largest):
    with pytest.raises(ValueError, match=f"{largest} is not a power of two"):
        doubling(ms_tcn(3, 2, layers=2, maps=4), largest)
