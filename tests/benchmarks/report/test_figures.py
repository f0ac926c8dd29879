"""Figures: which of them the records hold, what they show, and that the files are sound."""

import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from benchmarks.methods.table import METHODS
from benchmarks.records.folder import read_all
from benchmarks.records.record import Cost, Record
from benchmarks.report import figures
from benchmarks.report.figure_layout import arrange, grid, width
from benchmarks.report.gathered import Gathered, gather

DESIGNED = {"stages.0.conv.0": [1], "stages.0.conv.1": [2], "stages.1.conv.0": [4, 4], "stages.1.conv.1": [8, 2]}
FOUND = {"stages.0.conv.0": [1], "stages.0.conv.1": [3], "stages.1.conv.0": [2, 2], "stages.1.conv.1": [16, 2]}
ONE_SHOT = [{"step": 4, "structure": DESIGNED}, {"step": 8, "structure": FOUND, "probability": {}}]
LOCAL = [{"step": 0, "structure": DESIGNED}, {"step": 2, "structure": FOUND, "branches": {}}]
RANKED = [{"step": 0, "structure": FOUND, "validation": {"accuracy": 1.0}}] * 2


@pytest.fixture
def found(write: Callable[..., Record], results: Path, search: Cost) -> Callable[..., Gathered]:
    """Writes the baseline and one record per method with a history, and gathers them."""

    def one(**histories: list[dict[str, Any]]) -> Gathered:
        write("baseline", 1, 0, 70.0, structure=DESIGNED)
        for method, history in histories.items():
            write(method, 1, 0, 71.0, structure=FOUND, history=history, search=search)
        (made,) = gather(read_all(results))
        return made

    return one


def texts(drawing: bytes) -> list[str]:
    return [
        "".join(one.itertext()).strip() for one in ElementTree.fromstring(drawing).iter() if one.tag.endswith("text")
    ]


def test_a_baseline_alone_has_no_figure(found: Callable[..., Gathered]) -> None:
    assert figures.draw(found()) == {}


def test_scores_are_drawn_where_there_are_intervals(write: Callable[..., Record], results: Path) -> None:
    for fold in (1, 2):
        write("baseline", fold, 0, 70.0 + fold)
        write("local_single", fold, 0, 71.0 + fold)
    (made,) = gather(read_all(results))
    drawn = figures.draw(made)
    assert set(drawn) == {"scores", "differences"}
    assert {"baseline", "local_single", "accuracy (%) ↑", "loss (nats) ↓"} <= set(texts(drawn["scores"]))
    assert "baseline" not in texts(drawn["differences"])


def test_panels_lie_beside_each_other_with_room_for_their_labels() -> None:
    for labels, room in ((["baseline"] * 2, 0.3), (["b" * 40] * 9, 1.5), (["b" * 400] * 9, 1.5)):  # the last is cut
        figure, panels = grid(4, 2.0, same_rows=True)
        arrange(figure, panels, 0.1 + width(labels), 0.15, 0.27, 0.2)
        across, high = figure.get_size_inches()
        boxes = [panel.get_position() for panel in panels]
        assert boxes[0].x0 * across >= room
        assert all(left.x1 + 0.1 / across < right.x0 for left, right in itertools.pairwise(boxes[:3]))
        assert boxes[3].y1 + 0.5 / high < boxes[0].y0, "a title and ticks' labels between the rows"
        assert all(0 < box.x0 < box.x1 < 1 and 0 < box.y0 < box.y1 < 1 for box in boxes)


def test_no_method_is_longer_than_the_room_for_it() -> None:
    # The font that figures name first, and one of the widest.
    font = FontProperties(family="DejaVu Sans")
    for name in (*METHODS, *(f"{name}, fold 5, seed 2" for name in METHODS)):
        measured = TextPath((0, 0), name, size=7, prop=font).get_extents().width / 72
        assert measured < width([name]), name


def test_ticks_of_structures_are_whole(found: Callable[..., Gathered]) -> None:
    said = texts(figures.draw(found(local_single=LOCAL))["structures"])
    assert {"−1", "0", "1"} <= set(said)
    assert not [text for text in said if "." in text]


def test_every_search_is_drawn_once_and_rankings_of_candidates_are_none(found: Callable[..., Gathered]) -> None:
    made = found(
        random_single=RANKED, local_single=LOCAL, local_multi=LOCAL, one_shot_to_local_single=[*ONE_SHOT, *LOCAL]
    )
    assert list(figures.trajectories(made).values()) == [LOCAL, ONE_SHOT]


def test_figures_without_histories_need_what_lines_hold(found: Callable[..., Gathered]) -> None:
    made = found(local_single=LOCAL)
    without = Gathered(made.task, made.preset, [one.model_copy(update={"history": []}) for one in made.records])
    assert set(figures.draw(made)) - set(figures.draw(without)) == {"trajectories"}
    assert figures.draw(made)["dilations"] == figures.draw(without)["dilations"]


def test_equal_structures_of_two_methods_are_drawn_once(found: Callable[..., Gathered]) -> None:
    made = found(local_single=LOCAL, local_multi=LOCAL)
    assert figures.found_structures(made, DESIGNED) == {"local_single": {(1, 0): FOUND}}
    said = texts(figures.draw(made)["dilations"])
    assert {"hand design", "local_single"} <= set(said)
    assert "local_multi" not in said


def test_a_merged_network_does_not_say_what_its_search_found(
    write: Callable[..., Record], found: Callable[..., Gathered], search: Cost
) -> None:
    merged = {name: [1] * len(dilation) for name, dilation in FOUND.items()}
    write("local_merge", 1, 0, 71.0, structure=merged, history=LOCAL, search=search)
    assert figures.found_structures(found(), DESIGNED) == {}


def test_structures_of_other_layers_are_left_out(
    write: Callable[..., Record], found: Callable[..., Gathered], search: Cost
) -> None:
    write("local_single", 1, 0, 71.0, structure={"another": [3]}, search=search)
    assert figures.found_structures(found(), DESIGNED) == {}


def test_files_are_whole_equal_and_follow_the_theme(found: Callable[..., Gathered]) -> None:
    made = found(local_single=LOCAL)
    drawn = figures.draw(made)
    assert set(drawn) == {"differences", "dilations", "structures", "trajectories"}
    assert figures.draw(made) == drawn
    for content in drawn.values():
        assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
        text = content.decode()
        assert "prefers-color-scheme: dark" in text
        assert "currentColor" in text
        assert figures.INK not in text
        assert 'href="http' not in text


def test_effective_fields_are_mean_curves_that_end_at_the_whole_gradient(
    write: Callable[..., Record], results: Path, receptive_field: dict[str, Any]
) -> None:
    (axis,) = receptive_field["axes"]
    wide = axis | {"edges": [-10.0, *axis["edges"], 10.0], "share": [0.1, 0.1, 0.6, 0.1, 0.1]}
    wide["radius"] = {"0.5": 0.0, "0.95": 8.0}
    assert figures.within(axis) == {2.0: 0.5, 6.0: 1.0}
    curve = figures.mean_curve([figures.within(one) for one in (axis, wide, wide)])
    assert [*curve] == [2.0, 6.0, 10.0]
    assert [*curve.values()] == pytest.approx([1.7 / 3, 2.6 / 3, 1.0])
    write("baseline", 1, 0, 70.0, receptive_field=receptive_field)
    write("local_single", 1, 0, 70.0, receptive_field=receptive_field)
    write("local_single", 2, 0, 70.0, receptive_field=receptive_field | {"axes": [wide, wide]})
    write("local_multi", 1, 0, 70.0)
    (made,) = gather(read_all(results))
    said = texts(figures.draw(made)["receptive_fields"])
    mean = statistics.fmean((4, 8, 8))
    assert {"baseline: 95 % within 4", f"local_single: 95 % within {mean:.3g}"} <= set(said)
    assert not [text for text in said if text.startswith("local_multi")]


def test_a_smaller_file_keeps_scales_text_and_hundredths_of_a_point() -> None:
    path, moved = (
        '<path d="M 1.23456 -0.001\nL 100.0009 2\n"/>',
        '<g transform="translate(3.14159 2) scale(0.015625)"/>',
    )
    drawn = f"<g>\n  {path}\n  {moved}\n</g>"
    assert figures.smaller(drawn) == (
        '<g>\n<path d="M 1.23 -0 L 100 2\n"/>\n<g transform="translate(3.14 2) scale(0.015625)"/>\n</g>'
    )
    assert figures.smaller('<text x="1.5">0.12345</text>') == '<text x="1.5">0.12345</text>'
