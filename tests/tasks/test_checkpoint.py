"""Networks in files: every form of every task comes back as the same function, and broken files are named."""

import dataclasses
import io
import zipfile

import pytest
import torch

import tasks
from rfnext import Bounds, LocalConfig, LocalSearch, Structure, keep_branches, merge
from tasks import checkpoint
from tasks.tts_vocoder.config import Config as Vocoder
from tasks.tts_vocoder.mels.mel import MelConfig

FORMS = ("designed", "single", "multi", "searching", "merged")
MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0)
VOCOS = Vocoder(dataset="folder", mel=MEL, segment=2048, generator="vocos", dim=16, layers=2)
FRAMES = {"features": 6, "classes": ["pour", "stir", "wait"]}


def configs():
    """Task, config, facts of the data, and an input of the network (or of its backbone)."""
    segmentation = tasks.load("action_segmentation").presets["tiny"]
    detection = tasks.load("coco_detection").presets["tiny"]
    frames, mel = torch.randn(2, 6, 40), torch.randn(2, 20, 9)
    return {
        "ms_tcn": ("action_segmentation", segmentation, FRAMES, frames),
        "ms_tcn_pp": ("action_segmentation", dataclasses.replace(segmentation, model="ms_tcn_pp"), FRAMES, frames),
        "detector": ("coco_detection", detection, {"classes": ["a", "b"], "things": 2}, torch.randn(1, 3, 64, 64)),
        "hifi_gan": (
            "tts_vocoder",
            dataclasses.replace(VOCOS, generator="hifi_gan_v3", channels=16, upsampling=(8, 8), dim=None, layers=None),
            {},
            mel,
        ),
        "vocos": ("tts_vocoder", VOCOS, {}, mel),
    }


def network(name, form="designed"):
    task, config, facts, _ = configs()[name]
    task = tasks.load(task)
    torch.manual_seed(0)
    model = task.build(config) if task.rebuild is None else task.rebuild(config, facts)
    search = LocalConfig(interval=1, rounds=1, branches=3, spread=0.5, bounds=Bounds(1, 2048))
    designed = Structure.read(model, task.where)
    structure = Structure({key: tuple(d + 1 for d in value) for key, value in designed.items()})
    if form == "single":
        structure.apply(model)
    elif form in ("multi", "merged"):
        keep_branches(model, structure, search)
    elif form == "searching":
        LocalSearch(model, search, task.where).after_step()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    if form == "merged":
        merge(model)
    return model.eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", configs())
@pytest.mark.filterwarnings("ignore:no branch weight has changed")
def test_comes_back_as_the_same_function(name, form, tmp_path):
    task, config, facts, x = configs()[name]
    model = network(name, form)
    path = tmp_path / "model.pt"
    checkpoint.save(path, task, config, model, facts)
    again = checkpoint.load(path, task)
    assert (again.task, again.config, again.facts) == (task, config, facts)
    assert not again.model.training
    where = tasks.load(task).where
    assert Structure.read(again.model, where) == Structure.read(model, where)
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (net.extract_feat(x)[0] if name == "detector" else net(x) for net in (again.model, model))
    assert torch.equal(one, other)


@pytest.mark.parametrize("form", FORMS[1:])
def test_weights_load_into_the_same_network_only(form, tmp_path):
    model = network("vocos", form)
    path = tmp_path / "model.pt"
    checkpoint.save(path, "tts_vocoder", VOCOS, model)
    same = network("vocos", form)
    for parameter in same.parameters():
        torch.nn.init.zeros_(parameter)
    checkpoint.load_weights(same, path)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), model.parameters(), strict=True))
    designed = network("vocos")
    before = [parameter.clone() for parameter in designed.parameters()]
    with pytest.raises(ValueError, match=r"model\.pt is of another network \(layer '.+' has "):
        checkpoint.load_weights(designed, path)
    assert all(torch.equal(a, b) for a, b in zip(before, designed.parameters(), strict=True))


def test_a_config_that_is_younger_than_the_file_gets_defaults(tmp_path):
    path = tmp_path / "model.pt"
    checkpoint.save(path, "tts_vocoder", VOCOS, network("vocos"))
    content = torch.load(path, weights_only=True)
    del content["config"]["ema"], content["config"]["search"]["spread"]
    rewrite(path, config=content["config"])
    assert checkpoint.load(path).config == dataclasses.replace(
        VOCOS, search=dataclasses.replace(VOCOS.search, spread=Vocoder().search.spread)
    )


def rewrite(path, **changes):
    content = torch.load(path, weights_only=True) | changes
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())


def doubled(value, times):
    """A list that has 2 ** times values, though a file holds each only once."""
    for _ in range(times):
        value = [value, value]
    return value


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


class TestBadFiles:
    @pytest.fixture
    def path(self, tmp_path):
        checkpoint.save(tmp_path / "model.pt", "tts_vocoder", VOCOS, network("vocos"))
        return tmp_path / "model.pt"

    @pytest.mark.parametrize("data", [b"", b"no checkpoint", b"PK\x03\x04"])
    def test_unreadable(self, path, data):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"model\.pt is not a readable checkpoint.*results/work"):
            checkpoint.load(path)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            checkpoint.load(tmp_path / "no.pt")

    def test_code_is_not_run(self, path):
        torch.save({"format": checkpoint.FORMAT, "state_dict": network("vocos").head}, path)  # a pickled object
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            checkpoint.load(path)

    def test_another_file(self, path):
        torch.save({"weight": torch.ones(1)}, path)
        with pytest.raises(ValueError, match="not a checkpoint of format 'rfnext checkpoint'"):
            checkpoint.load(path)

    def test_another_task(self, path):
        with pytest.raises(ValueError, match=r"model\.pt is a network of the task 'tts_vocoder', not of 'coco"):
            checkpoint.load(path, "coco_detection")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"task": "nothing"}, "unknown task 'nothing'"),
            ({"version": 2}, "has version 2, this program reads version 1"),
            ({"state_dict": {}}, "Missing key"),
            ({"convs": {"head": {}}}, "layer '.*' is in only one of"),
            ({"convs": None}, "has no convs"),
        ],
    )
    def test_contradictions(self, path, changes, message):
        rewrite(path, **changes)
        with pytest.raises(ValueError, match=rf"(?s)model\.pt .*{message}"):
            checkpoint.load(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"generator": "vocal"}, "generator"),
            ({"dim": 8}, "do not fit its weight"),
            ({"dim": 2**12, "layers": 2**7}, "a much larger network than its weights are of"),
            ({"dim": "16"}, "dim"),
            ({"width": 8}, "width"),
        ],
    )
    def test_configs_that_do_not_fit(self, path, changes, message):
        rewrite(path, config=torch.load(path, weights_only=True)["config"] | changes)
        with pytest.raises(ValueError, match=rf"(?s)model\.pt contradicts itself.*{message}.*results/work"):
            checkpoint.load(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kernel": [10**6]}, r"kernel \(1000000,\) is not that of its weight"),
            ({"groups": 0}, "0 groups do not fit"),
            ({"groups": "all"}, "'all' groups do not fit"),
            ({"dilation": [0]}, "positive"),
            ({"dilation": "wide"}, "dilation"),
            ({"branches": [3, "unknown"]}, "unknown"),
        ],
    )
    def test_convs_that_cannot_be(self, path, changes, message):
        content = torch.load(path, weights_only=True)
        layer = next(name for name, conv in content["convs"].items() if conv["kernel"] != [1])
        content["convs"][layer] |= changes
        rewrite(path, convs=content["convs"])
        with pytest.raises(ValueError, match=rf"(?s)model\.pt contradicts itself \(layer '{layer}'.*{message}"):
            checkpoint.load(path)

    @pytest.mark.parametrize(
        ("name", "classes", "message"),
        [
            ("detector", ["a", "b", "c"], "it names 3 classes, and a network of 2"),
            ("detector", "ab", "its classes are no list of names"),
            ("ms_tcn", ["pour", "stir", 3], "its classes are no list of names"),
        ],
    )
    def test_facts_that_are_not_those_of_the_network(self, path, name, classes, message):
        task, config, facts, _ = configs()[name]
        checkpoint.save(path, task, config, network(name), facts | {"classes": classes})
        with pytest.raises(ValueError, match=rf"model\.pt contradicts itself \({message}"):
            checkpoint.load(path)

    def test_compressed_files(self, path):
        stored = path.with_suffix(".zip")
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in archive.namelist():
                packed.writestr(name, archive.read(name))
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            checkpoint.load(stored)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (torch.zeros(3), "a Tensor among plain values"),
            (2**40, "the number 1.1e\\+12"),
            (doubled("a", 40), "more than 10000000 values"),
            (nested(100), "or more than 64 within each other"),
        ],
    )
    @pytest.mark.parametrize("part", ["config", "facts"])
    def test_small_files_that_would_fill_the_memory(self, path, part, value, message):
        rewrite(path, **{part: torch.load(path, weights_only=True)[part] | {"dim": value}})
        with pytest.raises(
            ValueError, match=rf"model\.pt is (no file that a training wrote|not a readable) .*{message}"
        ):
            checkpoint.load(path)

    def test_tensors_that_claim_more_than_is_stored(self, path):
        state = torch.load(path, weights_only=True)["state_dict"]
        name = next(name for name in state if name.endswith("weight"))
        rewrite(path, state_dict=state | {name: torch.zeros(1).expand(10**5, 10**5, 10**3)})
        with pytest.raises(ValueError, match=f"tensor '{name}' is larger than what is stored of it"):
            checkpoint.load(path)
