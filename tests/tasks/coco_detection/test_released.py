"""The table of released detectors, and one of them as a file of ours."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="mmdet is not installed")

from tasks.coco_detection import configs, predict, published
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
def test_a_released_detector_opens(shared: Path, tmp_path: Path) -> None:
    """PVTv2, which mmcv's tools pad otherwise than its design; trained for COCO's 80 classes."""
    structure = shared / "structures" / PUBLISHED["pvtv2"][0]
    theirs, _ = wrapped("pvtv2", "published", "fixed_multi_branch", structure, classes=80)
    torch.save({"meta": {}, "state_dict": theirs.state_dict()}, tmp_path / "weights.pth")
    rows = {name: row._replace(url="a.pth") for name, row in published.released().items()}
    ours = published.open_released(rows["pvtv2-multi"], tmp_path / "weights.pth", structure)
    assert ours.facts["classes"][:2] == ["person", "bicycle"]
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(outputs(ours.model, x), outputs(theirs, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    with pytest.raises(ValueError, match="not trained in mode 'fixed_single_branch'"):
        published.open_released(rows["pvtv2-single"], tmp_path / "weights.pth", structure)


def test_what_is_missing_or_another_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert published.main(["res2net-multi", "--structure", "s.json", "--checkpoint", "none.pth"]) == 1
    assert "none.pth" in capsys.readouterr().err
    Path("a.pth").write_bytes(b"cut off")
    Path("s.json").write_text("{}")
    assert published.main(["res2net-multi", "--checkpoint", "a.pth", "--structure", "s.json"]) == 1
    assert "a.pth (7 bytes) is not the released file" in capsys.readouterr().err


class Files(BaseHTTPRequestHandler):
    """Serves what is in `content`, by the last part of the path."""

    content: dict[str, bytes]

    def do_GET(self) -> None:
        found = self.content.get(self.path.rpartition("/")[2])
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The start of all links, on this machine; the cache is empty."""
    server = HTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    start = f"http://127.0.0.1:{server.server_port}"
    rows = {name: row._replace(url=f"{start}/a-{'0' * 8}.pth") for name, row in published.released().items()}
    monkeypatch.setattr(published, "released", lambda: rows)
    monkeypatch.setattr(published, "STRUCTURES", start)
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    yield start
    server.shutdown()
    server.server_close()


def predicted(folder: Path, name: str) -> int:
    Image.new("RGB", (64, 48)).save(folder / "image.png")
    arguments = [str(folder / "image.png"), "--published", name, "--out", str(folder / "out"), "--device", "cpu"]
    return predict.main(arguments)


def test_the_links_of_what_predict_cannot_fetch_or_trust_are_said(
    served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Files.content = {}
    assert predicted(tmp_path, "res2net-multi") == 1
    error = capsys.readouterr().err
    assert f"cannot fetch {served}/configs/rfnext/search_log/cascade_mask_rcnn_r2_101" in error
    place = tmp_path / "cache/released/cascade_mask_rcnn_r2_101_fpn_20e_coco/local_search_config_step11.json"
    assert f"put the file at {place}" in error
    Files.content = {place.name: b"{}"}
    assert predicted(tmp_path, "res2net-multi") == 1
    weights = tmp_path / f"cache/released/a-{'0' * 8}.pth"
    assert f"put the file at {weights}" in capsys.readouterr().err
    Files.content = {weights.name: b"another file"}
    assert predicted(tmp_path, "res2net-multi") == 1
    assert f"{weights} (12 bytes) is not the released file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        predicted(tmp_path, "res2net")
    assert "choose from convnext-multi, convnext-single" in capsys.readouterr().err.replace("'", "")


@pytest.mark.slow
def test_predict_fetches_and_opens_a_released_detector(
    served: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PVTv2, the smallest of published size, with a file that mmcv's tools made here; then again without a network."""
    structure = shared / "structures" / PUBLISHED["pvtv2"][0]
    theirs, _ = wrapped("pvtv2", "published", "fixed_multi_branch", structure, classes=80)
    file = tmp_path / "weights.pth"
    torch.save({"meta": {}, "state_dict": theirs.state_dict()}, file)
    name = f"a-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    rows = {"pvtv2-multi": published.released()["pvtv2-multi"]._replace(url=f"{served}/{name}")}
    monkeypatch.setattr(published, "released", lambda: rows)
    Files.content = {name: file.read_bytes(), "local_search_config_step10.json": structure.read_bytes()}
    assert predicted(tmp_path, "pvtv2-multi") == 0
    assert "pvtv2-multi holds the branches of " in capsys.readouterr().out
    Files.content = {}
    assert predicted(tmp_path, "pvtv2-multi") == 0
    assert (tmp_path / "out/predictions.json").is_file()


@pytest.mark.slow
def test_a_config_that_pads_otherwise_than_the_published_tools_is_refused(shared: Path, tmp_path: Path) -> None:
    structure = shared / "structures" / PUBLISHED["pvtv2"][0]
    theirs, _ = wrapped("pvtv2", "published", "fixed_single_branch", structure, classes=80)
    torch.save({"meta": {}, "state_dict": theirs.state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"mmcv's tools pad layer 'backbone.*by \(\d+, \d+\) .* --published NAME"):
        predict.open_config(configs.FOLDER / "pvtv2_baseline.py", tmp_path / "weights.pth", structure)
