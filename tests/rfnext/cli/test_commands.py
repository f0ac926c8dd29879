"""The command line on a network of timm: every command, and what it says of bad input."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext.cli.commands import _size_of_weights
from rfnext.cli.main import main
from rfnext.description import restore
from rfnext.structure import named_convs, searched_convs
from tests import python_processes

pytest.importorskip("timm")

NETWORK = ["--network", "timm.models._factory:create_model", "--arguments", '{"model_name": "test_resnet"}']
X = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def create(seed: int = 0) -> nn.Module:
    import timm

    torch.manual_seed(seed)
    return timm.create_model("test_resnet").eval()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command writes on bad input."""
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1, error
    return error


def searched(rule: Any = "default") -> nn.Module:
    """A network in a search, with unlike probabilities."""
    model = create()
    rfnext.LocalSearch(model, rfnext.LocalConfig(rule=rule))
    with torch.no_grad():
        for conv in searched_convs(model).values():
            conv.branch_weight.copy_(torch.tensor([0.01, 0.02]))
    return model


def structure() -> rfnext.Structure:
    return rfnext.Structure(
        {name: (3, 3) for name, conv in named_convs(create()).items() if conv.kernel_size == (3, 3)}
    )


@torch.no_grad()
def output(model: nn.Module) -> Tensor:
    return model(X)


def reopened(path: str) -> nn.Module:
    """What a written file says it is opened by."""
    model, file = create(7), torch.load(path)
    restore(model, file["convs"], file["state_dict"])
    return model.eval()


def test_plan_shows_the_layers_that_are_picked(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "plan", *NETWORK, "--where", "layer4", "--where", "!layer4.0.conv2", "--input", "1,3,48,48")
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("layer4")]
    picked = [name for name in structure() if name.startswith("layer4") and name != "layer4.0.conv2"]
    assert rows == picked
    assert "ms in the search" in text
    assert "1 2 4 8" in run(capsys, "plan", *NETWORK, "--candidates", "1", "2", "4", "8")


def test_show_reads_ours_and_published(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    rfnext.Structure({"a.conv": (2, 5), "b": (3,)}, {"b": "last"}).save("ours.json")
    rows = [line.split() for line in run(capsys, "show", "ours.json").splitlines()]
    assert ["a.conv", "2x5", "centre"] in rows
    assert ["b", "3", "last"] in rows
    (folder / "old.json").write_text('{"model": {"c": 4}}')
    assert ["c", "4", "centre"] in [line.split() for line in run(capsys, "show", "old.json").splitlines()]


def test_apply_puts_a_structure_and_weights_into_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    structure().save("found.json")
    model = searched()
    torch.save(model.state_dict(), "searched.pt")
    text = run(capsys, "apply", "found.json", *NETWORK, "--checkpoint", "searched.pt", "--output", "plain.pt")
    assert f"{len(structure())} of {len(structure())} layers get another dilation" in text
    assert "torch.load('plain.pt')" in text
    structure().apply(model)
    assert torch.equal(output(reopened("plain.pt")), output(model))


def test_merge_computes_what_the_branches_do(capsys: pytest.CaptureFixture[str]) -> None:
    model = searched()
    torch.save(model.state_dict(), "searched.pt")
    text = run(capsys, "merge", "searched.pt", *NETWORK, "--output", "merged.pt")
    assert "5x5" in text.replace(" 5 ", " 5x5 ")
    merged = reopened("merged.pt")
    assert not searched_convs(merged)
    torch.testing.assert_close(output(merged), output(model), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_export_needs_no_rfnext(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kind == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = create()
    torch.save(model.state_dict(), "plain.pt")
    structure().save("found.json")
    shape = ["--input", "1,3,48,48", "--checkpoint", "plain.pt", "--structure", "found.json"]
    run(capsys, "export", *NETWORK, *shape, "--output", f"net.{kind}")
    assert [path.name for path in Path().glob("net*")] == [f"net.{kind}"]  # the weights are in it, too
    structure().apply(model)
    if kind == "pt2":
        found = torch.export.load("net.pt2").module()(X)
    else:
        session = onnxruntime.InferenceSession("net.onnx")
        (array,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
        found = torch.from_numpy(array)
    torch.testing.assert_close(found, output(model), rtol=1e-3, atol=1e-4)


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Conv1d(4, 4, 3, bias=False), nn.Conv1d(4, 4, 3, bias=False))
    assert _size_of_weights(model) == 2 * 4 * 4 * 3 * 4
    model[1].weight = model[0].weight
    assert _size_of_weights(model) == 4 * 4 * 3 * 4


def test_convert_goes_to_the_published_form_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    model = searched("paper")
    torch.save(model.state_dict(), "ours.pt")
    step = "local_search_config_step0.json"
    files = ["--output", "published.pth", "--output-structure", step]
    run(capsys, "convert", "ours.pt", *NETWORK, "--to", "published", *files)
    state = torch.load("published.pth")["state_dict"]
    assert any(key.endswith("op_layer.weight") for key in state)
    files = ["--output", "back.pt", "--output-structure", "back.json"]
    run(capsys, "convert", "published.pth", *NETWORK, "--structure", step, *files)
    torch.testing.assert_close(output(reopened("back.pt")), output(model))
    assert rfnext.Structure.load("back.json") == rfnext.Structure.of(cast(Any, searched_convs(model)))


def test_doctor_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {line.split()[0]: line for line in run(capsys, "doctor").splitlines()}
    assert torch.__version__ in rows["torch"]
    assert rfnext.__version__ in rows["rfnext"]


def test_a_shell_completes_commands_options_values_and_files(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "found.json").touch()
    script = run(capsys, "completion", "bash")
    for typed, completed in [
        ("rfnext pl", ["plan"]),
        ("rfnext plan --inp", ["--input"]),
        ("rfnext plan --network x --anchor ", ["centre", "last", "found.json"]),
        ("rfnext convert --to pub", ["published"]),
        ("rfnext show fo", ["found.json"]),
    ]:
        words = typed.split(" ")
        line = f'COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}"); COMP_CWORD={len(words) - 1}; _rfnext'
        command = ["bash", "-c", script + line + '; printf "%s\\n" "${COMPREPLY[@]}"']
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == completed
    assert run(capsys, "completion", "zsh").endswith(script)


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


WRAPPERS = {
    "tutorial": lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "other name": lambda state: {"net": state, "rng": {"cpu": torch.get_rng_state()}, "loss": torch.tensor(0.3)},
    "lightning": lambda state: {"state_dict": under("network.", state), "epoch": 3},
    "lightning, by a layer's name": lambda state: {"state_dict": under("fc.", state)},
    "config beside": lambda state: {"model": {"name": "resnet", "depth": 18}, "weights": state},
    "averaged": lambda state: {"n_averaged": torch.tensor(3)} | under("module.", state),
    "compiled in ddp": lambda state: under("module._orig_mod.", state),
    "half": lambda state: {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_checkpoints_open_as_trainings_save_them(wrapper: str, capsys: pytest.CaptureFixture[str]) -> None:
    structure().save("found.json")
    model = create(3)
    torch.save(WRAPPERS[wrapper](model.state_dict()), "c.pt")
    run(capsys, "apply", "found.json", *NETWORK, "--checkpoint", "c.pt", "--output", "plain.pt")
    structure().apply(model)
    accuracy = 1e-2 if wrapper == "half" else 0.0
    torch.testing.assert_close(output(reopened("plain.pt")), output(model), rtol=accuracy, atol=accuracy)


def test_an_average_beside_the_weights_is_named(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = create(3), create(4)
    structure().save("found.json")
    apply = ["apply", "found.json", *NETWORK, "--checkpoint", "c.pt", "--output", "plain.pt"]
    torch.save({"state_dict": first.state_dict(), "state_dict_ema": second.state_dict()}, "c.pt")  # as timm does
    run(capsys, *apply)
    assert "c.pt: opened its 'state_dict'; it also holds 'state_dict_ema'" in caplog.text
    structure().apply(first)
    assert torch.equal(output(reopened("plain.pt")), output(first))
    torch.save({"params": first.state_dict(), "params_ema": second.state_dict()}, "c.pt")
    assert "c.pt holds several state_dicts, 'params', 'params_ema'; save the one" in refused(capsys, *apply)


# Bad input


BAD = [
    (["plan", "--network", "timm"], "--network 'timm' is not module:function"),
    (["plan", "--network", "absent_package:build"], "--network: importing absent_package fails: ModuleNotFoundError"),
    (["plan", "--network", "timm.models.resnet:resnet1"], "did you mean"),
    (["plan", "--network", "timm.models:resnet"], "did you mean 'resnet"),
    (["plan", "--network", "timm.models.resnet:resnet18", "--arguments", "{"], "--arguments '{'"),
    (["plan", "--network", "timm.models.resnet:resnet18", "--arguments", "3"], "is no JSON object"),
    (["plan", "--network", "timm.models.resnet:resnet18", "--arguments", '{"depth": 3}'], "resnet18 fails: TypeError"),
    (["plan", "--network", "os:getcwd"], "returns a str, not a network"),
    (["plan", *NETWORK, "--input", "48"], "--input 48: the network fails on it: RuntimeError"),
    (["plan", *NETWORK, "--where", "layr4"], "matches no conv of the model"),
    (["show", "absent.json"], "absent.json: No such file"),
    (["show", "broken.json"], "broken.json is not a readable JSON file"),
    (["apply", "other.json", *NETWORK], "layer 'absent' of the structure is not in the model"),
    (["merge", "absent.pt", *NETWORK, "--output", "m.pt"], "absent.pt"),
    (["merge", "broken.json", *NETWORK, "--output", "m.pt"], "broken.json is not a readable checkpoint"),
    (["merge", "plain.pt", *NETWORK, "--output", "m.pt"], "nothing to merge"),
    (["merge", "small.pt", *NETWORK, "--output", "m.pt"], "small.pt: "),
    (["merge", "diverged.pt", *NETWORK, "--output", "m.pt"], "diverged.pt: tensor 'a' has values that are no numbers"),
    (["merge", "rounded.pt", *NETWORK, "--output", "m.pt"], "rounded.pt: tensor 'fc.bias' holds int8, the network"),
    (["merge", "a.safetensors", *NETWORK, "--output", "m.pt"], "it is a safetensors file; make it one of torch"),
    (["export", *NETWORK, "--input", "1,3,48,48", "--output", "m.bin"], "must end in .pt2"),
    (
        ["export", "--network", "torch.nn:Flatten", "--input", "1,3", "--output", "plain.pt/m.pt2"],
        "write plain.pt/m.pt2",
    ),
    (["convert", "plain.pt", *NETWORK, "--output", "m.pt", "--output-structure", "s.json"], "no conv in it has branch"),
    (["new-task", "mine"], "run this in the root of the RF-Next repository"),
    (["new-task", "Not/a name"], "is no name of a task"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[f"{a[0]}-{said[:20]}" for a, said in BAD])
def test_bad_input_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "broken.json").write_text("{")
    rfnext.Structure({"absent": (2, 2)}).save("other.json")
    torch.save(create().state_dict(), "plain.pt")
    torch.save({"weight": torch.zeros(2)}, "small.pt")
    torch.save({"convs": {}, "state_dict": {"a": torch.tensor(torch.nan)}}, "diverged.pt")
    torch.save(create().state_dict() | {"fc.bias": torch.ones(1000, dtype=torch.int8)}, "rounded.pt")
    (folder / "a.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    before = sorted(path.name for path in folder.iterdir())
    assert said in refused(capsys, *arguments)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_hint_imports_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    lazy = "def __getattr__(name):\n    raise (ImportError if name in __dir__() else AttributeError)(name)\n"
    (folder / "lazy_module.py").write_text(lazy + "def __dir__(): return ['builds']\nbuild = print\n")
    assert "lazy_module has no function 'buil'; did you mean 'build'?" in refused(
        capsys, "plan", "--network", "lazy_module:buil"
    )


class Executed:
    """Pickles as a call."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_nothing_in_a_file_is_executed(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    torch.save({"state_dict": {"a": Executed()}}, "hostile.pt")
    refused(capsys, "merge", "hostile.pt", *NETWORK, "--output", "m.pt")
    assert not (folder / "executed").exists()


def test_a_module_of_the_working_directory_is_found(folder: Path) -> None:
    (folder / "mine.py").write_text("from torch import nn\n\ndef build():\n    return nn.Conv1d(1, 1, 3)\n")
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-m", "rfnext", "plan", "--network", "mine:build"]
    done = python_processes.run(command, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 convs are searched" in done.stdout
