"""Checkpoints that mmcv's own hook trained, opened here: equal outputs, equal next steps, and what is refused."""

import json
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rfnext
from rfnext.structure import searched_convs
from tests.rfnext.published.peer import (
    Network,
    Trained,
    config_text,
    images,
    load,
    rfsearch,
    rounds,
    save,
    settings,
    train,
    trained,
)


def opened(given: Trained) -> nn.Module:
    model = Network().double()
    rfnext.open_published(model, given.checkpoint, given.structure)
    return model


def assert_equal(ours: nn.Module, theirs: nn.Module) -> None:
    for mode in (False, True):
        x = next(images())
        torch.testing.assert_close(ours.train(mode)(x), theirs.train(mode)(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["search", "fixed_single_branch", "fixed_multi_branch"])
@pytest.mark.parametrize(("branches", "spread"), [(2, 0.5), (3, 0.5), (3, 0.1)])
def test_outputs_and_the_next_step_of_training_are_equal(
    mode: str, branches: int, spread: float, tmp_path: Path
) -> None:
    given = trained(tmp_path, mode, branches, spread)
    theirs, ours = given.model, opened(given)
    assert_equal(ours, theirs)
    train(theirs, 1)
    train(ours, 1)
    assert_equal(ours, theirs)
    weights = {name: m.branch_weights for name, m in theirs.named_modules() if isinstance(m, rfsearch.Conv2dRFSearchOp)}
    assert weights.keys() == searched_convs(ours).keys()
    assert bool(weights) == (mode != "fixed_single_branch")
    for name, conv in searched_convs(ours).items():
        assert conv.rule == "paper"
        torch.testing.assert_close(conv.branch_weight, weights[name], rtol=1e-9, atol=0)


def test_the_search_goes_on_as_in_the_published_code(tmp_path: Path) -> None:
    given = trained(tmp_path)
    model = Network().double()
    config = rfnext.LocalConfig(rule="paper", rounds=2)
    search = rfnext.LocalSearch(model, config, where=lambda name, conv: name != "layer1")
    rfnext.open_published(model, given.checkpoint, given.structure)
    hook = rfsearch.RFSearchHook("search", settings(), by_epoch=False, verbose=False)
    folder = tmp_path / "further"
    folder.mkdir()
    train(given.model, 2, rounds(hook, given.model, folder))
    train(model, 2, search.after_step)
    assert_equal(model, given.model)
    assert search.structure() == rfnext.Structure.load(folder / "local_search_config_step2.json")
    assert search.structure() != rfnext.Structure.load(given.structure)


def test_structure_files_of_all_generations_open(tmp_path: Path) -> None:
    given = trained(tmp_path)
    content = load(given.structure)
    content["search"]["S"] = content["search"].pop("num_branches")
    content["search"] |= {"normlize": "absavg", "finetune": False}
    content["model"] = content.pop("structure")
    given.structure.write_text(json.dumps(content))
    assert_equal(opened(given), given.model)


class Foreign(dict[str, Any]):
    """Stands for the config objects of mmcv, which this process cannot import or must not make."""

    made = 0

    def __new__(cls, *_: Any, **__: Any) -> "Foreign":
        Foreign.made += 1
        return super().__new__(cls)


class Buffer:
    """Stands for other objects: of its own state, by a function, as a list."""

    def __init__(self) -> None:
        self.values = np.arange(3.0)

    def __reduce__(self) -> Any:
        return Foreign, (), None, iter([]), iter([("a", 1)])


@pytest.mark.parametrize("old_format", [True, False])
def test_objects_in_meta_are_not_made(old_format: bool, tmp_path: Path) -> None:
    given = trained(tmp_path)
    state = given.model.state_dict()
    objects = [Foreign(a=Foreign(b=[1])), Buffer(), Path("x"), np.float64(3), np.arange(4), type("T", (), {})]
    meta = {"config": objects[0], "others": objects[1:5], "hooks": defaultdict(list, a=[1]), "time": OrderedDict(a=2)}
    torch.save({"meta": meta, "state_dict": state}, given.checkpoint, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(Exception, match="weights_only"):
        torch.load(given.checkpoint, weights_only=True)
    made = Foreign.made
    ours = opened(given)
    assert Foreign.made == made
    assert_equal(ours, given.model)


class Command:
    """A pickle that would run a command when it is read."""

    def __init__(self, marker: Path, function: Any) -> None:
        self.marker, self.function = marker, function

    def __reduce__(self) -> Any:
        return self.function, (f"touch {self.marker}",)


@pytest.mark.parametrize("function", [__import__("os").system, eval])
def test_nothing_in_a_file_is_executed(function: Any, tmp_path: Path) -> None:
    given = trained(tmp_path)
    marker = tmp_path / "executed"
    torch.save({"meta": {"x": Command(marker, function)}, "state_dict": given.model.state_dict()}, given.checkpoint)
    if function is eval:
        assert_equal(opened(given), given.model)
    else:
        with pytest.raises(ValueError, match=rf"{given.checkpoint}.*(posix|os)\.system.*blocked"):
            opened(given)
    assert not marker.exists()


def broken(given: Trained, kind: str) -> Trained:
    """Another checkpoint or structure file, wrong in one way."""
    content, model = load(given.structure), given.model
    match kind:
        case "truncated":
            data = given.checkpoint.read_bytes()
            given.checkpoint.write_bytes(data[: len(data) // 2])
        case "empty":
            given.checkpoint.write_bytes(b"")
        case "structure truncated":
            given.structure.write_text(given.structure.read_text()[:200])
        case "no structure":
            return given._replace(structure=None)
        case "other layers":
            content["structure"]["module.head2"] = 1
        case "layer lacks":
            del content["structure"]["module.depthwise"]
        case "skipped":
            content["search"]["skip_layer"] = ["depthwise"]
        case "branches":
            content["search"]["num_branches"] = 3
        case "no spread":
            del content["search"]["exp_rate"]
        case "normalised":
            content["search"]["normlize"] = "softmax"
        case "other spread":
            content["search"]["exp_rate"] = 0.1
            save(model, given.checkpoint, config=config_text("search"), iter=3, epoch=3)
        case "earlier step":
            save(model, given.checkpoint, config=config_text("search"), epoch=4)
            return given._replace(structure=given.structure.with_name("local_search_config_step1.json"))
        case "later step":
            save(model, given.checkpoint, config=config_text("search"), epoch=1)
        case "other file":
            save(model, given.checkpoint, config=config_text("fixed_multi_branch", Path("a/config_step2.json")))
        case "plain":
            save(Network(), given.checkpoint, config="model = dict(type='Net')")
        case "plain without meta":
            save(Network(), given.checkpoint)
            return given._replace(structure=None)
        case "other width":
            wrapped = Network(16)
            rfsearch.RFSearchHook("search", settings(), verbose=False).init_model(wrapped)
            save(wrapped, given.checkpoint)
        case "other network":
            model.add_module("second", nn.Linear(2, 2))
            save(model, given.checkpoint)
    given.structure.write_text(json.dumps(content)) if kind != "structure truncated" else None
    return given


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "checkpoint.pth is not a readable checkpoint .*fetch it again"),
        ("empty", "checkpoint.pth is not a readable checkpoint"),
        ("structure truncated", "step3.json is not a readable JSON file"),
        ("no structure", "checkpoint.pth: it holds no dilations; give the structure file"),
        ("other layers", "'head2' has an entry in .*step3.json and no branches in it; give"),
        ("layer lacks", "'depthwise' has branches in it and no entry in .*step3.json; give"),
        ("skipped", "'depthwise' has branches in it and no entry"),
        ("branches", r"'neck.0' has branch weights of shape \(2,\) .*step3.json is of a search with 3"),
        ("no spread", "step3.json says no number for 'exp_rate'"),
        ("normalised", "step3.json: probabilities normalised by 'softmax'"),
        ("other spread", "searched with exp_rate=0.5, and .*step3.json is of a search with 0.1"),
        ("earlier step", "saved at epoch 4 .*step1.json is of step 1; give local_search_config_step3.json"),
        ("later step", "saved at epoch 1 .*step3.json is of step 3; give local_search_config_step1.json"),
        ("other file", "was trained with a/config_step2.json, and .*step3.json is of step 3"),
        ("plain", "the config in its meta has no search.*load_state_dict"),
        ("plain without meta", "no conv in it has branches.*load_state_dict"),
        ("other width", r"'layer1.weight' has shape \(16, 2, 3, 3\) in it and \(8, 2, 3, 3\) in the model; build"),
        ("other network", "'second.weight' is in the file and not in the model.*build"),
    ],
)
def test_what_does_not_belong_together_is_one_clear_error(kind: str, message: str, tmp_path: Path) -> None:
    given = broken(trained(tmp_path), kind)
    model = Network().double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shape = rfnext.Structure.read(model)
    with pytest.raises(ValueError, match=message) as error:
        rfnext.open_published(model, given.checkpoint, given.structure)
    assert len(str(error.value)) < 500
    assert not searched_convs(model)
    assert rfnext.Structure.read(model) == shape
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
