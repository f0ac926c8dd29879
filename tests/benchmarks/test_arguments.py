"""The end of a command line: its status is what it says, whatever is typed meanwhile."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from benchmarks import run
from benchmarks.planning.plan import Request, make_plan
from benchmarks.records.folder import read_all

ROOT = Path(__file__).parents[2]

INTERRUPTED = """
import atexit, os, signal, sys
from benchmarks.arguments import leave
atexit.register(os.kill, os.getpid(), signal.SIGINT)  # a Ctrl-C while Python ends
{end}(130)
"""


@pytest.mark.parametrize(("end", "clean"), [("leave", True), ("sys.exit", False)])
def test_a_ctrl_c_at_the_end_changes_nothing(end: str, clean: bool) -> None:
    code = INTERRUPTED.format(end=end)
    # Whoever started the tests in the background has switched Ctrl-C off for all their children.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ((done.returncode, done.stderr) == (130, "")) is clean


IDLE = [
    ("action_segmentation --model c2f_tcn --stages 2", "--stages is of no effect on c2f_tcn; leave it out"),
    ("action_segmentation --model c2f_tcn --dropout 0.1", "--dropout is of no effect on c2f_tcn"),
    ("action_segmentation --prediction-layers 3", "--prediction-layers is of no effect on ms_tcn, only on ms_tcn_pp"),
    ("coco_detection --test-part mine", "--test-part is of no effect on dataset scenes"),
    ("coco_detection --train-part mine", "--train-part is of no effect on dataset scenes"),
    (
        "coco_detection --preset folder --digits 3",
        "--digits is of no effect on dataset folder, only on the embedded one",
    ),
    ("coco_detection --preset folder --folds 1 2", "--folds is of no effect on dataset folder"),
    ("coco_detection --preset coco-res2net --image 512", "--image is of no effect at the size published"),
    ("semantic_segmentation --test 0.3", "--test is of no effect on dataset scenes"),
    ("semantic_segmentation --preset folder --scenes 9", "--scenes is of no effect on dataset folder"),
    ("semantic_segmentation --backbone resnet50 --width 64", "--width is of no effect on resnet50 of deep"),
    ("load_forecasting --split 3000 4000 5000 --folds 2", "--folds is of no effect where split gives the ends"),
    ("tts_vocoder --channels 8", "--channels is of no effect on source_filter, which has layers and dim"),
    ("tts_vocoder --discriminators period", "--discriminators is of no effect where no recipe is gan"),
]


@pytest.mark.parametrize(("line", "said"), IDLE, ids=[line for line, _ in IDLE])
def test_an_option_that_would_be_ignored_is_refused(line: str, said: str, tmp_path: Path) -> None:
    task, *rest = line.split()
    with pytest.raises(run.UsageError, match=re.escape(said)):
        run.parse([task, "baseline", *rest])
    preset = rest.pop(1) if rest[0] == "--preset" else "tiny"
    rest = rest[1:] if rest[0] == "--preset" else rest
    with pytest.raises(run.UsageError, match=re.escape(said)):
        make_plan(Request(preset, tmp_path, (task,), ("baseline",), overrides=rest), read_all(tmp_path))


def test_an_option_of_upernet_is_taken_whatever_its_backbone(tmp_path: Path) -> None:
    """Of DeepLabV3 this backbone is torchvision's, whose head has no other width."""
    rest = ["--network", "upernet", "--backbone", "resnet50", "--width", "64"]
    plan = make_plan(
        Request("tiny", tmp_path, ("semantic_segmentation",), ("baseline",), overrides=rest), read_all(tmp_path)
    )
    assert {cell.config.width for table in plan.tables for cell in table.missing} == {64}


@pytest.mark.parametrize("name", tasks.names())
def test_what_may_have_no_effect_is_a_field(name: str) -> None:
    for config in tasks.load(name).presets.values():
        assert config.without_effect().keys() <= {field.name for field in dataclasses.fields(config)}


def test_a_suite_of_several_presets_refuses_it_too(tmp_path: Path) -> None:
    request = Request("paper", tmp_path, ("coco_detection",), ("baseline",), overrides=["--image", "512"])
    with pytest.raises(run.UsageError, match="--image is of no effect at the size published; leave it out"):
        make_plan(request, read_all(tmp_path))
