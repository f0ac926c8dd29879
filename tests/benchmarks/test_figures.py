"""Figures: which of them the records hold, what they show, and that the files are sound."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import figures, groups, record
from benchmarks.record import Cost, Record

DESIGNED = {"stages.0.conv.0": [1], "stages.0.conv.1": [2], "stages.1.conv.0": [4, 4], "stages.1.conv.1": [8, 2]}
FOUND = {"stages.0.conv.0": [1], "stages.0.conv.1": [3], "stages.1.conv.0": [2, 2], "stages.1.conv.1": [16, 2]}
ONE_SHOT = [{"step": 4, "structure": DESIGNED}, {"step": 8, "structure": FOUND, "probability": {}}]
LOCAL = [{"step": 0, "structure": DESIGNED}, {"step": 2, "structure": FOUND, "branches": {}}]
RANKED = [{"step": 0, "structure": FOUND, "validation": {"accuracy": 1.0}}] * 2
COST = Cost(5, 3.0, 700.0, "resident")


def texts(panels: list[figures.Panel]) -> list[str]:
    return [text.text or "" for text in figures.svg(panels).iter("text")]


@pytest.fixture
def drawn(write: Callable[..., Record], results: Path) -> Callable[..., dict[str, list[figures.Panel]]]:
    """Writes the baseline and one record per method with a history, and draws them."""

    def draw(**histories: list[dict[str, Any]]) -> dict[str, list[figures.Panel]]:
        write("baseline", 1, 0, 70.0, structure=DESIGNED)
        for method, history in histories.items():
            write(method, 1, 0, 71.0, structure=FOUND, history=history, search=COST)
        (found,) = groups.group(*record.read_all(results))
        return figures.panels(found)

    return draw


def test_a_baseline_alone_has_scores_only(drawn: Callable[..., dict[str, list[figures.Panel]]]) -> None:
    assert {kind: len(panels) for kind, panels in drawn().items()} == {"scores": 2}


def test_every_search_is_drawn_once_and_rankings_of_candidates_are_none(
    drawn: Callable[..., dict[str, list[figures.Panel]]],
) -> None:
    panels = drawn(
        random_search=RANKED,
        local_single=LOCAL,
        local_multi=LOCAL,
        one_shot_to_local_single=[*ONE_SHOT, *LOCAL[:1], LOCAL[1]],
    )["dilations"]
    titles = [panel.label for panel in panels]
    assert titles == [
        "Local search, fold 1, seed 0",
        "One-shot search, fold 1, seed 0",
        "Before and after local search",
    ]


def test_a_search_that_follows_another_says_so(drawn: Callable[..., dict[str, list[figures.Panel]]]) -> None:
    titles = [panel.label for panel in drawn(one_shot_to_local_single=[*ONE_SHOT, *LOCAL])["dilations"]]
    assert titles[:2] == ["One-shot search, fold 1, seed 0", "Local search after one-shot search, fold 1, seed 0"]


def test_a_map_shows_each_structure_against_the_designed_one(
    drawn: Callable[..., dict[str, list[figures.Panel]]],
) -> None:
    (panel,) = drawn(local_single=LOCAL, local_multi=LOCAL)["structures"]
    root = figures.svg([panel])
    # Equal structures of two methods are one row; axes are written out where they differ.
    assert [text for text in texts([panel]) if text.startswith("local")] == ["local_single f1 s0"]
    rows = [[value.text for value in row.iter("tspan")] for row in root.iter("text") if row.get("class") == "values"]
    assert rows == [["1", "2", "4", "8×2"], ["1", "3", "2", "16×2"]]
    # Five boxes in the colour of no difference, two larger ones of different strength, one smaller.
    boxes = sorted((path.get("class"), (path.get("d") or "").count("M")) for path in root.iter("path"))
    assert boxes == [("larger", 1), ("larger", 1), ("same", 5), ("smaller", 1)]
    titles = [title.text for rect in root.iter("rect") for title in rect.iter("title")]
    assert titles[1:3] == ["stages.0.conv.1: 2, 3", "stages.1.conv.0: 4, 2"]
    assert "stages.0" in texts([panel])


def test_a_merged_network_is_shown_by_what_its_search_found(
    write: Callable[..., Record], drawn: Callable[..., dict[str, list[figures.Panel]]]
) -> None:
    merged = {name: [1] * len(dilation) for name, dilation in FOUND.items()}
    write("local_merge", 1, 0, 71.0, structure=merged, history=LOCAL, search=COST)
    assert [text for text in texts(drawn(local_single=LOCAL)["structures"]) if text.startswith("local")] == [
        "local_single f1 s0"
    ]


def test_sums_of_dilations_are_those_of_the_structures(drawn: Callable[..., dict[str, list[figures.Panel]]]) -> None:
    shown = texts(drawn(local_single=LOCAL)["reach"])
    # Axes by their mean: 1 + 2 + 4 + 5 and 1 + 3 + 2 + 9.
    assert {"hand-designed: 12", "local_single: 15"} <= set(shown)


def test_an_interval_is_drawn_to_scale() -> None:
    rows = [figures.Interval("a", 2.0, 1.0), figures.Interval("b", -2.0, 2.0), figures.Interval("c", None)]
    panel = figures.intervals("difference", rows, zero=True)
    root = figures.svg([panel])
    marks = [group for group in root.iter("g") if (group.get("class") or "").startswith("mark")]
    (first, second) = [[float(mark.find("line").get(end)) for end in ("x1", "x2")] for mark in marks]  # type: ignore[union-attr]
    (zero,) = [float(line.get("x1") or 0) for line in root.iter("line") if line.get("class") == "zero"]
    unit = (first[1] - first[0]) / 2
    assert second[1] - second[0] == pytest.approx(4 * unit, abs=0.2)
    assert second[1] == pytest.approx(zero, abs=0.1)
    assert first[0] == pytest.approx(zero + unit, abs=0.2)
    assert "no result" in texts([panel])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-4.6, 4.1), (61.23, 61.27), (0.0, 100.0), (5.0, 5.0)])
def test_axes_have_round_ticks_within_their_ends(low: float, high: float) -> None:
    axis = figures._Axis(low, high, 0, 300)
    assert 2 <= len(axis.ticks) <= 9
    assert all(0 <= axis(tick) <= 300 for tick in axis.ticks)


def test_files_are_whole_and_follow_the_theme(
    drawn: Callable[..., dict[str, list[figures.Panel]]], tmp_path: Path
) -> None:
    for kind, panels in drawn(local_single=LOCAL).items():
        figures.save(tmp_path / f"{kind}.svg", panels)
        root = ElementTree.parse(tmp_path / f"{kind}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme: dark" in (root[1].text or "")
        width, height = float(root.get("width") or 0), float(root.get("height") or 0)
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            assert all(0 <= float(part.get("x") or -1) <= width for part in [*text] or [text])
            assert 0 <= float(text.get("y") or -1) <= height


def test_effective_fields_are_mean_curves_that_end_at_the_whole_gradient(
    write: Callable[..., Record], results: Path, receptive_field: dict[str, Any]
) -> None:
    (axis,) = receptive_field["axes"]
    wide = axis | {"edges": [-10.0, *axis["edges"], 10.0], "share": [0.1, 0.1, 0.6, 0.1, 0.1]}
    wide["radius"] = {"0.5": 0.0, "0.95": 8.0}
    write("baseline", 1, 0, 70.0, receptive_field=receptive_field)
    write("local_single", 1, 0, 70.0, receptive_field=receptive_field)
    write("local_single", 2, 0, 70.0, receptive_field=receptive_field | {"axes": [wide, wide]})
    write("local_multi", 1, 0, 70.0)
    (found,) = groups.group(*record.read_all(results))
    (panel,) = figures.panels(found)["receptive_fields"]
    said = texts([panel])
    assert {"hand-designed: 95 % within 4", "local_single: 95 % within 6.67"} <= set(said)
    assert "share of the gradient within so many frames" in said
    assert not [text for text in said if text.startswith("local_multi")]
    lines = [line.get("points") or "" for line in figures.svg([panel]).iter("polyline")]
    curves = [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]
    # Shares 0.5 and 1 of the designed field at edges 2 and 6; 0.5, 0.6 and 0.6 of the other's three axes at 2.
    (zero,) = [y for y in grid(panel) if y == max(grid(panel))]
    whole = min(y for curve in curves for _, y in curve)
    share = [[round((zero - y) / (zero - whole), 2) for _, y in curve] for curve in curves]
    assert share == [[0.5, 1.0], [0.57, 0.87, 1.0]]
    assert [[x for x, _ in curve] for curve in curves] == [sorted(x for x, _ in curve) for curve in curves]
    assert len({curve[0][0] for curve in curves}) == 1


def grid(panel: figures.Panel) -> list[float]:
    """Heights of the grid lines across."""
    paths = [path.get("d") or "" for path in figures.svg([panel]).iter("path") if "H" in (path.get("d") or "")]
    return [float(line.split()[1].partition("H")[0]) for path in paths for line in path.split("M")[1:]]
