"""Whose structure a network takes over: that of MS-TCN, whose stages other networks repeat.

Global2Local (CVPR 2021) and RF-Next give what they find on MS-TCN to other networks; `roles` says to which layers.
"""

from dataclasses import replace

from tasks.action_segmentation.config import Config


def donor(config: Config) -> Config | None:
    """MS-TCN of the same sizes on the same data, trained likewise.

    The smoothing of ASRF is another loss, so that its weight says nothing of MS-TCN's, which is the default then. None
    for MS-TCN itself, and for C2F-TCN, which has no stages.
    """
    if config.model in ("ms_tcn", "c2f_tcn"):
        return None
    return replace(config, model="ms_tcn", smoothing=Config.smoothing if config.model == "asrf" else config.smoothing)
