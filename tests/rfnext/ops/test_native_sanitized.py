"""The kernels for CPUs read and write only what is theirs; `sanitized_kernels` calls them more often."""

import json
from pathlib import Path

import pytest

from tests.rfnext.ops import sanitized_kernels


@pytest.mark.slow
def test_sanitizers_have_nothing_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    status = sanitized_kernels.main(["--calls", "40"])
    if status == 2:
        pytest.skip("gcc has no sanitizers here, or did not come to an end")
    said = capsys.readouterr()
    assert status == 0, said.out + said.err
    counts = json.loads(said.out.splitlines()[-1])
    assert (counts["calls"], counts["reports"], counts["wrong"]) == (40, 0, 0)
    assert counts["native"] > 20


@pytest.mark.slow
def test_a_compiler_that_ran_out_of_time_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if sanitized_kernels.preloaded() is None:
        pytest.skip("gcc has no sanitizers here")
    script = tmp_path / "cc"
    # Modules of tests compile the kernels when they are imported; that is not what is tried here.
    script.write_text('#!/bin/sh\ncase "$*" in *sanitize*) exec sleep 60 ;; *) exit 1 ;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(sanitized_kernels, "SECONDS", 2.0)
    assert sanitized_kernels.main(["--calls", "1"]) == sanitized_kernels.NOT_TRIED
    assert "took more than 2 seconds" in capsys.readouterr().err
