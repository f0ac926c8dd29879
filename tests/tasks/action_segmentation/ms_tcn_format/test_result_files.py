"""Result files: written, and read as other tools write them."""

import numpy as np
import pytest

from tasks.action_segmentation.ms_tcn_format.result_files import read_prediction, write_prediction
from tasks.spec import DataError


def test_round_trip(tmp_path):
    path = tmp_path / "results" / "video"
    write_prediction(path, np.array(["cut", "cut", "mix"]))
    assert path.read_text() == "### Frame level recognition: ###\ncut cut mix"
    assert read_prediction(path) == ["cut", "cut", "mix"]


@pytest.mark.parametrize("text", ["a b\tb", "a\nb\nb\n\n", "# header\r\na b b\r\n", "\ufeffa b b"])
def test_reads_what_other_tools_write(tmp_path, text):
    (tmp_path / "video.txt").write_text(text, encoding="utf-8")
    assert read_prediction(tmp_path / "video.txt") == ["a", "b", "b"]


@pytest.mark.parametrize("text", ["", "\n\n", "### Frame level recognition: ###\n"])
def test_refuses_an_empty_file(tmp_path, text):
    (tmp_path / "video").write_text(text)
    with pytest.raises(DataError, match="video:1: no frame is labelled"):
        read_prediction(tmp_path / "video")


@pytest.mark.parametrize("names", [[], ["two words"], [""], ["#a"]])
def test_refuses_names_that_could_not_be_read_back(tmp_path, names):
    with pytest.raises(ValueError, match="cannot be written as a class name"):
        write_prediction(tmp_path / "video", names)
    assert not (tmp_path / "video").exists()
