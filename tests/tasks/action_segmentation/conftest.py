"""Data folders that the tests of this folder share."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from tasks.action_segmentation import seglearn_sessions

SHARED = Path(__file__).parents[4] / "shared" / "data" / "action_segmentation"
VIDEOS = [f"s{subject}_{take}" for subject in range(1, 6) for take in "ab"]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory):
    """Folder of the embedded recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return seglearn_sessions.prepare()


@pytest.fixture
def root(tmp_path):
    """Ten videos s1_a, s1_b, s2_a, ... of 100, 107, 114, ... frames; fold 1 tests the last two.

    Frame t has the features t, 1000 + t, 2000 + t and 3000 + t, and class t // 10 % 3.
    """
    for folder in ("features", "groundTruth", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("2 background\n0 cut\n1 mix\n")
    for k, video in enumerate(VIDEOS):
        frames = np.arange(100 + 7 * k)
        np.save(tmp_path / f"features/{video}.npy", np.arange(4)[:, None] * 1000.0 + frames)
        names = [("cut", "mix", "background")[t // 10 % 3] for t in frames]
        (tmp_path / f"groundTruth/{video}.txt").write_text("\n".join(names) + "\n")
    for part, videos in (("train", VIDEOS[:8]), ("test", VIDEOS[8:])):
        (tmp_path / f"splits/{part}.split1.bundle").write_text("".join(f"{v}.txt\n" for v in videos))
    return tmp_path


@pytest.fixture
def ms_tcn_result(tmp_path):
    """The real labels of 50 Salads and what MS-TCN predicts on its split 1, in groundTruth/ and results/split_1/."""
    for name in ("mstcn_predictions_split1", "groundTruth_splits"):
        path = SHARED / f"50salads_{name}.tar.xz"
        if not path.is_file():
            pytest.skip(f"the real results are not in {SHARED}")
        with tarfile.open(path) as archive:
            # The first versions of Python 3.11 have no filters; later ones warn without.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            archive.extractall(tmp_path)
    return tmp_path / "50salads"
