"""The kernels for CPUs read and write only what is theirs; `sanitized_kernels` calls them more often."""

import json

import pytest

from tests.rfnext.ops import sanitized_kernels


@pytest.mark.slow
def test_sanitizers_have_nothing_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    status = sanitized_kernels.main(["--calls", "40"])
    if status == 2:
        pytest.skip("gcc has no sanitizers here")
    said = capsys.readouterr()
    assert status == 0, said.out + said.err
    counts = json.loads(said.out.splitlines()[-1])
    assert (counts["calls"], counts["reports"], counts["wrong"]) == (40, 0, 0)
    assert counts["native"] > 20
