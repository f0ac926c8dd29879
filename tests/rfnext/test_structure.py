"""Structures: read, applied, kept in files; ours, and every published generation."""

import copy
import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rfnext
from rfnext import Structure
from rfnext.convs.conv import SearchConv
from rfnext.structure import canonical, named_convs

PUBLISHED = Path(__file__).parents[3] / "shared" / "structures"
FILES = sorted(PUBLISHED.rglob("*.json"))

needs_published = pytest.mark.skipif(
    not FILES, reason=f"no published structure files in {Path('shared') / 'structures'} beside the repository"
)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 2, 3, padding=1), nn.Sequential(nn.Conv2d(2, 2, (3, 1), padding="same"), nn.Conv2d(2, 2, 1))
    )


# Published files


def synthetic(names: Mapping[str, object]) -> nn.Module:
    """A module tree with a 3 x 3 conv at every name; the names' "module." is what their DDP wrapper added."""
    root = nn.Module()
    for name in names:
        *path, leaf = name.removeprefix("module.").split(".")
        parent = root
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(leaf, nn.Conv2d(1, 1, 3, padding=1))
    return root


def entries_of(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    return content.get("structure") or content["model"]


@needs_published
def test_all_five_runs_and_all_three_generations_are_there() -> None:
    current = [path for path in FILES if path.parent == PUBLISHED]
    assert len(current) == 5
    assert len(FILES) == 20
    contents = [json.loads(path.read_text()) for path in FILES]
    generations = {("model" in c, "S" in c["search"], "num_branches" in c["search"]) for c in contents}
    assert len(generations) == 3
    kinds = {type(entry) for path in FILES for entry in entries_of(path).values()}
    assert kinds == {int, list}


@needs_published
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-60:])
def test_published_files_load_apply_and_read_back(path: Path) -> None:
    entries = entries_of(path)
    expected = {
        name.removeprefix("module."): tuple(d) if isinstance(d, list) else (d, d) for name, d in entries.items()
    }
    structure = Structure.load(path)
    model = synthetic(entries)
    assert len(structure) == len(entries)
    structure.apply(model, where=rfnext.everything)
    assert dict(Structure.read(model)) == expected
    for name, dilation in expected.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        assert conv.dilation == conv.padding == dilation  # 3 x 3, so that the size stays
    assert Structure.read(nn.parallel.DataParallel(model)) == Structure.read(model)


@needs_published
def test_generations_of_one_run_agree_where_the_run_is_the_same() -> None:
    for path in FILES:
        if path.parent != PUBLISHED:
            oldest = synthetic(entries_of(path))
            Structure.load(path).apply(oldest)
            (current,) = (p for p in FILES if p.parent == PUBLISHED and path.stem.split("__")[0] in p.stem)
            assert named_convs(oldest).keys() == Structure.load(current).keys()


def test_integers_mean_every_axis_in_every_generation(tmp_path: Path) -> None:
    entries = {"module.0": 2, "module.1.0": [3, 1]}
    settings = {"step": 11, "max_step": 12, "exp_rate": 0.5, "mmin": 1, "mmax": 24}
    generations = [
        {"search": settings | {"S": 2, "normlize": "absavg", "finetune": False}, "model": entries},
        {"search": settings | {"S": 2}, "structure": entries},
        {"search": settings | {"num_branches": 2}, "structure": entries},
    ]
    for content in generations:
        path = tmp_path / "local_search_config_step11.json"
        path.write_text(json.dumps(content))
        model = network()
        Structure.load(path).apply(model)
        assert dict(Structure.read(model)) == {"0": (2, 2), "1.0": (3, 1)}


def test_integers_stay_integers_through_a_copy_of_the_entries() -> None:
    structure = Structure({"0": 2, "1.0": (3, 1)})
    copied = Structure(dict(structure))
    assert copied == structure
    assert hash(copied) == hash(structure)
    assert structure["0"] == (2,)
    assert copied != Structure({"0": (2, 2), "1.0": (3, 1)})  # how many axes there are, only a model tells
    model = network()
    spread = Structure({name: dilation for name, _, dilation in copied.match(model)})
    assert spread == Structure({"0": (2, 2), "1.0": (3, 1)})
    copied.apply(model)
    assert Structure.read(model) == spread


# Round trips


@pytest.mark.defect(23)
def test_round_trip_across_plain_compiled_and_ddp_wrapped_models(tmp_path: Path) -> None:
    rendezvous = (tmp_path / "rendezvous").as_uri()
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        plain = network()
        compiled = torch.compile(network(), backend="eager")
        parallel = nn.parallel.DistributedDataParallel(network())
        both = torch.compile(nn.parallel.DistributedDataParallel(network()), backend="eager")
        inner = network()
        inner[1] = torch.compile(inner[1], backend="eager")
        models = [plain, compiled, parallel, both, inner]
        raw = {name for model in models for name, _ in model.named_modules()}
        assert {"_orig_mod.1.0", "module.1.0", "_orig_mod.module.1.0", "1._orig_mod.0"} <= raw
        expected = {"0": (5, 2), "1.0": (7, 1)}
        for source in models:
            for target in models:
                Structure({"0": (1, 1), "1.0": (1, 1)}).apply(target)
                Structure(expected).apply(source)
                Structure.read(source).save(tmp_path / "structure.json")
                Structure({"0": (1, 1), "1.0": (1, 1)}).apply(target)
                Structure.load(tmp_path / "structure.json").apply(target)
                assert dict(Structure.read(target)) == expected
    finally:
        torch.distributed.destroy_process_group()


def test_canonical_names() -> None:
    for name in ("a.b", "module.a.b", "_orig_mod.a.b", "module._orig_mod.a.b", "_orig_mod.module.a._orig_mod.b"):
        assert canonical(name) == "a.b"
    assert canonical("a.module.b") == "a.module.b"  # the user's own
    assert canonical("module") == "module"
    assert canonical("") == ""


def test_two_convs_under_one_name_are_refused() -> None:
    """An attribute called "module" looks like what DDP adds; one of the two convs would be passed over silently."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1)
            self.module = nn.Sequential()
            self.module.conv = nn.Conv1d(1, 1, 3, padding=1)

    model = Wrapper()
    uses: list[Callable[[nn.Module], object]] = [
        Structure.read,
        Structure({"conv": (3,)}).apply,
        lambda model: rfnext.LocalSearch(model, rfnext.LocalConfig()),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"two convs are called 'conv': 'conv' and 'module\.conv'; rename one"):
            use(model)
    assert model.conv.dilation == model.module.conv.dilation == (1,)
    model.module.conv = model.conv  # one conv under two names
    Structure({"conv": (3,)}).apply(model)
    assert Structure.read(model) == Structure({"conv": (3,)})


def test_a_conv_is_found_behind_another_module_of_its_name() -> None:
    model = nn.Module()
    model.conv = nn.Conv1d(1, 1, 3, padding=1)
    model.module = nn.Module()
    model.module.conv = nn.Sequential(nn.ReLU())
    Structure({"conv": (3,)}).apply(model)
    assert Structure.read(model) == Structure({"conv": (3,)})


def test_an_integer_still_means_every_axis_in_a_copy() -> None:
    structure = Structure({"0": 2, "1.0": (3, 1)})
    assert structure["0"] == (2,)
    assert Structure(structure) == structure
    model = network()
    Structure(structure).apply(model)
    assert dict(Structure.read(model)) == {"0": (2, 2), "1.0": (3, 1)}


def test_saved_files_are_plain_json_and_equal_what_was_saved(tmp_path: Path) -> None:
    structure = Structure({"0": (2, 3), "1.0": 4})
    structure.save(tmp_path / "new folder" / "structure.json")
    content = json.loads((tmp_path / "new folder" / "structure.json").read_text())
    assert content == {"format": "rfnext-structure", "version": 1, "structure": {"0": [2, 3], "1.0": 4}}
    loaded = Structure.load(tmp_path / "new folder" / "structure.json")
    assert loaded == structure
    assert hash(loaded) == hash(structure)
    assert loaded != Structure({"0": (2, 3), "1.0": 5})


def test_it_is_a_mapping_that_nobody_can_change() -> None:
    source = {"a": (2,)}
    structure = Structure(source)
    source["a"] = (3,)
    assert dict(structure) == {"a": (2,)}
    assert structure["module.a"] == (2,)
    with pytest.raises(TypeError):
        structure["a"] = (3,)  # type: ignore[index]


def test_reading_a_searched_model_gives_the_centres_and_applying_ends_the_search() -> None:
    model = network()
    search = rfnext.LocalSearch(model, rfnext.LocalConfig(rounds=1))
    assert dict(Structure.read(model)) == {"0": (1, 1), "1.0": (1, 1)}
    assert Structure.read(model, where=lambda name, conv: name != "0") == Structure({"1.0": (1, 1)})
    x = torch.randn(1, 2, 9, 9)
    Structure({"0": (3, 3), "1.0": (2, 1)}).apply(model)
    assert not any(isinstance(module, SearchConv) for module in model.modules())
    assert model(x).shape == x.shape
    assert search.initial == Structure({"0": (1, 1), "1.0": (1, 1)})


# Bad input: files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a readable JSON file"),
        ('{"structure": {"0": [1, 1', "is not a readable JSON file"),
        ("\x80\x81", "is not a readable JSON file"),
        ('{"structure": {"conv": [2147483648, 1]}}', "layer 'conv': a dilation is above 1048576"),
        ('{"structure": {"conv": 1' + "0" * 400 + "}}", "layer 'conv': a dilation is above 1048576"),
        ('{"structure": {"conv": [1, 1], "conv": [2, 2]}}', "entry 'conv' appears twice"),
        ('{"structure": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("[1, 2]", "is not a structure file: expected an object with a key 'structure'"),
        ('{"epochs": 12}', "is not a structure file"),
        ('{"structure": [1, 2]}', "is not a structure file"),
        ('{"structure": {}}', "holds an empty structure; was the search run on a model without convs?"),
        ('{"format": "other", "structure": {"0": 1}}', "is a 'other' file of version None"),
        ('{"format": "rfnext-structure", "version": 3, "structure": {"0": 1}}', "file of version 3; .* versions 1, 2"),
        ('{"structure": {"0": 1}, "anchor": "last"}', "'anchor' is 'last', not an object"),
        ('{"structure": {"0": [1]}, "anchor": {"0": "first"}}', "layer '0': anchor 'first' is neither"),
        ('{"structure": {"0": [1]}, "anchor": {"0": [1]}}', r"layer '0': anchor \(1,\) is neither"),
        ('{"structure": {"0": [1]}, "anchor": {"1": "last"}}', "anchor for layer '1', but no dilation"),
        ('{"structure": {"0": 0}}', "layer '0': dilation 0 is not a positive integer"),
        ('{"structure": {"0": -1}}', "layer '0': dilation -1 is not a positive integer"),
        ('{"structure": {"0": [1, -2]}}', r"layer '0': dilation \[1, -2\] is not a positive integer"),
        ('{"structure": {"0": 1.5}}', r"layer '0': dilation 1\.5 is not a positive integer"),
        ('{"structure": {"0": 2.0}}', r"layer '0': dilation 2\.0 is not a positive integer"),
        ('{"structure": {"0": true}}', "layer '0': dilation True is not a positive integer"),
        ('{"structure": {"0": "2"}}', "layer '0': dilation '2' is not a positive integer"),
        ('{"structure": {"0": null}}', "layer '0': dilation None is not a positive integer"),
        ('{"structure": {"0": NaN}}', "layer '0': dilation nan is not a positive integer"),
        ('{"structure": {"0": []}}', r"layer '0': dilation \[\] is not a positive integer"),
        ('{"structure": {"0": [[1, 1]]}}', "layer '0': .* is not a positive integer"),
        ('{"structure": {"0": 1, "module.0": 2}}', "layer '0' appears twice"),
        ('{"model": {"lr": 0.1}}', r"layer 'lr': dilation 0\.1 is not a positive integer"),
    ],
)
def test_bad_files_give_one_error_that_names_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "structure.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        Structure.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        Structure.load(tmp_path / "nowhere.json")


# Bad input: structures that do not fit the model


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"0": (2, 2), "1.00": (2, 2)}, r"layer '1\.00' of the structure is not in the model; did you mean '1\.0'\?"),
        ({"0": (2, 2), "backbone.stem": (2, 2)}, "layer 'backbone.stem' of the structure is not in the model$"),
        ({"0": (2, 2), "1": (2, 2)}, "layer '1' of the structure is a Sequential in the model, not a conv"),
        ({"0": (2, 2), "1.0": (2,)}, r"layer '1\.0': dilation \(2,\) has 1 axes.*structure of another model\?"),
        ({"0": (2, 2), "1.0": (2, 2, 2)}, r"layer '1\.0': dilation \(2, 2, 2\) has 3 axes"),
    ],
)
@pytest.mark.defect(24)
def test_a_structure_that_does_not_fit_names_the_layer_and_changes_nothing(
    structure: dict[str, rfnext.Dilation], message: str
) -> None:
    model = network()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        Structure(structure).apply(model)
    assert repr(model) == repr(before)


@pytest.mark.defect(24)
def test_an_entry_that_where_asks_for_is_missed_by_name() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"the structure has no entry for layer '1\.0'"):
        Structure({"0": (2, 2)}).apply(model, where=rfnext.everything)
    assert dict(Structure.read(model)) == {"0": (1, 1), "1.0": (1, 1)}
    Structure({"0": (2, 2)}).apply(model, where=lambda name, conv: name == "0")
    assert dict(Structure.read(model)) == {"0": (2, 2), "1.0": (1, 1)}


def test_a_dilation_that_a_plain_conv_cannot_have_names_the_layer() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3, dilation=4), nn.Conv1d(1, 1, 2))
    with pytest.raises(ValueError, match="layer '2': an even kernel"):
        Structure({"0": 2, "2": 2}).apply(model)
    assert [conv.dilation for conv in model] == [(1,), (4,), (1,)]


def test_structures_from_code_are_checked_too() -> None:
    for dilation in (0, -1, 1.0, True, "1", (), (1, 0), None):
        with pytest.raises(ValueError, match="layer 'a': dilation .* is not a positive integer"):
            Structure({"a": dilation})  # type: ignore[dict-item]


def test_a_conv_changed_after_the_search_began_stops_apply_before_anything_is_done() -> None:
    model = network()
    rfnext.LocalSearch(model, rfnext.LocalConfig())
    nn.utils.parametrizations.weight_norm(model[1][0])
    with pytest.raises(ValueError, match=r"layer '1\.0': ParametrizedSearchConv2d was changed after the search began"):
        Structure({"0": (3, 3), "1.0": (3, 1)}).apply(model)
    assert isinstance(model[0], SearchConv)
    assert dict(Structure.read(model)) == {"0": (1, 1), "1.0": (1, 1)}


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "structure.json"
    Structure({"0": (2, 2)}).save(path)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device") as caught:
        patch.setattr(os, "fsync", full)
        Structure({"0": (3, 3)}).save(path)
    assert f"cannot write {path}" in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert Structure.load(path) == Structure({"0": (2, 2)})
    assert os.listdir(tmp_path) == ["structure.json"]
