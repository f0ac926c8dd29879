"""Whose structure a network takes over: that of MS-TCN, whose stages other networks repeat.

Global2Local (CVPR 2021) and RF-Next give what they find on MS-TCN to other networks. How they match layers could not be
read here; the rule is that of `roles`.
"""

from dataclasses import replace

from torch import nn

from rfnext import Structure
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.models import searched
from tasks.action_segmentation.models.network import network_of


def donor(config: Config) -> Config | None:
    """MS-TCN of the same sizes on the same data, trained likewise.

    The smoothing of ASRF is another loss, so that its weight says nothing of MS-TCN's, which is the default then. None
    for MS-TCN itself, and for C2F-TCN, which has no stages.
    """
    if config.model in ("ms_tcn", "c2f_tcn"):
        return None
    return replace(config, model="ms_tcn", smoothing=Config.smoothing if config.model == "asrf" else config.smoothing)


def roles(model: nn.Module) -> dict[str, tuple[int | None, int]]:
    """By searched layer of a network as designed: its stage and its dilation.

    So both convs of a dual dilated layer of MS-TCN++, and both branches of ASRF, follow the same stage of MS-TCN.
    """
    designed = Structure.read(model, searched)
    return {name: (network_of(model).stage_of(name), dilation) for name, (dilation,) in designed.items()}
