"""The networks, by name. Each is a file here, an entry of `NETWORKS` and of `config.Model`, and a preset."""

from collections.abc import Callable, Mapping
from functools import partial

from rfnext import Conv
from tasks.action_segmentation import datasets
from tasks.action_segmentation.config import Config, Model
from tasks.action_segmentation.models.asformer import ASFormer
from tasks.action_segmentation.models.asrf import ASRF
from tasks.action_segmentation.models.c2f_tcn import C2FTCN
from tasks.action_segmentation.models.layers import DilatedConv
from tasks.action_segmentation.models.ltcontext import LTContext
from tasks.action_segmentation.models.multi_stage import ms_tcn, ms_tcn_pp
from tasks.action_segmentation.models.network import Network
from tasks.spec import Facts, names_in

__all__ = [
    "ASRF",
    "C2FTCN",
    "NETWORKS",
    "ASFormer",
    "LTContext",
    "Network",
    "build",
    "ms_tcn",
    "ms_tcn_pp",
    "rebuild",
    "searched",
]


def _multi_stage(network: Callable[..., Network], config: Config, features: int, classes: int) -> Network:
    sizes = {"stages": config.stages, "layers": config.layers, "maps": config.maps, "dropout": config.dropout}
    return network(features, classes, **sizes)


def _ms_tcn_pp(config: Config, features: int, classes: int) -> Network:
    sizes = {"stages": config.stages, "maps": config.maps, "dropout": config.dropout}
    return ms_tcn_pp(features, classes, layers=(config.prediction_layers, config.layers), **sizes)


def _c2f_tcn(config: Config, features: int, classes: int) -> Network:
    return C2FTCN(features, classes, layers=config.layers, maps=config.maps)


NETWORKS: Mapping[Model, Callable[[Config, int, int], Network]] = {
    "ms_tcn": partial(_multi_stage, ms_tcn),
    "ms_tcn_pp": _ms_tcn_pp,
    "asrf": partial(_multi_stage, ASRF),
    "c2f_tcn": _c2f_tcn,
    "asformer": partial(_multi_stage, ASFormer),
    "ltcontext": partial(_multi_stage, LTContext),
}
"""Functions of the config, D and the number of classes."""


def build(config: Config) -> Network:
    """The untrained network for the config's data; torch's seed decides its weights.

    Raises DataError if there is no usable data.
    """
    return rebuild(config, datasets.facts(config))


def rebuild(config: Config, facts: Facts) -> Network:
    """The untrained network for data of these facts (`datasets.facts`)."""
    return NETWORKS[config.model](config, facts["features"], len(names_in(facts, "classes")))


def searched(name: str, conv: Conv) -> bool:
    """The `Where` of all networks: their convs of kernel 3."""
    return isinstance(conv, DilatedConv)
