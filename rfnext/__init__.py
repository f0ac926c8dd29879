"""Receptive-field search for convolutional networks: the method of RF-Next as a library for any PyTorch user.

It needs nothing beyond torch, which is imported when a name that needs it is first used: command lines show their help,
and programs read settings, without the seconds that torch takes.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rfnext._version import __version__

if TYPE_CHECKING:
    from rfnext import description, receptive_field  # by their names, rfnext.description.restore for example
    from rfnext.acceleration import accelerate, decelerate
    from rfnext.branches import keep_branches
    from rfnext.causal import is_causal
    from rfnext.convs.conv import SearchConv
    from rfnext.convs.padding import Anchor, Conv
    from rfnext.convs.searchable import Layers, Where, everything, of_kernel, of_type
    from rfnext.dilation import Bounds, Dilation, Rule, expectation, neighbours
    from rfnext.merging import merge, plain_state_dict
    from rfnext.ops.mixed_dilation_conv import mixed_dilation_conv
    from rfnext.ops.pins import pin_implementation, reproducible
    from rfnext.planning import LayerPlan, Plan, plan
    from rfnext.published.opening import open_published
    from rfnext.published.saving import save_published
    from rfnext.search.evolution import Evolution, EvolutionConfig, Scored, random_structure
    from rfnext.search.halving import halve
    from rfnext.search.local import LocalSearch
    from rfnext.search.local_config import LocalConfig
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

_NAMES = {
    "acceleration": "accelerate decelerate",
    "branches": "keep_branches",
    "causal": "is_causal",
    "convs.conv": "SearchConv",
    "convs.padding": "Anchor Conv",
    "convs.searchable": "Layers Where everything of_kernel of_type",
    "dilation": "Bounds Dilation Rule expectation neighbours",
    "merging": "merge plain_state_dict",
    "ops.mixed_dilation_conv": "mixed_dilation_conv",
    "ops.pins": "pin_implementation reproducible",
    "planning": "LayerPlan Plan plan",
    "published.opening": "open_published",
    "published.saving": "save_published",
    "search.evolution": "Evolution EvolutionConfig Scored random_structure",
    "search.halving": "halve",
    "search.local": "LocalSearch",
    "search.local_config": "LocalConfig",
    "search.one_shot": "OneShotConfig OneShotSearch powers_of_two",
    "search.protocol": "Round Search",
    "structure": "Structure",
}
"""Module -> the public names that it holds."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """A public name at its first use, see PEP 562. No module is called as a name: importing it would hide the name."""
    if name in ("description", "receptive_field"):
        return importlib.import_module(f"rfnext.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"rfnext.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
