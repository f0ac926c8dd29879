"""What `print(search)` says of a running search."""

import rfnext
from tests.rfnext.networks import CONFIG, favour_the_widest, network, searched_network


def test_a_summary_has_what_the_search_has() -> None:
    _, search = searched_network()
    summary = search.summary()
    assert (summary.step, summary.round, summary.search) == (1, 1, "LocalSearch")
    structure, probability = search.structure(), search.probability()
    assert {layer.layer for layer in summary.layers} == set(structure)
    for layer in summary.layers:
        assert layer.now == structure[layer.layer]
        assert layer.before == search.initial[layer.layer]
        assert layer.probability == probability[layer.layer]
        assert tuple(layer.branches) == search.convs[layer.layer].dilations


def test_the_table_shows_it() -> None:
    model = network()
    search = rfnext.OneShotSearch(model, rfnext.OneShotConfig((1, 2, 4), readout="argmax"))
    assert "0 of 2 dilations moved" in str(search)
    favour_the_widest(model)
    lines = str(search).splitlines()
    assert "2 of 2 dilations moved" in lines[0]
    # softmax of (0.01, 0.01, 0.05) / 0.01: e^0, e^0 and e^4 of 56.6
    assert lines[3].split() == ["0", "3", "1", "4", "1:", "0.02", "2:", "0.02", "4:", "0.96"]
    assert lines[4].split() == ["3", "3x2", "1", "4x1", "1:", "0.02", "2x1:", "0.02", "4x1:", "0.96"]


def test_a_search_that_has_ended_says_so() -> None:
    model, search = searched_network()
    assert CONFIG.rounds > search.round
    search.structure().apply(model)
    assert "this search has ended" in str(search)
