"""Receptive-field search for convolutional networks: the method of RF-Next as a library for any PyTorch user.

Importing it needs nothing beyond torch.
"""

from rfnext import description, receptive_field  # by their names, rfnext.description.restore for example
from rfnext._version import __version__
from rfnext.accelerate import accelerate, decelerate
from rfnext.branches import keep_branches
from rfnext.causal import is_causal
from rfnext.convs.conv import SearchConv
from rfnext.convs.padding import Anchor, Conv
from rfnext.convs.searchable import Layers, Where, everything, of_kernel, of_type
from rfnext.dilation import Bounds, Dilation, Rule, expectation, neighbours
from rfnext.merge import merge, plain_state_dict
from rfnext.ops.mixed_dilation_conv import mixed_dilation_conv
from rfnext.ops.pins import pin_implementation, reproducible
from rfnext.plan import LayerPlan, Plan, plan
from rfnext.published.opening import open_published
from rfnext.published.saving import save_published
from rfnext.search.evolution import Evolution, EvolutionConfig, Scored, random_structure
from rfnext.search.halving import halve
from rfnext.search.local import LocalConfig, LocalSearch
from rfnext.search.one_shot import OneShotConfig, OneShotSearch, powers_of_two
from rfnext.search.protocol import Round, Search
from rfnext.structure import Structure

__all__ = [
    "Anchor",
    "Bounds",
    "Conv",
    "Dilation",
    "Evolution",
    "EvolutionConfig",
    "LayerPlan",
    "Layers",
    "LocalConfig",
    "LocalSearch",
    "OneShotConfig",
    "OneShotSearch",
    "Plan",
    "Round",
    "Rule",
    "Scored",
    "Search",
    "SearchConv",
    "Structure",
    "Where",
    "__version__",
    "accelerate",
    "decelerate",
    "description",
    "everything",
    "expectation",
    "halve",
    "is_causal",
    "keep_branches",
    "merge",
    "mixed_dilation_conv",
    "neighbours",
    "of_kernel",
    "of_type",
    "open_published",
    "pin_implementation",
    "plain_state_dict",
    "plan",
    "powers_of_two",
    "random_structure",
    "receptive_field",
    "reproducible",
    "save_published",
]
