"""Receptive-field search for convolutional networks: the method of RF-Next as a library for any PyTorch user.

Importing it needs nothing beyond torch.
"""

from importlib.metadata import PackageNotFoundError, version

from rfnext.conv import Conv, SearchConv, Where, everything
from rfnext.dilation import Bounds, Dilation, Rule, expectation, neighbours
from rfnext.fold import keep_branches, merge, plain_state_dict
from rfnext.functional import mixed_dilation_conv
from rfnext.local import LocalConfig, LocalSearch, Round
from rfnext.structure import Structure

try:
    __version__ = version("rfnext")
except PackageNotFoundError:  # used from a folder, not installed
    __version__ = "0+unknown"

__all__ = [
    "Bounds",
    "Conv",
    "Dilation",
    "LocalConfig",
    "LocalSearch",
    "Round",
    "Rule",
    "SearchConv",
    "Structure",
    "Where",
    "everything",
    "expectation",
    "keep_branches",
    "merge",
    "mixed_dilation_conv",
    "neighbours",
    "plain_state_dict",
]
