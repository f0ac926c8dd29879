"""Metrics against an independent slow version, hand-worked values and a real MS-TCN result."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.action_segmentation.metrics import edit_score, f1_counts, score, segments

RULES = ("i", "i+1")


# The slow version: frame by frame, every predicted segment against every true one, a full edit table.


def slow_segments(labels, background, last_segment):
    runs, start = [], 0
    for t in range(1, len(labels) + 1):
        if t == len(labels) or labels[t] != labels[start]:
            end = t - 1 if t == len(labels) and last_segment == "i" else t
            runs.append((labels[start], start, end))
            start = t
    return [run for run in runs if run[0] not in background]


def slow_edit(prediction, truth, background):
    p = [run[0] for run in slow_segments(prediction, background, "i+1")]
    t = [run[0] for run in slow_segments(truth, background, "i+1")]
    table = [[max(i, j) if min(i, j) == 0 else 0 for j in range(len(t) + 1)] for i in range(len(p) + 1)]
    for i in range(1, len(p) + 1):
        for j in range(1, len(t) + 1):
            substituted = table[i - 1][j - 1] + (p[i - 1] != t[j - 1])
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, substituted)
    return 100.0 * (1 - table[-1][-1] / max(len(p), len(t))) if p or t else 100.0


def slow_counts(prediction, truth, overlap, background, last_segment):
    true = slow_segments(truth, background, last_segment)
    taken = [False] * len(true)
    tp = fp = 0
    for label, start, end in slow_segments(prediction, background, last_segment):
        best, best_iou = None, 0.0
        for k, (true_label, true_start, true_end) in enumerate(true):
            intersection = min(end, true_end) - max(start, true_start)
            union = max(end, true_end) - min(start, true_start)
            if true_label == label and union > 0 and intersection / union > best_iou:
                best, best_iou = k, intersection / union
        if best is not None and best_iou >= overlap and not taken[best]:
            taken[best] = True
            tp += 1
        else:
            fp += 1
    return tp, fp, taken.count(False)


def slow_score(pairs, background, last_segment):
    hits = [p == t for prediction, truth in pairs for p, t in zip(prediction, truth, strict=True)]
    edits = [slow_edit(prediction, truth, background) for prediction, truth in pairs]
    result = {"accuracy": 100 * sum(hits) / len(hits), "edit": sum(edits) / len(edits)}
    for percent in (10, 25, 50):
        rows = [slow_counts(p, t, percent / 100, background, last_segment) for p, t in pairs]
        tp, fp, fn = (sum(column) for column in zip(*rows, strict=True))
        result[f"f1@{percent}"] = 200 * tp / (2 * tp + fp + fn) if tp + fp + fn else 100.0
    return result


@st.composite
def videos(draw):
    """Pairs of one length; short runs and few classes, so that ties, splits and empty foregrounds are
    common."""
    runs = st.lists(st.tuples(st.sampled_from(["background", "a", "b", "c"]), st.integers(1, 9)), min_size=1)

    def frames(drawn):
        return [label for label, length in drawn for _ in range(length)]

    first, second = frames(draw(runs)), frames(draw(runs))
    length = min(len(first), len(second))
    return first[:length], second[:length]


@pytest.mark.parametrize("last_segment", RULES)
@pytest.mark.parametrize("background", [("background",), ()])
@given(pairs=st.lists(videos(), min_size=1, max_size=4))
def test_equals_the_slow_version(pairs, background, last_segment):
    fast = score(pairs, background=background, last_segment=last_segment)
    assert fast == pytest.approx(slow_score(pairs, background, last_segment), abs=1e-9)
    for prediction, truth in pairs:
        assert edit_score(prediction, truth, background) == pytest.approx(slow_edit(prediction, truth, background))
        for overlap in (0.1, 0.3, 1.0):
            arguments = prediction, truth, overlap, background, last_segment
            assert f1_counts(*arguments) == slow_counts(*arguments)


@given(pair=videos(), last_segment=st.sampled_from(RULES))
def test_names_and_indices_score_alike(pair, last_segment):
    index = {"background": 0, "a": 1, "b": 2, "c": 3}
    indices = tuple(np.array([index[name] for name in labels], dtype=np.int32) for labels in pair)
    by_index = score([indices], background=[0], last_segment=last_segment)
    assert by_index == score([pair], last_segment=last_segment)


@given(pair=videos())
def test_a_perfect_prediction_scores_100(pair):
    assert set(score([(pair[1], pair[1])]).values()) == {100.0}


def test_segments_end_where_the_next_one_starts():
    label, start, end = segments(list("aabccc"))
    assert (label.tolist(), start.tolist(), end.tolist()) == (["a", "b", "c"], [0, 2, 3], [2, 3, 6])


def test_hand_worked_scores():
    # truth       a [0, 4)   b [4, 8)   background [8, 10)   a [10, 12)
    # prediction  a [0, 3)   b [3, 5)   a [5, 6)   b [6, 8)   a [8, 12)
    truth = list("aaaabbbb") + ["background"] * 2 + list("aa")
    prediction = list("aaabbabbaaaa")
    # Right frames: 0-2, 4, 6, 7, 10, 11. Edit: "ababa" to "aba" takes 2 of 5.
    # IoU: a 3/4; b 1/5 with b; a alone; b 2/4 with b; a 2/4 with the last a.
    scores = score([(prediction, truth)])
    assert scores == pytest.approx(
        {
            "accuracy": 100 * 8 / 12,
            "edit": 60.0,
            "f1@10": 100 * 6 / 8,  # tp: first a, first b, last a; fp: the a inside, the second b
            "f1@25": 100 * 6 / 8,  # the second b takes b instead
            "f1@50": 100 * 6 / 8,
        }
    )
    assert f1_counts(prediction, truth, 0.5, ["background"]) == (3, 2, 0)
    # Ending the last segments at 11 instead of 12 leaves it an overlap of 1/3.
    assert f1_counts(prediction, truth, 0.5, ["background"], "i") == (2, 3, 1)
    assert f1_counts(prediction, truth, 0.25, ["background"], "i") == (3, 2, 0)


def test_equal_overlaps_go_to_the_first_true_segment():
    truth, prediction = list("aaabbaaa"), list("aaaaaaaa")
    # IoU 3/8 with either a: one of them stays unfound.
    assert f1_counts(prediction, truth, 0.25) == (1, 0, 2)


def test_a_true_segment_counts_once():
    truth, prediction = list("aaaaaaaaaa"), list("aaaabaaaaa")
    assert f1_counts(prediction, truth, 0.25) == (1, 2, 0)


@pytest.mark.defect(31)
def test_a_last_segment_of_one_frame_is_lost_by_rule_i():
    truth = list("aaab")
    assert f1_counts(truth, truth, 0.1, last_segment="i+1") == (2, 0, 0)
    assert f1_counts(truth, truth, 0.1, last_segment="i") == (1, 1, 1)


def test_equal_segments_around_background_stay_two():
    truth = ["a", "background", "a"]
    assert edit_score(["a", "a", "a"], truth, ["background"]) == 50.0


def test_folds_pool_frames_and_segments_but_average_edit():
    good, bad = (["a"] * 9, ["a"] * 9), (["a"], ["b"])
    scores = score([good, bad])
    assert scores == {"accuracy": 90.0, "edit": 50.0, "f1@10": 50.0, "f1@25": 50.0, "f1@50": 50.0}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((["a"], ["a", "a"]), "the prediction has 1 frames, the truth 2"),
        ((["a"], [1]), "names or integers for both"),
        (([], []), "non-empty"),
        (([[1]], [[1]]), "1-d"),
        (([0.5], [0.5]), "names or of integers"),
    ],
)
def test_bad_pairs(pair, message):
    with pytest.raises(ValueError, match=message):
        score([pair])


def test_bad_arguments():
    with pytest.raises(ValueError, match="nothing to score"):
        score([])
    with pytest.raises(ValueError, match="last_segment is 'end'"):
        score([(["a"], ["a"])], last_segment="end")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="overlap is 25"):
        f1_counts(["a"], ["a"], 25)


@pytest.mark.parametrize("last_segment", RULES)
def test_real_ms_tcn_result(ms_tcn_result, last_segment):
    """Split 1 of 50 Salads; the expected figures are those of shared/data/SOURCES.md, by the i+1 rule. By i they are
    the same here: no video ends on a foreground segment that is short enough to matter."""
    pairs = []
    for path in sorted((ms_tcn_result / "results" / "split_1").iterdir()):
        truth = (ms_tcn_result / "groundTruth" / path.name).read_text().split()
        # Every second frame was predicted and repeated, so videos of odd length have a frame too many.
        pairs.append((path.read_text().splitlines()[1].split()[: len(truth)], truth))
    scores = score(pairs, last_segment=last_segment)
    expected = {"accuracy": 77.45, "edit": 67.00, "f1@10": 73.18, "f1@25": 71.10, "f1@50": 63.62}
    assert {name: round(value, 2) for name, value in scores.items()} == expected
    assert scores == pytest.approx(slow_score(pairs, ("background",), last_segment))
