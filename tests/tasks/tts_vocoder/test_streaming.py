"""The causal generator: it reads no later frame at any dilation, and streams what it makes in one piece."""

import copy

import pytest
import torch

from rfnext import Bounds, LocalConfig, LocalSearch, Structure, keep_branches
from tasks.diverged import NotFinite
from tasks.tts_vocoder import export, generators
from tasks.tts_vocoder.mels.mel import MelConfig

LOCAL = LocalConfig(interval=1, rounds=2, branches=3, spread=0.5, bounds=Bounds(1, 64))
SIZES = {"channels": 8, "upsampling": (16, 16), "kernels": (3, 5), "dilations": ((1, 3), (2, 5))}


def forms() -> dict[str, generators.Generator]:
    """As designed, with other dilations, in search, with its branches, merged: in float64."""
    torch.manual_seed(0)
    designed = generators.build("causal_hifi_gan", MelConfig(), **SIZES).double().eval()
    centre = Structure.read(designed, generators.searched)
    moved = Structure({name: (2 + 5 * k % 9,) for k, name in enumerate(centre)})
    found, searched = copy.deepcopy(designed), copy.deepcopy(designed)
    moved.apply(found)
    LocalSearch(searched, LOCAL, generators.searched)
    several = copy.deepcopy(designed)
    keep_branches(several, moved, LOCAL)
    networks = {"designed": designed, "found": found, "searched": searched, "branches": several}
    return networks | {"merged": export.merged(several)}


FORMS = forms()


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_a_stream_equals_the_whole(form: str) -> None:
    network = FORMS[form]
    mel = torch.randn(2, 80, 24, dtype=torch.float64)
    whole = network(mel)
    assert whole.std() > 1e-5
    later = mel.clone()
    later[..., 12:] += 1
    assert torch.equal(network(later)[..., : 12 * 256], whole[..., : 12 * 256])
    stream, at, made = generators.Stream(network), 0, []
    for frames in (1, 5, 1, 17):
        made.append(stream(mel[..., at : at + frames]))
        assert made[-1].shape == (2, 1, 256 * frames)
        at += frames
    torch.testing.assert_close(torch.cat(made, 2), whole, rtol=0, atol=1e-9)
    assert torch.equal(network(mel), whole)  # the stream has its own copy


def test_it_is_hifi_gan_without_look_ahead() -> None:
    """Moved by its padding: the same weights make the same wave later, away from the ends."""
    causal, plain = (generators.build(name, MelConfig(), **SIZES).eval() for name in ("causal_hifi_gan", "hifi_gan_v2"))
    plain.load_state_dict(causal.state_dict())
    before, after = export.context(plain)
    assert export.context(causal)[1] == 0
    assert after > 0
    assert before + after - export.context(causal)[0] in (0, 1)


def test_a_generator_that_reads_ahead_does_not_stream() -> None:
    with pytest.raises(ValueError, match=r"layer 'conv_pre' is not anchored at its last tap"):
        generators.Stream(generators.build("hifi_gan_v2", MelConfig(), **SIZES))


def test_a_stream_that_overflows_has_no_speech() -> None:
    network = copy.deepcopy(FORMS["designed"])
    stream = generators.Stream(network)
    stream(torch.randn(1, 80, 4, dtype=torch.float64))
    with torch.no_grad():
        for parameter in stream.network.parameters():
            parameter.mul_(1e200)
    with pytest.raises(NotFinite, match="layer '.*' gives values that are not finite"):
        stream(torch.randn(1, 80, 4, dtype=torch.float64))
