"""A small network of several kinds of layers, plain and in the middle of a search."""

import torch
from torch import nn

import rfnext
from rfnext.structure import searched_convs

CONFIG = rfnext.LocalConfig(interval=1, rounds=2, branches=3)


def network(padding_mode: str = "zeros") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode=padding_mode),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, (3, 2), stride=2, padding="valid"),
        nn.Conv2d(4, 4, 1),
        nn.ConvTranspose2d(4, 2, 3),
    )


def favour_the_widest(model: nn.Module) -> None:
    for conv in searched_convs(model).values():
        with torch.no_grad():
            conv.branch_weight[len(conv.dilations) - 1] = 0.05


def searched_network() -> tuple[nn.Sequential, rfnext.LocalSearch]:
    """A network in the middle of a search: one round was run, the branches differ in weight."""
    model = network()
    search = rfnext.LocalSearch(model, CONFIG)
    favour_the_widest(model)
    assert search.after_step()
    favour_the_widest(model)
    return model, search
