"""Roles: by which the layers of a network are matched with those of its donor, see `donor`.

How Global2Local and RF-Next match layers could not be read here.
"""

from torch import nn

from rfnext import Structure
from tasks.action_segmentation.models import searched
from tasks.action_segmentation.models.network import network_of


def roles(model: nn.Module) -> dict[str, tuple[int | None, int]]:
    """By searched layer of a network as designed: its stage and its dilation.

    So both convs of a dual dilated layer of MS-TCN++, and both branches of ASRF, follow the same stage of MS-TCN.
    """
    designed = Structure.read(model, searched)
    return {name: (network_of(model).stage_of(name), dilation) for name, (dilation,) in designed.items()}
