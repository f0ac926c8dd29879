"""The command line on real photographs and scenes: pictures, JSON, and checkpoints that hold branches."""

import dataclasses
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from rfnext import LocalSearch, Structure
from rfnext.convs.conv import SearchConv
from tasks import checkpoint, scenes
from tasks.coco_detection import illustrate, predict, task
from tasks.coco_detection.config import PRESETS
from tasks.coco_detection.detectors import searched
from tasks.coco_detection.training import CHECKPOINT, fit
from tasks.spec import SELECTED, Run
from tests.tasks.coco_detection.bombs import bomb


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """A search's checkpoints, and two images."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = task.build(config)
    search = LocalSearch(model, config.search, searched)
    fit(model, config, Run(0, 1, folder, search=search, device="cpu"))
    source = scenes.Source.open(1, held_out=True, digits=3)
    for number in range(2):
        Image.fromarray(scenes.compose(source, f"predict {number}").image[:, : 256 - 40 * number]).save(
            folder / f"scene{number}.png"
        )
    return folder


def run(folder, *more, checkpoint=SELECTED, out="out"):
    images = [str(folder / f"scene{number}.png") for number in range(2)]
    return predict.main([*images, "--checkpoint", str(folder / checkpoint), "--out", str(folder / out), *more])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11, numpy 2
def test_writes_pictures_and_json(folder, capsys):
    assert run(folder, "--threshold", "0", "--device", "cpu") == 0
    assert "holds the branches of" in capsys.readouterr().out
    results = json.loads((folder / "out/predictions.json").read_text())
    assert [result["image"] for result in results] == [str(folder / f"scene{number}.png") for number in range(2)]
    for number, result in enumerate(results):
        with Image.open(folder / f"out/scene{number}.png") as picture:
            assert picture.size == (256 - 40 * number, 256)
        assert result["instances"]
        for instance in result["instances"]:
            assert instance["class"] in {"digit 0", "digit 1", "digit 2"}
            left, top, right, bottom = instance["box"]
            assert 0 <= left < right <= 256 - 40 * number
            assert 0 <= top < bottom <= 256
            assert rle.decode(instance["mask"]).shape == (256, 256 - 40 * number)
    assert run(folder, "--threshold", "1", "--device", "cpu", "--out", str(folder / "none")) == 0
    assert all(not result["instances"] for result in json.loads((folder / "none/predictions.json").read_text()))


def test_a_selected_network_is_opened_with_its_branches(config, folder):
    """Its features are those of the searched network, not those of the plain one with the same weights."""
    opened = predict.open_trained(folder / SELECTED)
    assert opened.classes == ("digit 0", "digit 1", "digit 2")
    state = opened.model.state_dict()
    convs = {name for name, conv in opened.model.named_modules() if isinstance(conv, SearchConv)}
    assert convs == {key.removesuffix(".branch_weight") for key in state if key.endswith(".branch_weight")}
    original = task.build(config)
    LocalSearch(original, config.search, searched)
    checkpoint.load_weights(original, folder / SELECTED)
    image = torch.rand(1, 3, 64, 64)
    original.eval()
    with torch.no_grad():
        for one, other in zip(opened.model.extract_feat(image), original.extract_feat(image), strict=True):
            assert torch.equal(one, other)
        plain = task.build(config).eval()
        plain.load_state_dict(
            {k: v for k, v in state.items() if k.split(".")[-1] not in ("branch_weight", "_extra_state")}
        )
        assert not torch.allclose(plain.extract_feat(image)[0], opened.model.extract_feat(image)[0], atol=1e-4)


def test_a_single_branch_network_of_own_data_and_overrides_is_opened_as_it_was(own_data, tmp_path):
    config = dataclasses.replace(PRESETS["folder"], root=own_data(), size="tiny", image=96, detector="pvtv2-boxes")
    model = task.build(config)
    structure = Structure({name: (3,) * len(d) for name, d in list(Structure.read(model, searched).items())[:3]})
    structure.apply(model)
    checkpoint.save(tmp_path / "model.pt", "coco_detection", config, model, task.TASK.facts(config))
    shutil.rmtree(config.root / "annotations")  # the file says everything
    opened = predict.open_trained(tmp_path / "model.pt")
    assert opened.classes == ("thing",)
    assert {tuple(opened.model.get_submodule(name).dilation) for name in structure} == {(3, 3)}
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        for one, other in zip(opened.model.extract_feat(image), model.eval().extract_feat(image), strict=True):
            assert torch.equal(one, other)
    (sample,) = predict.detect(opened, [config.root / "val2017/000.jpg"])
    assert "masks" not in sample.pred_instances
    assert (sample.ori_shape, sample.img_shape) == ((64, 96), (64, 96))


def test_turned_images_are_predicted_and_drawn_upright(folder, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(folder / "scene1.png") as image:
        image.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
        stored = image.size
    out = tmp_path / "out"
    arguments = [str(tmp_path / "turned.jpg"), "--checkpoint", str(folder / SELECTED), "--out", str(out)]
    assert predict.main([*arguments, "--threshold", "0", "--device", "cpu"]) == 0
    with Image.open(out / "turned.png") as picture:
        assert picture.size == stored[::-1]
    (result,) = json.loads((out / "predictions.json").read_text())
    assert {tuple(instance["mask"]["size"]) for instance in result["instances"]} == {stored}


def test_opens_an_mmengine_config(config, folder, tmp_path):
    from tasks.coco_detection.detectors import model_config
    from tasks.coco_detection.mmdetection.recipes import recipe

    (tmp_path / "small_res2net_config.py").write_text(
        'custom_imports = dict(imports=["tasks.coco_detection.small_res2net"], allow_failed_imports=False)\n'
        f"model = {model_config('res2net', 'tiny', 3, 3).to_dict()}\n"
        f"test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline={recipe(config).test_pipeline},\n"
        "    metainfo=dict(classes=('a', 'b', 'c'))))\n"
        'custom_hooks = [dict(type="RFSearchHook", mode="search")]\n'
    )
    opened = predict.open_config(tmp_path / "small_res2net_config.py", folder / CHECKPOINT)
    assert opened.classes == ("digit 0", "digit 1", "digit 2")  # of the data that it was trained on
    assert sum(isinstance(module, SearchConv) for module in opened.model.modules()) > 10
    (sample,) = predict.detect(opened, [folder / "scene1.png"])
    assert sample.ori_shape == (256, 216)
    # The dilations of a single-branch network are not in such a checkpoint: nothing is opened without them.
    weights = torch.load(folder / CHECKPOINT, weights_only=True)["state_dict"]
    torch.save(weights, tmp_path / "weights.pth")
    assert predict.open_config(tmp_path / "small_res2net_config.py", tmp_path / "weights.pth").classes == (
        "a",
        "b",
        "c",
    )
    torch.save({"state_dict": weights, "meta": {"cfg": "mode = 'fixed_single_branch'"}}, tmp_path / "single.pth")
    with pytest.raises(ValueError, match="single.pth was trained with the dilations of a structure, .* --structure"):
        predict.open_config(tmp_path / "small_res2net_config.py", tmp_path / "single.pth")


class TestBadInput:
    def fails(self, capsys, arguments, status=1):
        assert predict.main([str(argument) for argument in arguments]) == status
        return capsys.readouterr().err

    def is_wrong_usage(self, capsys, arguments):
        with pytest.raises(SystemExit, match="2"):
            predict.main([str(argument) for argument in arguments])
        return capsys.readouterr().err

    def test_one_clear_error_each(self, folder, tmp_path, capsys):
        image, good = folder / "scene0.png", folder / SELECTED
        broken = tmp_path / "broken.pt"
        broken.write_bytes(good.read_bytes()[:5000])
        assert "broken.pt is not a readable checkpoint" in self.fails(capsys, [image, "--checkpoint", broken])
        assert "none.pt" in self.fails(capsys, [image, "--checkpoint", tmp_path / "none.pt"])
        assert "none.png" in self.fails(capsys, [tmp_path / "none.png", "--checkpoint", good])
        assert "two images have the same name" in self.is_wrong_usage(capsys, [image, image, "--checkpoint", good])
        onto_itself = [image, "--checkpoint", good, "--out", folder / "."]
        assert "pictures of predictions would replace the images" in self.is_wrong_usage(capsys, onto_itself)
        last = self.fails(capsys, [image, "--checkpoint", folder / CHECKPOINT])
        assert "last.pth is not a checkpoint of format" in last
        assert "model.pt" in last
        assert "--structure is for --config and --published alone" in self.is_wrong_usage(
            capsys, [image, "--checkpoint", good, "--structure", tmp_path / "x.json"]
        )

    def test_images_that_cannot_be_used(self, folder, tmp_path, capsys):
        """Each ends with one line before anything is written, whatever the images before it are."""
        image, good, broken = folder / "scene0.png", folder / SELECTED, tmp_path / "x.jpg"
        whole = io.BytesIO()
        Image.open(image).convert("RGB").save(whole, "JPEG")
        png = image.read_bytes()
        contents = {
            b"": "has 0 bytes",
            b"no image": "cannot be read (cannot identify image file)",
            whole.getvalue()[:-100]: "is cut off",
            png[: len(png) // 2]: "is cut off",
            png[:1000] + bytes(1000) + png[2000:]: "cannot be",
            bomb(30_000, 30_000): "has 900,000,000 pixels, at most 134,217,728 are read; make it smaller",
        }
        out = ["--checkpoint", good, "--out", tmp_path / "out"]
        (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
        assert "loop.png" in self.fails(capsys, [tmp_path / "loop.png", *out])
        for content, message in contents.items():
            broken.write_bytes(content)
            error = self.fails(capsys, [image, broken, *out], 3)
            assert error.startswith(f"error: {broken}: {message}")
            assert error.count("\n") == 1
        broken.unlink()
        broken.mkdir()
        assert "x.jpg: is a folder; put an image file there" in self.fails(capsys, [image, broken, *out], 3)
        broken.rmdir()
        os.mkfifo(broken)
        assert "x.jpg: is a pipe or a device; put" in self.fails(capsys, [image, broken, *out], 3)
        assert not (tmp_path / "out").exists()

    def test_a_config_from_a_folder_of_data_is_not_executed(self, own_data, folder, tmp_path, capsys):
        root, ran = own_data(), tmp_path / "ran"
        for name in ("train2017/config.py", "annotations/deep/er/config.yaml"):
            config = root / name
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(f"open({str(ran)!r}, 'w')" if name.endswith("py") else "a: !!python/name:os.system")
            given = [folder / "scene0.png", "--config", config, "--checkpoint", folder / CHECKPOINT]
            assert f"{config} lies in a folder of data, {root}, and reading a config" in self.fails(capsys, given)
            link = tmp_path / f"link{config.suffix}"
            link.symlink_to(config)
            given[2] = link
            assert f"{link} lies in a folder of data, {root}, and reading a config" in self.fails(capsys, given)
        assert not ran.exists()
        loop = tmp_path / "loop.py"
        loop.symlink_to(loop)
        given = [folder / "scene0.png", "--config", loop, "--checkpoint", folder / CHECKPOINT]
        assert "loop.py: Too many levels of symbolic links" in self.fails(capsys, given)

    def test_of_another_config(self, config, folder, tmp_path, capsys):
        from tasks.coco_detection.detectors import model_config

        (tmp_path / "pvtv2_config.py").write_text(
            f"model = {model_config('pvtv2', 'tiny', 3, 3).to_dict()}\n"
            "test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[]))\n"
        )
        broken = tmp_path / "weights.pth"
        rest = ["--config", tmp_path / "pvtv2_config.py", "--checkpoint"]
        error = self.fails(capsys, [folder / "scene0.png", *rest, folder / CHECKPOINT])
        assert "has branches for layer 'backbone.layer2.0." in error
        torch.save({"a": torch.zeros(2)}, broken)
        assert "does not fit the config's detector: " in self.fails(capsys, [folder / "scene0.png", *rest, broken])
        torch.save([1, 2], broken)
        assert "holds no state_dict" in self.fails(capsys, [folder / "scene0.png", *rest, broken])


def test_draws_boxes_masks_and_segments():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData

    image = np.full((40, 60, 3), 128, dtype=np.uint8)
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 25:38, 5:20] = True
    found = InstanceData(
        bboxes=torch.tensor([[4.0, 24.0, 21.0, 39.0], [30.0, 2.0, 50.0, 20.0]]),
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([0, 1]),
        masks=masks,
    )
    drawn = illustrate.draw(image, DetDataSample(pred_instances=found), ["a", "b"], 0.5)
    changed = (drawn != image).any(axis=2)
    assert changed[25:38, 5:20].all()
    assert not changed[2:20, 30:].any()  # the second one is below the threshold
    assert (illustrate.draw(image, DetDataSample(pred_instances=found), ["a", "b"], 0.95) == image).all()
    ids = torch.zeros(1, 40, 60, dtype=torch.long)
    ids[0, :, 30:], ids[0, :10] = 1001, 2
    drawn = illustrate.draw(image, DetDataSample(pred_panoptic_seg=PixelData(sem_seg=ids)), ["a", "b"], 0.5)
    assert len({tuple(pixel) for pixel in drawn.reshape(-1, 3).tolist()}) == 3  # class 2 is void
    assert (drawn[:10] == 128).all()


def test_colours_differ():
    assert len({illustrate.colour(number) for number in range(100)}) == 100
