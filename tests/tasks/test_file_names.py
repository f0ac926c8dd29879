"""Names that look the same: what every task says of a file that is there under the other form of an accent."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tasks.file_names import mend_missing

COMPOSED, APART = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def _two_forms(tmp_path: Path) -> None:
    (tmp_path / APART).touch()
    if (tmp_path / COMPOSED).exists():
        pytest.skip("this file system takes both forms for one name")
    (tmp_path / APART).unlink()


@pytest.mark.parametrize(("there", "wanted"), [(APART, COMPOSED), (COMPOSED, APART)])
def test_the_command_that_is_told_mends_it(there: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / f"caf{there} 1.wav").touch()
    missing = tmp_path / f"caf{wanted} 1.wav"
    told = mend_missing(missing, "add it")
    assert "a file is there whose name looks the same" in told
    command = told.partition("NFD): ")[2].replace("&& python", f"&& {sys.executable}")
    subprocess.run(command, shell=True, check=True)
    assert missing.exists()
    assert mend_missing(missing, "add it") == "add it"
    assert mend_missing(tmp_path / f"b{wanted}.wav", "add it") == "add it"
    assert mend_missing(tmp_path / "absent" / f"b{wanted}.wav", "add it") == "add it"


def test_a_file_under_each_of_both_names_stays(tmp_path: Path) -> None:
    for name in (f"b{COMPOSED}", f"b{APART}", f"c{APART}"):
        (tmp_path / name).write_text(ascii(name))
    command = mend_missing(tmp_path / f"c{COMPOSED}", "").partition("NFD): ")[2]
    subprocess.run(command.replace("&& python", f"&& {sys.executable}"), shell=True, check=True)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {
        f"b{COMPOSED}": ascii(f"b{COMPOSED}"),
        f"b{APART}": ascii(f"b{APART}"),
        f"c{COMPOSED}": ascii(f"c{APART}"),
    }


def test_a_folder_is_listed_once_for_many_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, real = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or real(folder))
    for number in range(100):
        assert mend_missing(tmp_path / f"{number}{COMPOSED}", "add it") == "add it"
    assert len(listed) == 1


@pytest.mark.parametrize("name", [f"{COMPOSED}\0/{COMPOSED}", f"\0{COMPOSED}", f"{COMPOSED * 200}/{COMPOSED}"])
def test_a_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    assert mend_missing(tmp_path / name, "add it") == "add it"


def test_every_check_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile = pytest.importorskip("soundfile")
    from PIL import Image

    from tasks.action_segmentation import check as videos
    from tasks.coco_detection import check as detection
    from tasks.semantic_segmentation import check as pixels
    from tasks.tts_vocoder import check as speech

    here, listed = f"v{APART}", f"v{COMPOSED}"
    for folder in ("features", "groundTruth", "splits", "images", "labels", "wavs", "annotations", "train", "val"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("0 a\n1 b\n")
    for part in ("train", "test"):
        (tmp_path / f"splits/{part}.split1.bundle").write_text(f"{listed}.txt\n")
    np.save(tmp_path / f"features/{here}.npy", np.zeros((2, 4)))
    (tmp_path / f"groundTruth/{here}.txt").write_text("a\nb\na\nb\n")
    assert videos.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("looks the same") >= 2
    image = Image.new("L", (8, 8))
    (tmp_path / "classes.txt").write_text("x\n")
    image.save(tmp_path / f"images/{listed}.png")
    image.save(tmp_path / f"labels/{here}.png")
    (tmp_path / "test.txt").write_text(f"{here}\n")
    assert pixels.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("looks the same") == 2
    soundfile.write(tmp_path / f"wavs/{here}.wav", np.ones(10), 22050)
    (tmp_path / "metadata.csv").write_text(f"{listed}|text\n")
    assert speech.main([str(tmp_path)]) == 1
    assert "looks the same" in capsys.readouterr().out
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]}
    for part in ("train", "val"):
        image.save(tmp_path / f"{part}/{here}.png")
        images = [{"id": 1, "file_name": f"{listed}.png", "width": 8, "height": 8}]
        content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
        (tmp_path / f"annotations/instances_{part}.json").write_text(json.dumps(content))
    assert detection.main([str(tmp_path), "--train", "train", "--test", "val"]) == 1
    assert capsys.readouterr().out.count("looks the same") == 2
