"""What `--init` says of a file that no training can start from, in every task that has the option."""

import logging
from pathlib import Path

import pytest
import torch

from benchmarks import run
from rfnext import Structure

TASKS = ("coco_detection", "tts_vocoder")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "structure.json",
            "structure.json is not a readable checkpoint (it is JSON, as structure files are, which hold",
        ),
        ("other.pt", "error: unavailable: --init: "),
        ("hand", "hand; name it by --init"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_one_line(
    task: str,
    name: str,
    said: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Structure({"conv": (2,)}).save(tmp_path / "structure.json")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    line = [task, "baseline", "--init", str(tmp_path / name), "--results", str(tmp_path / "results")]
    assert run.main(line) == 3
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1]
    assert name in error.splitlines()[-1]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("task", TASKS)
def test_a_folder_is_wrong_usage(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not searched for files, which may take minutes."""
    with pytest.raises((SystemExit, run.UsageError)) as end:
        run.parse([task, "baseline", "--init", str(tmp_path)])
    text = capsys.readouterr().err + str(end.value)
    assert "a folder; name a file" in " ".join(text.replace("│", " ").split())
