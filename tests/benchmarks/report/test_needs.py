"""What published rows take: hand-worked from measured steps."""

import dataclasses
from typing import Any

import pytest

from benchmarks.report import needs
from benchmarks.report.paper_rows import SPEECH, TABLES, Published


def table(preset: str) -> Published:
    return next(one for one in (*TABLES, *SPEECH) if one.preset == preset)


def measured(stage: str, step: float, **other: Any) -> dict[str, Any]:
    one = {"task": "action_segmentation", "preset": "gtea", "fields": {}, "stage": stage, "steps": 2, "epochs": 65}
    one |= {
        "measured_steps": 4,
        "validate_every": 5,
        "step_seconds": step,
        "validation_seconds": 4.0,
        "test_seconds": 10.0,
    }
    return one | {"peak_gib": 1.0, "data_gb": 0.3} | other


def test_a_row_takes_its_searches_trainings_and_scorings() -> None:
    gtea = table("gtea")
    lines = {line.method: line for line in gtea.lines if line.method and not line.fields}
    found = [measured("training", 1.0), measured("search", 2.0, peak_gib=2.0)]
    # 4 folds x 3 seeds. A training: 130 steps, 13 scorings of 4 s; then twice 10 s for the test part and 4 s more.
    plain = needs.need(gtea, lines["baseline"], found)
    assert plain.hours == pytest.approx(12 * (130 * 1 + 13 * 4 + 2 * 10 + 4) / 3600)
    assert (plain.steps, plain.disk) == (12 * 130, 0.3)
    single = needs.need(gtea, lines["local_single"], found)
    assert single.hours == pytest.approx(12 * (130 * 2 + 13 * 4 + 130 * 1 + 13 * 4 + 2 * 10 + 4) / 3600)
    assert single.memory == pytest.approx(2 * 2**30 / 1e9)
    searched = needs.need(gtea, lines["local_as_searched"], found)
    assert searched.hours == pytest.approx(12 * (130 * 2 + 13 * 4 + 2 * 10 + 4) / 3600)
    assert needs.need(gtea, lines["local_single"], found[:1]).hours is None  # nothing is guessed


def test_hours_from_less_than_a_tenth_of_two_epochs_are_marked() -> None:
    # Two epochs of 20 steps: 4 steps are a tenth, 3 are less.
    for measured_steps, mark in ((4, ""), (3, "~")):
        found = [measured("training", 1.0, steps=20, measured_steps=measured_steps)]
        line = next(line for line in needs.rows(found) if "gtea" in line[-1] and "baseline" in line[-1])
        hours = needs.need(table("gtea"), table("gtea").lines[0], found).hours
        assert hours is not None
        assert line[3] == f"{mark}{needs.rounded(hours)}"


def test_a_detector_has_steps_and_the_published_memory_and_no_hours() -> None:
    hrnet = table("coco-hrnet")
    searched, single = 12.9, 8.4
    for line, memory, trainings in zip(hrnet.lines, (single, searched, searched), (1, 2, 1), strict=True):
        one = needs.need(hrnet, line)
        # 117,266 images are 7,330 steps of 16.
        assert (one.steps, one.hours, one.memory) == (trainings * 20 * 7330, None, 8 * memory)


def test_every_row_is_listed_with_its_command_and_every_job_once() -> None:
    lines = needs.rows([])
    assert len(lines) == sum(line.method is not None for one in (*TABLES, *SPEECH) for line in one.lines)
    assert {line[-2] for line in lines} == {"not measured"}
    jobs = needs.jobs()
    assert len(jobs) == len(set(jobs))
    assert needs.Job.of(dataclasses.asdict(jobs[0]) | {"fields": jobs[0].fields}) == jobs[0]
