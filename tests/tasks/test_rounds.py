"""Trainings that are too short for the rounds of their search: what is said, and when it is an error."""

import logging

import pytest
from torch import nn

from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch
from tasks.rounds import check_rounds, shortage

SHORT = "the training has {0} epochs, so {1} of the 4 rounds of its search are run, one every 3"


def local(rule="default"):
    return LocalSearch(nn.Sequential(nn.Conv1d(1, 1, 3)), LocalConfig(interval=3, rounds=4, rule=rule))


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (12, ""),
        (13, ""),
        (11, SHORT.format(11, 3) + "; lower --search.interval to 2 or raise --epochs"),
        (3, SHORT.format(3, 1) + "; lower --search.interval to 1 or raise --epochs"),
        (2, SHORT.format(2, 0) + "; dilations change once, at the end; lower --search.interval to 1 or raise --epochs"),
    ],
)
def test_a_short_training_says_how_many_rounds_it_has(length, said, caplog):
    with caplog.at_level(logging.WARNING):
        check_rounds(local(), length, "epochs")
    assert caplog.text.partition("rounds.py")[2].partition(" ")[2].strip() == said


def test_where_a_round_cannot_come_sooner_fewer_are_advised():
    said = "the training has 3 epochs, so 3 of the 4 rounds of its search are run, one every 1; "
    config = LocalConfig(interval=1, rounds=4)
    assert shortage(config, 3, "epochs") == said + "lower --search.rounds to 3 or raise --epochs"
    assert shortage(config, 4, "epochs") is None


def test_a_published_search_without_a_round_is_an_error():
    """By rule "paper" what is learnt after the last round is not used."""
    check_rounds(local("paper"), 3, "epochs")
    with pytest.raises(ValueError, match="2 iterations, so 0 of the 4 rounds.*it would find nothing; lower"):
        check_rounds(local("paper"), 2, "iterations")


def test_only_local_searches_have_rounds(caplog):
    one_shot = OneShotSearch(nn.Sequential(nn.Conv1d(1, 1, 3)), OneShotConfig((1, 2), interval=9))
    for search in (None, one_shot):
        check_rounds(search, 1, "epochs")
    assert not caplog.text
