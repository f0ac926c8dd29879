"""The table of released detectors, and one of them as a file of ours."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is not installed")

import tasks.checkpoint
from tasks.coco_detection import configs, published
from tasks.coco_detection.config import PRESETS
from tests.tasks.coco_detection.test_configs import PUBLISHED
from tests.tasks.coco_detection.test_published import outputs, wrapped


def test_every_row_names_a_detector_its_step_and_a_checked_link() -> None:
    rows = published.released()
    assert set(rows) == {f"{name}-{kind}" for name in configs.DETECTORS for kind in ("multi", "single")}
    for name, row in rows.items():
        assert row.mode == ("search" if name.endswith("multi") else "fixed_single_branch")
        assert f"rfnext_{row.mode}_" in row.url
        assert f"local_search_config_step{PRESETS[f'coco-{row.detector}'].search.rounds}.json" in row.structure
        assert PUBLISHED[row.detector][0].split("__")[1] in row.structure
        assert set(row.metrics) == ({"PQ"} if row.detector == "panoptic" else {"box_mAP", "mask_mAP"})


@pytest.mark.slow
def test_a_released_detector_becomes_a_file_of_ours(shared: Path, tmp_path: Path) -> None:
    """PVTv2, which mmcv's tools pad otherwise than its design; trained for COCO's 80 classes."""
    structure = shared / "structures" / PUBLISHED["pvtv2"][0]
    theirs, _ = wrapped("pvtv2", "published", "fixed_multi_branch", structure, classes=80)
    torch.save({"meta": {}, "state_dict": theirs.state_dict()}, tmp_path / "weights.pth")
    rows = published.released()
    published.convert(rows["pvtv2-multi"], tmp_path / "weights.pth", structure, tmp_path / "pvtv2.pt")
    ours = tasks.checkpoint.load(tmp_path / "pvtv2.pt", "coco_detection")
    assert ours.facts["classes"][:2] == ["person", "bicycle"]
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(outputs(ours.model, x), outputs(theirs, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    with pytest.raises(ValueError, match="not trained in mode 'fixed_single_branch'"):
        published.convert(rows["pvtv2-single"], tmp_path / "weights.pth", structure, tmp_path / "single.pt")
    assert not (tmp_path / "single.pt").exists()


def test_what_is_missing_or_another_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert published.main(["res2net-multi", "--structure", "s.json"]) == 1
    assert "s.json is not there; get configs/rfnext/search_log/" in capsys.readouterr().err
    Path("a.pth").write_bytes(b"cut off")
    Path("s.json").write_text("{}")
    assert published.main(["res2net-multi", "--checkpoint", "a.pth", "--structure", "s.json"]) == 1
    assert "a.pth (7 bytes) is not the released file" in capsys.readouterr().err
