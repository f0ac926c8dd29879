"""The 20 configs: they build, the published structures fit them, and each detector trains and predicts."""

import copy
import functools
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="mmdet is not installed")

from tasks.coco_detection import configs

configs.load(configs.FOLDER / "convnext_baseline.py")  # imports mmpretrain, which must come after the stand-in
from mmdet.registry import MODELS  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402
from mmengine.registry import HOOKS, RUNNERS, DefaultScope  # noqa: E402

from rfnext import LocalSearch, Structure  # noqa: E402
from rfnext.integrations.mmengine import RFSearchHook, RFSearchRunner  # noqa: E402
from rfnext.ops.pins import pin_implementation  # noqa: E402
from rfnext.structure import searched_convs  # noqa: E402

# published file, its entries, and why the searchable convs without an entry have none: they are skipped
PUBLISHED = {
    "convnext": ("mmdet__convnext_cascade_maskrcnn__local_search_config_step11.json", 47, {}),
    "pvtv2": ("mmdet__mask_rcnn_pvtv2-b0_fpn_1x_coco__local_search_config_step10.json", 21, {}),
    "res2net": (
        "mmdet__cascade_mask_rcnn_r2_101_fpn_20e_coco__local_search_config_step11.json",
        107,
        {"backbone.stem": 3, "backbone.layer1": 9},
    ),
    "hrnet": (
        "mmdet__cascade_mask_rcnn_hrnetv2p_w18_20e_coco__local_search_config_step11.json",
        279,
        {"backbone.layer1": 4},
    ),
    "panoptic": (
        "mmdet__panoptic_fpn_r2_50_fpn_fp16_1x_coco__local_search_config_step10.json",
        55,
        {"backbone.stem": 3, "backbone.layer1": 9},
    ),
}


@functools.cache
def config_of(detector: str, mode: str) -> Any:
    return configs.load(configs.FOLDER / f"{detector}_{mode}.py")


@functools.cache
def _built(detector: str) -> nn.Module:
    torch.manual_seed(0)
    config = copy.deepcopy(config_of(detector, "baseline").model)
    stages = config.train_cfg.rcnn if isinstance(config.train_cfg.rcnn, list) else [config.train_cfg.rcnn]
    for stage in stages:  # heads take most of the time on a CPU, by the number of boxes
        stage.sampler.num = 8
    config.test_cfg.rpn.max_per_img = 8
    with DefaultScope.overwrite_default_scope("mmdet"), warnings.catch_warnings():
        # On what the panoptic head's loss averages over: mmdet's own recipe.
        warnings.filterwarnings("ignore", "Default ``avg_non_ignore`` is False", UserWarning)
        return MODELS.build(config)


def model_of(detector: str) -> nn.Module:
    """The untrained detector; weights are not downloaded, since nobody calls init_weights()."""
    return copy.deepcopy(_built(detector))


def hook_of(config: Any, **changes: Any) -> RFSearchHook:
    (settings,) = config.custom_hooks
    with DefaultScope.overwrite_default_scope("mmdet"):
        return HOOKS.build({**settings, **changes})


@pytest.mark.defect(30)
def test_every_config_file_is_one_of_the_twenty() -> None:
    names = {f"{detector}_{mode}.py" for detector in configs.DETECTORS for mode in configs.MODES}
    assert {path.name for path in configs.FOLDER.glob("*.py")} == names | {"__init__.py"}
    assert len(names) == 20


@pytest.mark.parametrize("detector", configs.DETECTORS)
def test_modes_differ_in_the_hook_alone(detector: str) -> None:
    baseline = config_of(detector, "baseline")
    assert "runner_type" not in baseline
    assert not baseline.get("custom_hooks")
    for mode in configs.MODES[1:]:
        config = config_of(detector, mode)
        assert RUNNERS.get(config.runner_type) is RFSearchRunner
        assert "rfnext.integrations.mmengine" in config.custom_imports.imports
        for key in baseline:
            if key not in ("custom_imports", "custom_hooks"):
                assert config[key] == baseline[key], key


@pytest.mark.parametrize(
    ("detector", "epochs", "max_step", "skip_layer"),
    [
        ("convnext", 36, 12, ()),
        ("pvtv2", 12, 11, ()),
        ("res2net", 20, 12, ("stem", "layer1")),
        ("hrnet", 20, 12, ("layer1",)),
        ("panoptic", 12, 11, ("stem", "layer1")),
    ],
)
@pytest.mark.defect(30)
def test_settings_are_the_published_ones(
    detector: str, epochs: int, max_step: int, skip_layer: tuple[str, ...]
) -> None:
    """METHOD.md, Local search: 2 branches, e = 0.5, 1 to 24, one round per epoch at steps below max_step."""
    assert config_of(detector, "search").train_cfg.max_epochs == epochs
    for mode in configs.MODES[1:]:
        file = config_of(detector, mode).custom_hooks[0].get("rfstructure_file")
        hook = hook_of(config_of(detector, mode))
        assert hook.mode == mode
        assert hook.by_epoch
        assert hook.settings.skip_layer == skip_layer
        local = hook.local_config
        assert (local.branches, local.spread, local.bounds.min, local.bounds.max) == (2, 0.5, 1, 24)
        if mode == "search":
            assert (local.interval, local.rounds) == (1, max_step - 1)
            assert file is None
        else:  # the last file that the search writes: max_step is exclusive
            assert file == f"work_dirs/{detector}_search/local_search_config_step{max_step - 1}.json"


@pytest.mark.parametrize("detector", configs.DETECTORS)
def test_published_structures_fit_with_every_entry_used(detector: str, shared: Path, tmp_path: Path) -> None:
    name, entries, without = PUBLISHED[detector]
    file = shared / "structures" / name
    structure = Structure.load(file)
    assert len(structure) == entries

    model = model_of(detector)
    searchable = Structure.read(model)
    assert not set(structure) - set(searchable)
    missing = set(searchable) - set(structure)
    counted = {part: sum(layer.startswith(f"{part}.") for layer in missing) for part in without}
    assert counted == without
    assert sum(counted.values()) == len(missing)

    single = model_of(detector)
    assert hook_of(config_of(detector, "fixed_single_branch"), rfstructure_file=str(file)).prepare(single) is None
    applied = Structure.read(single)
    for layer in searchable:
        expected = structure.get(layer, searchable[layer])
        assert applied[layer] in (expected, expected * 2), layer
    assert not searched_convs(single)

    multi = model_of(detector)
    assert hook_of(config_of(detector, "fixed_multi_branch"), rfstructure_file=str(file)).prepare(multi) is None
    assert set(searched_convs(multi)) == set(structure)

    following = hook_of(config_of(detector, "search")).prepare(model)
    assert following is not None
    assert set(following.search.structure()) == set(structure)


@pytest.mark.parametrize(
    "detector",
    [
        pytest.param("convnext", marks=pytest.mark.slow),
        "pvtv2",
        pytest.param("res2net", marks=pytest.mark.slow),
        pytest.param("hrnet", marks=pytest.mark.slow),
        "panoptic",
    ],
)
@pytest.mark.defect(30)
def test_one_training_step_and_one_prediction(detector: str) -> None:
    torch.manual_seed(0)
    model = revert_sync_batchnorm(model_of(detector))
    following = hook_of(config_of(detector, "search")).prepare(model)
    assert following is not None
    panoptic = detector == "panoptic"
    inputs = demo_mm_inputs(
        1, [(3, 128, 128)], num_classes=80, with_mask=True, with_semantic=panoptic, use_box_type=False
    )
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    before = [weight.detach().clone() for weight in following.search.branch_weights()]
    with pin_implementation("taps"):
        losses = model.train().train_step(inputs, optimizer)
    assert all(torch.isfinite(value).all() for value in losses.values())
    moved = sum(not torch.equal(a, b) for a, b in zip(before, following.search.branch_weights(), strict=True))
    assert moved > 0.8 * len(before)  # ConvNeXt drops some blocks at random

    model.eval()
    with torch.no_grad(), pin_implementation("taps"):
        (found,) = model.test_step(inputs)
    if panoptic:
        assert tuple(found.pred_panoptic_seg.sem_seg.shape) == (1, 128, 128)
    else:
        boxes = found.pred_instances
        assert tuple(boxes.bboxes.shape) == (len(boxes), 4)
        assert tuple(boxes.masks.shape) == (len(boxes), 128, 128)


@pytest.mark.slow
def test_the_runner_of_a_config_loads_the_weights_that_it_names_before_it_wraps(tmp_path: Path) -> None:
    config = copy.deepcopy(config_of("hrnet", "search"))
    state = {name: torch.full_like(value, 0.5) for name, value in model_of("hrnet").backbone.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    config.model.backbone.init_cfg.checkpoint = str(tmp_path / "weights.pth")
    config.work_dir = str(tmp_path)
    config.experiment_name = "weights"
    runner = RUNNERS.build(config)
    assert isinstance(runner, RFSearchRunner)
    runner.prepare(training=True)
    searched = searched_convs(runner.model)
    assert len(searched) == 279
    loaded = runner.model.backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    (search,) = [hook.search for hook in runner.hooks if hasattr(hook, "search")]
    assert isinstance(search, LocalSearch)


def test_stem_names_of_the_weights_that_the_panoptic_config_asks_for() -> None:
    """Its first lines rename conv1.* and bn1.* of Res2Net's authors; here back and forth, over mmdet's names."""
    stem = [key for key in model_of("panoptic").backbone.state_dict() if key.startswith("stem.")]
    ours = {key.replace("stem.7.", "bn1.").replace("stem.", "conv1."): torch.zeros(()) for key in stem}
    assert {key.partition(".")[0] for key in ours} == {"conv1", "bn1"}
    lines = (configs.FOLDER / "panoptic_baseline.py").read_text(encoding="utf-8").splitlines()
    (start,) = [i for i, line in enumerate(lines) if "for old, new in" in line]
    code = textwrap.dedent("\n".join(lines[start : start + 2]))
    names: dict[str, Any] = {"weights": ours}
    exec(code, names)  # noqa: S102 (what the config tells its reader to run)
    assert list(names["weights"]) == stem
