"""Exports and streams give what torch gives in one piece."""

import copy
import json
import os

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rfnext import Bounds, LocalConfig, LocalSearch, SearchConv
from rfnext.receptive_field import theoretical_receptive_field
from tasks.diverged import NotFinite
from tasks.tts_vocoder import export, generators
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig

MEL = MelConfig()
FAMILIES = {
    "hifi_gan_v1": {"channels": 8, "upsampling": (16, 16), "kernels": (3, 7), "dilations": ((1, 3), (1, 2))},
    "hifi_gan_v3": {"channels": 8, "upsampling": (16, 16), "kernels": (3, 5), "dilations": ((1,), (2,))},
    "parallel_wavegan": {"layers": 2, "stacks": 1, "channels": (6, 8, 10), "upsampling": (16, 16)},
    "vocos": {"dim": 16, "layers": 2},
    "source_filter": {"dim": 16, "layers": 2},
}


EXTRA = {generators.ParallelWaveGAN: ("noise",), generators.SourceFilter: ("source",)}


def searched_generator(name: str) -> generators.Generator:
    """In the midst of a search, with probabilities that are not equal, as loud as speech so that errors show."""
    generator = generators.build(name, MEL, **FAMILIES[name])
    config = LocalConfig(branches=3, spread=0.5, bounds=Bounds(1, 64))
    search = LocalSearch(generator, config, generators.searched)
    with torch.no_grad():
        for weight in search.branch_weights():
            weight.add_(0.005 * torch.randn_like(weight))
        gain = 0.1 / generator(mels(1, 40)).std()
        if isinstance(generator, generators.Vocos):
            generator.head.out.bias[:513] += gain.log()
        elif isinstance(generator, generators.HiFiGAN):
            generator.conv_post.weight = gain * generator.conv_post.weight
    return generator.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def generator(request):
    torch.manual_seed(0)
    return searched_generator(request.param)


@pytest.fixture(scope="module")
def onnx_file(generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "generator.onnx"
    export.to_onnx(generator, MEL, path)
    return path


def mels(batch: int, frames: int) -> torch.Tensor:
    return LogMel(MEL)(0.1 * torch.randn(batch, 256 * frames))


@torch.no_grad()
def one_shot(generator: generators.Generator, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    wave = generator(*inputs)
    assert wave.std() > 0.02  # else 1e-4 would mean little
    return wave


def test_onnx_equals_torch(generator, onnx_file):
    assert any(isinstance(module, SearchConv) for module in generator.modules())  # as it was
    session, config = export.load_onnx(onnx_file, threads=1)
    assert config == MEL
    names = [value.name for value in session.get_inputs()]
    assert names == ["mel", *EXTRA.get(type(generator), ())]
    assert [value.name for value in session.get_outputs()] == ["wave"]
    for batch, frames in ((1, 40), (3, 7), (1, 1)):
        inputs = generator.inputs(mels(batch, max(frames, 2))[..., :frames])
        wave = np.asarray(session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0])
        assert wave.shape == (batch, 1, 256 * frames)
        assert np.abs(wave - one_shot(generator, inputs).numpy()).max() < 1e-4
    mel = mels(2, 5)
    if "source" in names:
        with pytest.raises(ValueError, match="takes a source beside the mels"):
            export.run_onnx(session, mel.numpy())
        return
    wave = export.run_onnx(session, mel.numpy())
    assert wave.shape == (2, 1, 5 * 256)
    assert np.array_equal(wave, export.run_onnx(session, mel.numpy()))
    if names == ["mel"]:
        assert np.abs(wave - one_shot(generator, (mel,)).numpy()).max() < 1e-4


def test_onnx_holds_plain_convs(generator, onnx_file):
    """As many convs as the network has, of constant weights: neither branches nor the norms of weights are left."""
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    unused = isinstance(generator, generators.ParallelWaveGAN)  # the last layer's residual
    assert len(convs) == sum(isinstance(m, (nn.Conv1d, nn.Conv2d)) for m in generator.modules()) - unused
    assert all(node.input[1] in constants for node in convs)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "mel_config")
    assert json.loads(entry.value)["hop"] == 256


def test_exported_program_equals_torch(generator, tmp_path):
    export.to_exported_program(generator, MEL, tmp_path / "generator.pt2")
    extra = {"mel_config": ""}
    program = torch.export.load(tmp_path / "generator.pt2", extra_files=extra)
    assert MelConfig.from_dict(json.loads(extra["mel_config"])) == MEL
    for batch, frames in ((1, 40), (3, 7)):
        inputs = generator.inputs(mels(batch, frames))
        expected = one_shot(generator, inputs)
        torch.testing.assert_close(program.module()(*inputs), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("chunk_frames", [1, 6, 200])
def test_a_stream_equals_one_shot(generator, chunk_frames):
    around = export.context(generator)
    mel = mels(2, 2 * sum(around) // 3 + 3)  # so that chunks have both borders, one, or none in sight
    expected = one_shot(generator, generator.inputs(mel))
    for network in (generator, export.merged(generator)):
        chunks = list(export.stream(network, mel, chunk_frames, around))
        assert {chunk.shape[2] for chunk in chunks[:-1]} <= {256 * chunk_frames}
        assert not any(chunk.requires_grad for chunk in chunks)
        torch.testing.assert_close(torch.cat(chunks, 2), expected, rtol=0, atol=1e-5)


def test_less_context_is_heard(generator):
    """The streams above do not pass by accident: with one frame less on either side they differ."""
    exact = copy.deepcopy(generator).double()
    before, after = export.context(exact)
    mel = mels(1, 2 * (before + after)).double()
    expected = one_shot(exact, exact.inputs(mel))
    for around, equal in (((before, after), True), ((before - 1, after), False), ((before, after - 1), False)):
        wave = torch.cat(list(export.stream(exact, mel, 5, around)), 2)
        assert bool((wave - expected).abs().max() < 1e-12) == equal


def test_context_is_the_receptive_field(generator):
    before, after = export.context(generator)
    frames = 2 * max(before, after) + 5
    middle, mel = frames // 2, torch.zeros(1, 80, frames)
    # Within a frame the first sample looks back the furthest, the last one ahead.

    def forward(x):
        return generator(x, *generator.inputs(torch.zeros_like(x))[1:])

    ((first, _),) = theoretical_receptive_field(forward, mel, (256 * middle,))
    ((_, last),) = theoretical_receptive_field(forward, mel, (256 * middle + 255,))
    assert (before, after) == (middle - first, last - middle)


def test_context_follows_the_dilations():
    generator = generators.build("vocos", MEL, dim=8, layers=1)
    # 3 frames for each of the two convs, and the frames whose windows overlap.
    assert export.context(generator) == (8, 8)
    LocalSearch(generator, LocalConfig(branches=2, spread=1, bounds=Bounds(1, 64)), generators.searched)
    assert export.context(generator) == (11, 11)  # dilation 2 is tried now


def test_a_wrong_mel_configuration_is_an_error(tmp_path):
    generator = generators.build("vocos", MEL, dim=8, layers=1)
    for write in (export.to_onnx, export.to_exported_program):
        with pytest.raises(ValueError, match="fmax 8000.0 against 7600.0"):
            write(generator, MelConfig(fmax=7600.0), tmp_path / "file")
    assert not os.listdir(tmp_path)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        export.load_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="text.onnx is not an ONNX file"):
        export.load_onnx(tmp_path / "text.onnx")
    value = onnx.helper.make_tensor_value_info("mel", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["mel"], ["wave"])
    other = onnx.helper.make_tensor_value_info("wave", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "other", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="other.onnx holds no mel configuration"):
        export.load_onnx(tmp_path / "other.onnx")
    entry = model.metadata_props.add()
    entry.key, entry.value = "mel_config", '{"hop": 256}'
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="other.onnx: a mel configuration has the entries"):
        export.load_onnx(tmp_path / "other.onnx")


def test_streams_that_cannot_be():
    generator = generators.build("vocos", MEL, dim=8, layers=1)
    with pytest.raises(ValueError, match="chunk_frames is 0"):
        next(export.stream(generator, torch.zeros(1, 80, 4), 0))
    with pytest.raises(ValueError, match="takes log-mels"):
        next(export.stream(generator, torch.zeros(1, 100, 4), 4))


def test_a_network_that_overflows_is_not_exported_and_does_not_stream(tmp_path):
    """Its tanh makes numbers of infinities: full scale, or noise."""
    generator = generators.build("hifi_gan_v2", MEL, channels=8, upsampling=(16, 16)).eval()
    generators.remove_weight_norm(generator)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(1e20)
    for write, name in ((export.to_onnx, "g.onnx"), (export.to_exported_program, "g.pt2")):
        with pytest.raises(NotFinite, match="layer '.*' gives values that are not finite"):
            write(generator, MEL, tmp_path / name)
        assert not (tmp_path / name).exists()
    with pytest.raises(NotFinite):
        list(export.stream(generator, mels(1, 8), 4, (2, 2)))


def test_a_session_whose_wave_is_no_numbers_has_none(onnx_file):
    session, _ = export.load_onnx(onnx_file, threads=1)
    if any(value.name == "source" for value in session.get_inputs()):
        return  # `run_onnx` refuses it
    mel = mels(1, 8).numpy()
    mel[0, 3, 4] = np.nan
    with pytest.raises(NotFinite):
        export.run_onnx(session, mel)
