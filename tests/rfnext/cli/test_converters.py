"""What `rfnext convert` and `rfnext export` say of networks that other tools cannot take, or take for others."""

import logging
import sys
from pathlib import Path

import pytest
import torch

from rfnext import LocalConfig, LocalSearch, save_published
from rfnext.cli import commands
from rfnext.cli.networks import build, save
from rfnext.description import restore
from tests.rfnext.cli.test_commands import refused, run

OWN = """
import torch
from torch import nn
from torch.ao.nn.qat import Conv2d
from torch.ao.quantization import get_default_qat_qconfig

def line(): return nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.Conv1d(2, 1, 3, padding=1))
def plane(): return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, (2, 2), padding=1))
def aware(): return nn.Sequential(Conv2d(3, 3, 3, padding=1, qconfig=get_default_qat_qconfig("qnnpack")))

def wider(): return nn.Sequential(nn.Conv2d(3, 3, 3, padding=3, dilation=2), nn.Conv2d(3, 3, 3, padding=1))

class Two(nn.Conv2d):
    def forward(self, x): return super().forward(x), x

class Eights(nn.Conv2d):
    def forward(self, x):
        assert x.shape[-1] % 8 == 0
        return super().forward(x)

class Noisy(nn.Conv2d):
    def forward(self, x): return nn.functional.dropout(super().forward(x), 0.5)

class Decides(nn.Module):
    def forward(self, x): return x if x.sum() > 0 else -x

class Overflows(nn.Module):
    def forward(self, x): return (x * 1e30) * 1e30
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the working directory, imported anew by every test."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    monkeypatch.delitem(sys.modules, "own", raising=False)


@pytest.mark.parametrize("kind", ["line", "plane"])
def test_convert_refuses_dilations_that_the_published_tools_cannot_set(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They change no Conv1d and no even kernel: they would build it as designed, and load its weights."""
    network = ["--network", "own:" + kind]
    model = build(f"own:{kind}", None)
    model[1].dilation, model[1].padding = ((2,), (2,)) if kind == "line" else ((2, 2), (1, 1))
    save(model, Path("ours.pt"))
    arguments = [
        "convert",
        "ours.pt",
        *network,
        "--to",
        "published",
        "--output",
        "p.pt",
        "--output-structure",
        "p.json",
    ]
    said = refused(capsys, *arguments)
    assert "layer '1', a Conv" in said
    assert "is designed with (1" in said
    assert not Path("p.pt").exists()
    save(build(f"own:{kind}", None), Path("ours.pt"))
    run(capsys, *arguments)


def test_convert_refuses_dilations_that_the_structure_file_leaves_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of paddings that do not keep the size, and beside branches of all layers without: the tools skip them."""
    arguments = ["convert", "ours.pt", "--network", "own:wider", "--to", "published"]
    arguments += ["--output", "p.pt", "--output-structure", "p.json"]
    padded, beside = build("own:wider", None), build("own:wider", None)
    padded[0].dilation, padded[0].padding = (1, 1), (2, 2)
    LocalSearch(beside, LocalConfig(rule="paper"), where="1")
    beside[0].dilation, beside[0].padding = (4, 4), (5, 5)
    for model in (padded, beside):
        save(model, Path("ours.pt"))
        said = refused(capsys, *arguments)
        assert "layer '0', a Conv2d of kernel (3, 3) and padding " in said
        assert "is designed with (2, 2); mmcv's tools would build it as designed" in said
        assert not Path("p.pt").exists()


@pytest.mark.parametrize("kind", ["Two", "Eights", "Noisy"])
def test_saving_copes_with_any_forward_of_a_conv_and_draws_no_random_numbers(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build("own:plane", None)
    model[0] = getattr(sys.modules["own"], kind)(3, 3, 3, padding=1)
    before = torch.get_rng_state()
    save_published(model, tmp_path / "p.pt", tmp_path / "p.json")
    assert f"1 convs, 0, have a forward() of their own (own.{kind})" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)


def test_convert_names_convs_of_classes_that_no_file_holds(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Quantisation-aware convs round their weights, which mmcv's tools know nothing of."""
    model = build("own:aware", None).train()
    x = torch.randn(1, 3, 9, 9)
    model(x)  # so that the observers have a range
    model.eval()
    model[0].dilation, model[0].padding = (2, 2), (2, 2)
    save(model, Path("ours.pt"))
    network = ["--network", "own:aware"]
    to = ["--to", "published", "--output", "p.pt", "--output-structure", "p.json"]
    run(capsys, "convert", "ours.pt", *network, *to)
    said = "1 convs, 0, have a forward() of their own (torch.ao.nn.qat.modules.conv.Conv2d), which no file holds"
    assert said in caplog.text
    caplog.clear()
    run(
        capsys, "convert", "p.pt", *network, "--structure", "p.json", "--output", "b.pt", "--output-structure", "b.json"
    )
    assert said in caplog.text
    again, file = build("own:aware", None), torch.load("b.pt")
    restore(again, file["convs"], file["state_dict"])
    torch.testing.assert_close(again(x), model(x))
    assert not torch.allclose(
        again(x), torch.nn.functional.conv2d(x, again[0].weight, again[0].bias, 1, 2, 2), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_a_failure_of_the_converter_is_not_said_to_be_of_the_input(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    said = refused(capsys, "export", "--network", "own:Decides", "--input", "1,3", "--output", f"net.{kind}")
    assert f"torch cannot record the network for net.{kind}: " in said
    assert "--input" not in said
    said = refused(capsys, "export", "--network", "own:plane", "--input", "1,2,9,9", "--output", f"net.{kind}")
    assert "--input 1,2,9,9: the network fails on it: RuntimeError" in said


def test_export_says_that_weights_are_too_large_for_onnx(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's limit, which is found before anything is recorded."""
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(commands, "_LARGEST_ONNX", 100)
    said = refused(capsys, "export", "--network", "own:plane", "--input", "1,3,9,9", "--output", "net.onnx")
    assert "an .onnx file holds at most 2 GB" in said
    assert "torch cannot record" not in said


def test_export_leaves_the_level_of_logging(capsys: pytest.CaptureFixture[str]) -> None:
    logging.disable(logging.ERROR)
    try:
        run(capsys, "export", "--network", "own:plane", "--input", "1,3,9,9", "--output", "net.pt2")
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)


def test_export_says_that_a_network_overflows(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(capsys, "export", "--network", "own:plane", "--input", "1,3,9,9", "--output", "net.pt2")
    assert "infinities" not in caplog.text
    run(capsys, "export", "--network", "own:Overflows", "--input", "1,3", "--output", "net.pt2")
    assert "gives NaN or infinities on a random input of this shape, and so will net.pt2" in caplog.text
