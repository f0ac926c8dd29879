"""Which layers of other networks follow which layer of MS-TCN, by hand."""

from dataclasses import replace

import pytest
import torch

from tasks.action_segmentation.config import PRESETS
from tasks.action_segmentation.donor import donor
from tasks.action_segmentation.models import rebuild
from tasks.action_segmentation.roles import roles

FACTS = {"features": 7, "classes": ["a", "b"]}

FOLLOWS = {
    # Stage 0 of MS-TCN++ has both orders of dilations, and one of 8, of which MS-TCN's stages have none.
    "ms_tcn_pp": {
        "stages.0.layers.0.shrinking": None,
        "stages.0.layers.0.growing": "stages.0.layers.0.dilated",
        "stages.0.layers.1.shrinking": "stages.0.layers.2.dilated",
        "stages.0.layers.3.shrinking": "stages.0.layers.0.dilated",
        "stages.1.layers.2.dilated": "stages.1.layers.2.dilated",
    },
    "asrf": {
        "shared.1.dilated": "stages.0.layers.1.dilated",
        "refining.0.layers.2.dilated": "stages.1.layers.2.dilated",
        "locating.0.layers.2.dilated": "stages.1.layers.2.dilated",
    },
    "asformer": {
        "encoder.blocks.2.dilated": "stages.0.layers.2.dilated",
        "decoders.0.blocks.1.dilated": "stages.1.layers.1.dilated",
    },
    "ltcontext": {"stages.1.blocks.0.dilated": "stages.1.layers.0.dilated"},
}


@pytest.mark.parametrize("model", FOLLOWS)
def test_layers_follow_those_of_the_same_stage_and_dilation(model):
    config = replace(PRESETS["tiny"], model=model, stages=2, layers=3, prediction_layers=4, maps=4, smoothing=0.3)
    other = donor(config)
    assert other is not None
    smoothing = 0.15 if model == "asrf" else 0.3  # ASRF's is another loss
    assert other == replace(config, model="ms_tcn", smoothing=smoothing)
    torch.manual_seed(0)
    of_donor = {role: name for name, role in roles(rebuild(other, FACTS)).items()}
    assert len(of_donor) == 6
    found = {name: of_donor.get(role) for name, role in roles(rebuild(config, FACTS)).items()}
    assert found.items() >= FOLLOWS[model].items()
    assert sum(name is None for name in found.values()) == (2 if model == "ms_tcn_pp" else 0)


def test_networks_without_a_donor():
    assert donor(PRESETS["tiny"]) is None
    assert donor(PRESETS["tiny-c2f-tcn"]) is None
