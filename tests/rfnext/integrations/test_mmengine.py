"""The hook and the runner on real mmengine runs: rounds, files, resuming, averaging, mixed precision, DDP."""
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false

import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext import Bounds, LocalConfig, LocalSearch, Structure
from rfnext.search.history import unpack
from rfnext.structure import searched_convs

pytest.importorskip("mmengine", reason="mmengine is not installed")
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPERS, RUNNERS
from mmengine.runner import Runner, autocast

from rfnext import pin_implementation
from rfnext.integrations.mmengine import (
    LocalSearchHook,
    RFSearchHook,
    RFSearchRunner,
    build_runner,
    checkpoint_globals,
)

BATCHES, EPOCHS = 3, 5
NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _same_bits_in_equal_runs() -> Iterator[None]:
    with pin_implementation("taps"):
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes mmengine most of the time: asking compilers for their versions, once per runner, and
    formatting the config, once per checkpoint."""
    monkeypatch.setattr(Runner, "_log_env", lambda runner, env_cfg: None)
    monkeypatch.setattr(Config, "pretty_text", property(repr))


@MODELS.register_module()
class Repeater(BaseModel):
    """Learns to repeat the input of 6 columns before. Everything random comes from the seed or the data."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__(init_cfg=init_cfg)
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layer1 = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=4, dilation=4))
        self.layer10 = nn.Sequential(nn.Conv2d(4, 4, (1, 3), padding=(0, 3), dilation=(1, 3)), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        y = self.layer10(self.layer1(self.stem(x).relu()).relu())
        if mode == "predict":
            return list(y)
        return {"loss": (y[..., 6:] - x[..., :-6]).square().mean()} if mode == "loss" else y


@DATASETS.register_module()
class Images(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, size: int = 4 * BATCHES) -> None:
        self.images = torch.randn(size, 1, 8, 16, generator=torch.Generator().manual_seed(1))
        self.metainfo = {"classes": ("noise",)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.images[index]}


def loader() -> dict[str, Any]:
    return {
        "dataset": {"type": "Images"},
        "batch_size": 4,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "collate_fn": {"type": "default_collate"},
    }


def settings_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """A config as users write it."""
    return {
        "model": {"type": "Repeater"},
        "work_dir": str(folder),
        "train_dataloader": loader(),
        "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
        "optim_wrapper": {"optimizer": {"type": "Adam", "lr": 5e-3}},
        "runner_type": "RFSearchRunner",
        "custom_hooks": [hook()],
        "randomness": {"seed": 7},
        "log_level": "ERROR",
        "experiment_name": f"test{next(NUMBERS)}",
    } | changes


def hook(mode: str = "search", **changes: Any) -> dict[str, Any]:
    """RFSearchHook as the published README shows it; keywords that it does not know go to config.search."""
    outer = {key: changes.pop(key) for key in ("rfstructure_file", "by_epoch", "rule") if key in changes}
    search = {
        "step": 0,
        "max_step": 4,
        "search_interval": 1,
        "exp_rate": 0.5,
        "init_alphas": 0.01,
        "mmin": 1,
        "mmax": 24,
        "num_branches": 2,
        "skip_layer": ["stem"],
    }
    return {"type": "RFSearchHook", "mode": mode, "verbose": True, "config": {"search": search | changes}} | outer


def train(folder: Path, **changes: Any) -> Runner:
    runner = RUNNERS.build(Config(settings_of(folder, **changes)))
    runner.train()
    return runner


def search_of(runner: Runner) -> LocalSearch:
    (found,) = [hook.search for hook in runner.hooks if isinstance(hook, LocalSearchHook)]
    return found


def assert_same(runner: Runner, expected: Runner) -> None:
    assert search_of(runner).history == search_of(expected).history
    assert search_of(runner).state_dict() == search_of(expected).state_dict()
    states = runner.model.state_dict(), expected.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_search_from_a_config_runs_its_rounds_and_moves(tmp_path: Path) -> None:
    runner = train(tmp_path)
    assert isinstance(runner, RFSearchRunner)
    search = search_of(runner)
    assert [r.step for r in search.history] == [1, 2, 3]  # max_step is exclusive
    assert search.step == EPOCHS
    assert set(searched_convs(runner.model)) == {"layer1.1", "layer10.0"}
    assert Structure.read(runner.model, where=lambda name, conv: name != "stem") != search.initial
    assert type(runner.model.stem) is nn.Conv2d


def test_structure_files_are_the_published_ones(tmp_path: Path) -> None:
    runner = train(tmp_path, custom_hooks=[hook(rule="paper")])
    files = sorted(tmp_path.glob("*.json"))
    assert [file.name for file in files] == [f"local_search_config_step{n}.json" for n in (1, 2, 3)]
    for file, round_ in zip(files, search_of(runner).history, strict=True):
        content = json.loads(file.read_text())
        assert list(content) == ["search", "structure"]
        assert content["search"] == hook()["config"]["search"] | {"step": round_.step}
        assert set(content["structure"]) == {"module.layer1.1", "module.layer10.0"}
        assert dict(Structure.load(file)) == round_.structure

    # And mmcv's hook sets a network up with them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rfsearch = pytest.importorskip("mmcv.cnn.rfsearch", reason="mmcv-lite, the peer, is not installed")
    model = Repeater()
    peer = rfsearch.RFSearchHook("fixed_single_branch", hook()["config"], str(files[-1]), verbose=False)
    peer.init_model(model)
    assert tuple(model.layer1[1].dilation) == search_of(runner).history[-1].structure["layer1.1"]
    assert tuple(model.layer10[0].dilation) == search_of(runner).history[-1].structure["layer10.0"]


def test_steps_by_iterations(tmp_path: Path) -> None:
    changes = {"by_epoch": False, "search_interval": 2, "max_step": 9}
    runner = train(tmp_path, custom_hooks=[hook(**changes)])
    assert [r.step for r in search_of(runner).history] == [2, 4, 6, 8]
    assert search_of(runner).step == EPOCHS * BATCHES
    assert (tmp_path / "local_search_config_step8.json").exists()


def test_steps_by_epochs_in_a_training_without_epochs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="counts no epochs, and nothing would be searched: set by_epoch=False"):
        train(tmp_path, train_cfg={"by_epoch": False, "max_iters": 4})
    runner = train(tmp_path, train_cfg={"by_epoch": False, "max_iters": 4}, custom_hooks=[hook(by_epoch=False)])
    assert search_of(runner).round == 3


@pytest.mark.parametrize("stop", [1, 2, 4])
@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.defect(22)
def test_a_run_resumed_from_its_checkpoint_equals_the_uninterrupted_one(
    by_epoch: bool, stop: int, tmp_path: Path
) -> None:
    changes = {"custom_hooks": [hook(by_epoch=by_epoch, max_step=4 if by_epoch else 11)]}
    whole = train(tmp_path / "whole", **changes)
    schedule = {"by_epoch": True, "max_epochs": stop}
    interrupted = train(tmp_path / "parts", train_cfg=schedule, **changes)
    assert search_of(interrupted).state_dict() != search_of(whole).state_dict()
    resumed = train(tmp_path / "parts", resume=True, **changes)
    assert resumed.epoch == EPOCHS
    assert_same(resumed, whole)


def test_resuming_a_checkpoint_without_a_search_is_an_error(tmp_path: Path) -> None:
    train(tmp_path, runner_type="Runner", custom_hooks=[])
    with pytest.raises(ValueError, match="cannot resume: the checkpoint holds no local search.*load_from"):
        train(tmp_path, resume=True)


def test_resuming_a_search_over_other_layers_is_an_error(tmp_path: Path) -> None:
    train(tmp_path, custom_hooks=[hook()])
    with pytest.raises(ValueError, match="search over other layers; 1 differ, 'stem' first"):
        train(tmp_path, resume=True, custom_hooks=[hook(skip_layer=[])])


def test_checkpoints_are_read_without_running_code(tmp_path: Path) -> None:
    first = {"by_epoch": True, "max_epochs": 1}
    train(tmp_path, train_cfg=first)
    assert torch.load(tmp_path / "epoch_1.pth", weights_only=True)["message_hub"]["log_scalars"] == {}
    train(tmp_path, train_cfg=first, runner_type="Runner", custom_hooks=[])  # mmengine's own needs the list
    with checkpoint_globals():
        checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    assert checkpoint["message_hub"]["log_scalars"]["train/loss"].data[0].shape == (BATCHES,)

    class Command:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    class Attribute:
        def __reduce__(self) -> Any:
            return getattr, (HistoryBuffer, "update")

    for bad in (Command(), Attribute()):
        torch.save({"state_dict": {}, "bad": bad}, tmp_path / "bad.pth")
        for asked in (True, False):  # mmengine asks for False where it downloads
            with checkpoint_globals(), pytest.raises(Exception, match="GLOBAL|must not hold"):
                torch.load(tmp_path / "bad.pth", weights_only=asked)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("begin", [0, 2])
@pytest.mark.defect(28)
def test_averaging_copies_get_the_new_branches(begin: int, tmp_path: Path) -> None:
    seen = []

    @HOOKS.register_module(force=True)
    class Watch(Hook):
        priority = "LOWEST"

        def after_train_epoch(self, runner: Runner) -> None:
            (average,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
            copies, convs = (searched_convs(m) for m in (average.ema_model.module, average.src_model))
            seen.append({name: conv.dilations for name, conv in copies.items()})
            assert seen[-1] == {name: conv.dilations for name, conv in convs.items()}
            assert all(torch.equal(copies[name].branch_weight, conv.branch_weight) for name, conv in convs.items()) == (
                runner.epoch < 3
            )

    average = {"type": "EMAHook", "momentum": 0.3, "begin_epoch": begin}
    changes = {"custom_hooks": [hook(), average, {"type": "Watch"}]}
    whole = train(tmp_path / "whole", **changes)
    assert len({str(dilations) for dilations in seen}) > 1

    train(tmp_path / "parts", train_cfg={"by_epoch": True, "max_epochs": 2}, **changes)
    resumed = train(tmp_path / "parts", resume=True, **changes)
    assert_same(resumed, whole)
    averages = [next(h for h in r.hooks if isinstance(h, EMAHook)).ema_model.state_dict() for r in (resumed, whole)]
    assert all(torch.equal(averages[0][key], averages[1][key]) for key in averages[1])


@OPTIM_WRAPPERS.register_module()
class CPUAmp(OptimWrapper):
    """mmengine's AmpOptimWrapper refuses CPUs; this is what it does there."""

    def optim_context(self, model: nn.Module) -> Any:
        return autocast(device_type="cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("wrapper", ["CPUAmp", pytest.param("AmpOptimWrapper", marks=pytest.mark.gpu)])
def test_mixed_precision(wrapper: str, tmp_path: Path) -> None:
    changes: Any = {"optim_wrapper": {"type": wrapper, "optimizer": {"type": "Adam", "lr": 5e-3}}}
    whole = train(tmp_path / "whole", **changes)
    assert all(p.dtype == torch.float32 for p in whole.model.parameters())
    assert search_of(whole).round == 3
    train(tmp_path / "parts", train_cfg={"by_epoch": True, "max_epochs": 2}, **changes)
    resumed = train(tmp_path / "parts", resume=True, **changes)
    if wrapper == "CPUAmp":
        assert_same(resumed, whole)
    assert search_of(resumed).step == search_of(whole).step


def worker(folder: str) -> None:
    """One rank of the test below; torchrun's variables are set."""
    rank = os.environ["RANK"]
    torch.distributed.init_process_group("gloo")  # mmengine does so itself where there are GPUs
    runner = RUNNERS.build(
        Config(
            settings_of(
                # As if this rank had a disk of its own: only rank 0 may write structures.
                Path(folder) / f"rank{rank}",
                launcher="pytorch",
                # mmengine would put the model on a GPU.
                model_wrapper_cfg={"type": "MMDistributedDataParallel", "device_ids": None},
                experiment_name="ddp",
            )
        )
    )
    with pin_implementation("taps"):
        runner.train()
    assert isinstance(runner.model, nn.parallel.DistributedDataParallel)
    state = runner.model.module.state_dict()
    torch.save({"state": state, "search": search_of(runner).state_dict()}, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.defect(25)
def test_all_ranks_come_to_the_same_and_the_first_one_writes(tmp_path: Path) -> None:
    ranks, processes = 2, []
    for rank in range(ranks):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1"}
        variables |= {"MASTER_PORT": 29500 + os.getpid() % 1000, "OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": ""}
        code = f"import runpy; runpy.run_path({__file__!r})['worker']({str(tmp_path)!r})"
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parents[3],
                env=os.environ | {key: str(value) for key, value in variables.items()} | {"PYTHONPATH": "."},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(outputs)
    results = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]
    shared = [key for key in results[0]["state"] if "running" not in key]  # batch norm's statistics are each rank's own
    for result in results:
        assert result["search"] == results[0]["search"]
        assert all(torch.equal(result["state"][key], results[0]["state"][key]) for key in shared)
    history = unpack(results[0]["search"]["history"], results[0]["search"]["initial"])
    assert len(history) == 3
    assert any(len(set(p)) > 1 for p in history[0].probability.values())  # the weights were trained, under DDP, too
    assert len(list((tmp_path / "rank0").glob("local_search_config*.json"))) == 3
    assert not list((tmp_path / "rank1").glob("local_search_config*.json"))


@pytest.mark.defect(29)
def test_a_plain_runner_fails_instead_of_searching_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"nothing in a Runner.*runner_type = \"RFSearchRunner\".*build_runner"):
        train(tmp_path, runner_type="Runner")


def test_mmcv_cannot_put_its_own_hook_in_the_place_of_this_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("mmcv.cnn", reason="mmcv-lite is not installed")
    assert HOOKS.get("RFSearchHook") is RFSearchHook


def test_build_runner_needs_the_hook(tmp_path: Path) -> None:
    assert isinstance(build_runner(Config(settings_of(tmp_path, runner_type="Runner"))), RFSearchRunner)
    with pytest.raises(ValueError, match="nothing to search"):
        build_runner(settings_of(tmp_path, custom_hooks=[{"type": "EMAHook"}]))


def test_two_hooks_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 RFSearchHooks"):
        train(tmp_path, custom_hooks=[hook(), hook()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_branch": 3}, "config.search has no argument 'num_branch'; did you mean 'num_branches'?"),
        ({"S": 3}, "config.search has no argument 'S'; it has step, max_step,"),
        ({"init_alphas": 1}, "init_alphas is always 0.01, got 1"),
        ({"skip_layer": "stem"}, "skip_layer is a list of names, got 'stem'"),
        ({"skip_layer": 5}, "skip_layer is a list of names, got 5"),
        ({"search_interval": 0}, "search_interval is at least 1, got 0"),
        ({"search_interval": "1"}, "search_interval is one integer, got '1'"),
        ({"max_step": 11.0}, "max_step is one integer, got 11.0"),
        ({"num_branches": None}, "num_branches is one integer, got None"),
        ({"exp_rate": "0.5"}, "exp_rate is one number, got '0.5'"),
        ({"mmin": True}, "mmin is one integer, got True"),
        ({"num_branches": 1}, "at least 2 branches and at most 1024, got 1"),
        ({"mmax": 0}, "Bounds.max is 0"),
        ({"rule": "papers"}, "unknown rule 'papers'"),
        ({"mode": "serch"}, "unknown mode 'serch'; known: search, fixed_single_branch, fixed_multi_branch"),
        ({"mode": "fixed_multi_branch"}, "mode 'fixed_multi_branch' needs rfstructure_file"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is compared below)
        HOOKS.build(hook(**changes))
    assert message in str(error.value)


def test_an_unknown_entry_of_config_is_named() -> None:
    with pytest.raises(ValueError, match="config has no entry 'serach'"):
        RFSearchHook(config={"serach": {}})
    with pytest.raises(ValueError, match=r"'search' in config is a dict, got \[1\]"):
        RFSearchHook(config={"search": [1]})


@pytest.mark.defect(26)
def test_the_config_is_not_changed(tmp_path: Path) -> None:
    config = hook()
    before = json.dumps(config)
    train(tmp_path, custom_hooks=[config])
    assert json.dumps(config) == before


@pytest.mark.parametrize(
    ("skip_layer", "searched"),
    [
        (["layer1"], {"stem", "layer10.0"}),  # not layer10: defect 27
        (["layer10.0"], {"stem", "layer1.1"}),
        (["module.layer1"], {"stem", "layer10.0"}),
        (None, {"stem", "layer1.1", "layer10.0"}),
    ],
)
@pytest.mark.defect(27)
def test_skipped_layers_are_named_in_full(skip_layer: list[str] | None, searched: set[str]) -> None:
    model = Repeater()
    HOOKS.build(hook(skip_layer=skip_layer)).prepare(model)
    assert set(searched_convs(model)) == searched


def test_a_skipped_layer_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="skip_layer names 'layer', which no module.*did you mean 'layer1"):
        HOOKS.build(hook(skip_layer=["layer"])).prepare(Repeater())


def structure_file(folder: Path, structure: dict[str, Any]) -> str:
    path = folder / "structure.json"
    path.write_text(json.dumps({"search": {}, "structure": structure}))
    return str(path)


def test_fixed_modes_train_with_a_structure(tmp_path: Path) -> None:
    file = structure_file(tmp_path, {"module.layer1.1": 6, "module.layer10.0": [1, 5]})
    single = train(tmp_path, custom_hooks=[hook("fixed_single_branch", rfstructure_file=file)])
    assert not searched_convs(single.model)
    assert single.model.layer1[1].dilation == (6, 6)
    assert single.model.layer10[0].dilation == (1, 5)

    multi = train(tmp_path, custom_hooks=[hook("fixed_multi_branch", rfstructure_file=file)])
    convs = searched_convs(multi.model)
    assert {name: conv.dilations for name, conv in convs.items()} == {
        "layer1.1": ((3, 3), (9, 9)),
        "layer10.0": ((1, 2), (1, 8)),
    }
    assert all(len(set(conv.branch_weight.tolist())) == 2 for conv in convs.values())  # trained
    assert not list(tmp_path.glob("local_search_config*"))

    resumed = train(
        tmp_path,
        custom_hooks=[hook("fixed_multi_branch", rfstructure_file=file)],
        train_cfg={"by_epoch": True, "max_epochs": EPOCHS + 1},
        resume=True,
    )
    assert resumed.epoch == EPOCHS + 1


def test_a_fixed_training_goes_on_with_its_own_structure_alone(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = []
    for dilation in (6, 7):
        (tmp_path / str(dilation)).mkdir()
        file = structure_file(tmp_path / str(dilation), {"layer1.1": dilation, "layer10.0": [1, 5]})
        settings.append({"custom_hooks": [hook("fixed_single_branch", rfstructure_file=file)]})
    work = tmp_path / "work"
    train(work, train_cfg={"by_epoch": True, "max_epochs": 1}, **settings[0])
    with pytest.raises(ValueError, match=r"cannot resume: the checkpoint is of another structure than .*/7/"):
        train(work, resume=True, **settings[1])
    assert train(work, resume=True, **settings[0]).epoch == EPOCHS


def test_a_search_may_start_from_a_structure(tmp_path: Path) -> None:
    file = structure_file(tmp_path, {"module.layer1.1": [6, 6], "module.layer10.0": [1, 5]})
    by_file = HOOKS.build(hook(rfstructure_file=file)).prepare(Repeater())
    inside = hook()
    inside["config"]["structure"] = {"layer1.1": [6, 6], "layer10.0": [1, 5]}
    for following in (by_file, HOOKS.build(inside).prepare(Repeater())):
        assert dict(following.search.initial) == {"layer1.1": (6, 6), "layer10.0": (1, 5)}


def test_an_anchor_goes_from_the_config_into_files_and_fixed_modes(tmp_path: Path) -> None:
    anchored = hook()
    anchored["config"]["anchor"] = ["centre", "last"]
    runner = train(tmp_path, custom_hooks=[anchored])
    search = search_of(runner)
    assert search.structure().anchors == dict.fromkeys(("layer1.1", "layer10.0"), ("centre", "last"))
    file = tmp_path / "local_search_config_step3.json"
    assert json.loads(file.read_text())["version"] == 2  # so that versions without anchors refuse it
    assert Structure.load(file).anchors == search.structure().anchors
    expected, x = Repeater(), torch.randn(1, 1, 8, 16)
    Structure(search.history[-1].structure, ("centre", "last")).apply(expected)
    for mode in ("fixed_single_branch", "fixed_multi_branch"):
        model = Repeater()
        HOOKS.build(hook(mode, rfstructure_file=str(file), num_branches=3)).prepare(model)
        rfnext.Structure({"layer1.1": search.history[-1].structure["layer1.1"]}).apply(model)
        assert Structure.read(model).anchors == search.structure().anchors
        if mode == "fixed_single_branch":
            torch.testing.assert_close(model(x), expected(x))
    # A file without anchors is found in the published format, and takes the config's.
    silent = hook(
        "fixed_single_branch", rfstructure_file=structure_file(tmp_path, {"layer1.1": 6, "layer10.0": [1, 5]})
    )
    silent["config"]["anchor"] = ["centre", "last"]
    HOOKS.build(silent).prepare(model := Repeater())
    assert Structure.read(model).anchors == search.structure().anchors
    anchored["config"]["anchor"] = "first"
    with pytest.raises(ValueError, match=r"layer 'layer1\.1': anchor 'first' is neither"):
        HOOKS.build(anchored).prepare(Repeater())


@pytest.mark.parametrize("mode", ["search", "fixed_single_branch", "fixed_multi_branch"])
def test_the_structure_of_another_network_is_an_error_and_changes_nothing(mode: str, tmp_path: Path) -> None:
    model = Repeater()
    before = str(model)
    file = structure_file(tmp_path, {"module.layer1.1": 6, "module.layer11.0": [1, 5]})
    with pytest.raises(ValueError, match="structure.json: layer 'layer11.0' of the structure is not in the model"):
        HOOKS.build(hook(mode, rfstructure_file=file)).prepare(model)
    file = structure_file(tmp_path, {"module.layer1.1": 6})
    with pytest.raises(ValueError, match="structure.json: the structure has no entry for layer 'layer10.0'"):
        HOOKS.build(hook(mode, rfstructure_file=file)).prepare(model)
    assert str(model) == before


def test_a_plain_checkpoint_loads_into_the_wrapped_model(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", runner_type="Runner", custom_hooks=[])
    checkpoint = str(tmp_path / "plain" / f"epoch_{EPOCHS}.pth")
    frozen = {"optimizer": {"type": "SGD", "lr": 0.0}}
    runner = train(tmp_path, load_from=checkpoint, optim_wrapper=frozen, train_cfg={"by_epoch": True, "max_epochs": 1})
    state = rfnext.plain_state_dict(runner.model.state_dict())
    for key, value in plain.model.state_dict().items():
        if "running" not in key and "tracked" not in key:
            assert torch.equal(state[key], value), key
    assert search_of(runner).step == 1


def test_init_cfg_is_honoured_before_the_model_is_wrapped(tmp_path: Path) -> None:
    """Initialisers go by class names, and a weights file by init_cfg; both must reach the searched convs."""
    constant = {"type": "Constant", "layer": "Conv2d", "val": 0.25, "bias": 0.5}
    still: Any = {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.0}}}
    runner = train(tmp_path, model={"type": "Repeater", "init_cfg": constant}, **still)
    convs = [module for module in runner.model.modules() if isinstance(module, nn.Conv2d)]
    assert all(bool((conv.weight == 0.25).all()) and bool((conv.bias == 0.5).all()) for conv in convs)

    torch.save({key: value + 1 for key, value in Repeater().state_dict().items()}, tmp_path / "weights.pth")
    weights = {"type": "Pretrained", "checkpoint": str(tmp_path / "weights.pth")}
    runner = train(tmp_path, model={"type": "Repeater", "init_cfg": weights}, **still)
    assert torch.equal(runner.model.layer1[1].weight, Repeater().layer1[1].weight + 1)
    assert search_of(runner).round == 3


def test_a_search_checkpoint_is_tested_as_the_same_function(tmp_path: Path) -> None:
    trained = train(tmp_path)
    checkpoint = str(tmp_path / f"epoch_{EPOCHS}.pth")
    x = Images().images
    expected = trained.model.eval()(x)

    @HOOKS.register_module(force=True)
    class Outputs(Hook):
        def before_test_epoch(self, runner: Runner) -> None:
            torch.testing.assert_close(runner.model.eval()(x), expected, rtol=0, atol=0)
            runner.message_hub.update_info("compared", True)

    tested = RUNNERS.build(
        Config(
            settings_of(
                tmp_path,
                load_from=checkpoint,
                test_dataloader=loader(),
                test_cfg={},
                test_evaluator={"type": "mmengine.DumpResults", "out_file_path": str(tmp_path / "out.pkl")},
                custom_hooks=[hook(), {"type": "Outputs"}],
            )
        )
    )
    tested.test()
    assert tested.message_hub.get_info("compared")


def test_the_plain_hook_attaches_a_search_to_any_runner(tmp_path: Path) -> None:
    def run(folder: Path, epochs: int, resume: bool) -> Runner:
        model = Repeater()
        config = LocalConfig(interval=1, rounds=3, bounds=Bounds(1, 24))
        search = LocalSearch(model.layer1, config)
        hooks = [LocalSearchHook(search, every="epoch")]
        changes: Any = {"train_cfg": {"by_epoch": True, "max_epochs": epochs}, "resume": resume}
        settings = settings_of(folder, model=model, custom_hooks=hooks, **changes)
        del settings["runner_type"]
        runner = Runner(**settings)
        with checkpoint_globals():
            runner.train()
        return runner

    whole = run(tmp_path / "whole", EPOCHS, False)
    assert search_of(whole).round == 3
    assert not list((tmp_path / "whole").glob("*.json"))
    run(tmp_path / "parts", 2, False)
    assert_same(run(tmp_path / "parts", EPOCHS, True), whole)


def test_an_optimizer_without_the_branch_weights_is_an_error(tmp_path: Path) -> None:
    search = LocalSearch(Repeater(), LocalConfig())  # not the model that is trained
    settings = settings_of(tmp_path, custom_hooks=[LocalSearchHook(search)], model=Repeater())
    del settings["runner_type"]
    with pytest.raises(RuntimeError, match="does not hold the branch weights.*before the optimizer"):
        Runner(**settings).train()
    with pytest.raises(ValueError, match="every must be 'epoch' or 'iteration', got 'step'"):
        LocalSearchHook(search, every="step")  # type: ignore[arg-type]


def test_rounds_are_logged(tmp_path: Path) -> None:
    runner = train(tmp_path, log_level="INFO")
    (log,) = tmp_path.rglob("*.log")
    text = log.read_text()
    assert "RFSearchHook: search, 2 convs searched" in text
    for number, round_ in enumerate(search_of(runner).history, start=1):
        assert f"local search: round {number} moved" in text
        assert round_.step == number
