"""`kill -9` at random moments: the toy's cells end as if nothing had happened."""

import json
from pathlib import Path

import pytest

import tasks
from tests.faults import kill9


@pytest.mark.slow
@pytest.mark.fault
def test_a_cell_that_is_killed_and_run_again_is_equal(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["--kills", "3", "--task", "toy", "--family", "multi", "--preset", "slow", "--project", str(project)]
    status = kill9.main(line)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 0, said
    assert sum(one["kills"] for one in said) == 3
    assert all(one["equal"] for one in said)


def test_no_script_lists_the_tasks() -> None:
    """A new one is picked up."""
    root = Path(__file__).parents[2]
    for script in (".ci/run", "tests/faults/kill9.py"):
        text = (root / script).read_text("utf-8")
        assert not [name for name in tasks.names() if name in text], script
