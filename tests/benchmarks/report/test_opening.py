"""What the page opens on, against values worked by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.records.folder import read_all
from benchmarks.records.record import Cost, Record
from benchmarks.report import opening
from benchmarks.report.build import build
from benchmarks.report.gathered import Gathered, gather
from benchmarks.report.opening import best_tuned, chart, lines, sentences, tally
from benchmarks.report.study_pages import first_table
from tests.benchmarks.report.test_page import Parsed

BASELINE = {1: 50.0, 2: 60.0, 3: 70.0}
GAINS = {
    "tuned_single": (6.0, 6.0, 6.0),
    "local_single": (9.0, 10.0, 11.0),  # 10 +- 2.5: better than both
    "local_multi": (6.0, 7.0, 5.0),  # 6 +- 2.5: better than the hand design, not decided against tuning
    "one_shot_single": (-5.0, 0.0, 5.0),  # not decided
    "random_single": (-9.0, -9.0, -9.0),  # a control, counted with neither
}


@pytest.fixture
def found(write: Callable[..., Record], results: Path, search: Cost) -> Callable[..., Gathered]:
    """Writes the records above, of so many folds, and gathers them."""

    def make(folds: int = 3, **other: str) -> Gathered:
        for fold, before in list(BASELINE.items())[:folds]:
            write("baseline", fold, 0, before, **other)
            for method, gains in GAINS.items():
                write(method, fold, 0, before + gains[fold - 1], search=search, **other)
        return gather(read_all(results))[0]

    return make


def test_searches_are_counted_against_the_hand_design_and_against_tuning(found: Callable[..., Gathered]) -> None:
    one = found()
    assert best_tuned(one) == "tuned_single"
    hand, tuned = tally(one, "baseline"), tally(one, "tuned_single")
    assert hand is not None
    assert tuned is not None
    assert (hand.counts, hand.verdict) == ("2 of 3 better, 1 not decided", "yes")
    assert (tuned.counts, tuned.verdict) == ("1 of 3 better, 2 not decided", "in part")
    assert tuned.those("better") == ["local_single"]
    assert tuned.those("worse") == []


def test_the_answer_is_two_sentences_made_of_the_records(found: Callable[..., Gathered]) -> None:
    first, second = sentences(found())
    # Of a mean of 60 by 6 and 10 points.
    assert first.startswith("Against the hand design, yes: on synthetic toy signals, 2 of 3 ")
    assert "by 10 to 17 %" in first
    assert "tuned_single, accuracy 66.0" in second


def test_too_few_folds_decide_nothing(found: Callable[..., Gathered]) -> None:
    one = found(folds=2)
    first, _ = sentences(one)
    assert "cannot be said" in first
    assert "2 folds per method" in first
    assert chart(one) is None
    (row,) = lines([one]).rows
    assert str(row.entries[-1]) == "2 folds: too few to say"


def test_without_a_baseline_or_records_it_says_so(write: Callable[..., Record], results: Path) -> None:
    write("local_single", 1, 0, 70.0)
    (one,) = gather(read_all(results))
    assert "nothing can be said" in sentences(one)[0]
    assert "no records of load_forecasting" in sentences(None)[0]


def test_the_chart_shows_differences_in_place(found: Callable[..., Gathered]) -> None:
    drawn = chart(found())
    assert drawn is not None
    assert [bar.method for bar in drawn.bars] == ["tuned_single", "local_single", "local_multi", "one_shot_single"]
    assert [bar.kind for bar in drawn.bars] == ["tuning", "search", "search", "search"]
    tuned, local, multi, shot = drawn.bars
    assert tuned.left == tuned.mean == tuned.right  # the same gain in every fold
    assert shot.mean == drawn.zero
    scale = (local.mean - drawn.zero) / 10.0  # percent of the width per point
    assert multi.mean - drawn.zero == pytest.approx(6.0 * scale, abs=0.02)
    # Student's t over three folds, 4.303, of a standard deviation of 1.
    assert local.right - local.mean == pytest.approx(4.3027 / 3**0.5 * scale, abs=0.02)
    assert all(0 <= bar.left <= bar.right <= 100 for bar in drawn.bars)


def test_the_page_opens_on_the_lead(
    found: Callable[..., Gathered], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(folds=3, data="demand & <load>")
    monkeypatch.setattr(opening, "LEAD", ("toy", "tiny"))
    _, errors = build(results)
    assert errors == []
    parsed = Parsed((results / "index.html").read_text("utf-8"))
    order = ["Does it pay", "Against the hand design, yes", "minus that of the hand design", "One line per task"]
    places = [parsed.text.index(text) for text in order]
    assert places == sorted(places)
    assert len([one for tag, one in parsed.elements if (one.get("class") or "").startswith("bar ")]) == 5


def test_the_table_of_a_study() -> None:
    text = "Words.\n\n| `a` | b |\n|:--|--:|\n| **x** | 1.0 ± 0.5 |\n| y \\| z | 2 |\n\n| other | 3 |\n|--|--|\n"
    table = first_table(text, "A study")
    assert table is not None
    assert table.header == ["a", "b"]
    assert table.lines == [["x", "1.0 ± 0.5"], ["y | z", "2"]]
    assert first_table("no table", "A study") is None
