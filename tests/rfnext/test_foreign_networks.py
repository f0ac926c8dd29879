"""Networks of timm, torchvision, transformers and other libraries keep every promise of docs/networks.md."""

import re
from pathlib import Path

import pytest

from tests.rfnext.foreign_course import run
from tests.rfnext.foreign_networks import NETWORKS, library_of

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def networks(refused: bool) -> list[object]:
    """Names of the networks that a search takes, or refuses, without those that only the page's script tries."""
    tried = {name: foreign for name, foreign in NETWORKS.items() if not foreign.apart}
    chosen = {name: foreign for name, foreign in tried.items() if bool(foreign.refused) is refused}
    return [pytest.param(name, marks=[pytest.mark.slow] * foreign.slow) for name, foreign in chosen.items()]


@pytest.mark.filterwarnings("ignore")  # of other libraries
@pytest.mark.parametrize("name", networks(refused=False))
def test_a_network_comes_through_the_search_and_all_that_follows(name: str) -> None:
    """It fails where an output, gradient or checkpoint is not what the definition says; see `Course`."""
    pytest.importorskip(library_of(name).replace("-", "_"))
    measured = run(NETWORKS[name])
    assert measured.searched + measured.idle + len(measured.passed_over) == measured.convs


@pytest.mark.parametrize("name", networks(refused=True))
def test_a_network_without_a_conv_to_search_is_refused_by_its_reason(name: str) -> None:
    pytest.importorskip(library_of(name).replace("-", "_"))
    with pytest.raises(ValueError, match=re.escape(NETWORKS[name].refused)):
        run(NETWORKS[name])


def test_the_page_lists_every_network() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert rows[-len(NETWORKS) :] == [name.partition("/")[2] for name in NETWORKS]


def test_the_tests_that_the_page_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert named
    for path, test in named:
        assert f"def {test}(" in (PAGE.parents[1] / path).read_text(encoding="utf-8")
