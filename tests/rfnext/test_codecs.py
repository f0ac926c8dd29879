"""Audio codecs of transformers, EnCodec and Mimi, small and random: they stay causal while searched and after.

They skip without transformers: `pip install transformers`.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import rfnext
from rfnext import LocalConfig, LocalSearch, Structure
from rfnext.structure import searched_convs
from tests.rfnext.causal_networks import reads_ahead
from tests.rfnext.foreign_makers import ATTENTION, CODEC

CONFIG = LocalConfig(rounds=2, branches=3, bounds=rfnext.Bounds(1, 8))


def encodec() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.EncodecModel(transformers.EncodecConfig(**CODEC, num_lstm_layers=1))


def mimi() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    more = {"upsample_groups": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 2}
    config = transformers.MimiConfig(
        **CODEC, **ATTENTION, **more, num_hidden_layers=1, num_semantic_quantizers=1, frame_rate=1500
    )
    return transformers.MimiModel(config)


class Autoencoder(nn.Module):
    """Encoder and decoder without the quantiser between them, through which no gradient flows."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        codec = make().double().eval()
        self.parts = nn.ModuleList([codec.encoder, codec.decoder])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            y = part(x)
            x = y if isinstance(y, torch.Tensor) else y[0]
        return x


def audio() -> torch.Tensor:
    return torch.randn(2, 1, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _measuring_nothing() -> Iterator[None]:
    with rfnext.reproducible(torch.device("cpu")):
        yield


every_codec = pytest.mark.parametrize("make", [encodec, mimi])
STARTS = (160, 256, 400)


@pytest.mark.slow
@every_codec
def test_a_codec_stays_causal_through_the_search_and_after(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    x, model = audio(), Autoencoder(make)
    size = model(x).shape
    assert not reads_ahead(model, x, STARTS)
    with pytest.raises(ValueError, match=r'other dilations of parts\.0\..*layers\.0\.conv, .*: give anchor="last"'):
        LocalSearch(Autoencoder(make), CONFIG, example=x)
    search = LocalSearch(model, CONFIG, anchor="last", example=x)
    designed = search.structure()
    for _ in range(2):
        for conv in searched_convs(model).values():
            with torch.no_grad():
                conv.branch_weight[len(conv.dilations) - 1] = 0.1
        assert model(x).shape == size
        assert not reads_ahead(model, x, STARTS)
        search.after_step()
    found = search.structure()
    assert all(found[name] > d for name, d in designed.items())

    own = Autoencoder(make)
    LocalSearch(own, CONFIG, anchor="last")
    own.load_state_dict(model.state_dict())
    torch.testing.assert_close(own(x), model(x), rtol=0, atol=0)

    multi = Autoencoder(make)
    rfnext.keep_branches(multi, found, CONFIG)
    expected = multi(x)
    assert not reads_ahead(multi, x, STARTS)
    rfnext.merge(multi)
    torch.testing.assert_close(multi(x), expected, rtol=1e-10, atol=1e-10)

    found.save(tmp_path / "structure.json")
    single = Autoencoder(make)
    single.load_state_dict(rfnext.plain_state_dict(copy.deepcopy(model.state_dict())))
    Structure.load(tmp_path / "structure.json").apply(single)
    found.apply(model)
    torch.testing.assert_close(single(x), model(x), rtol=0, atol=0)
    assert single(x).shape == size
    assert not reads_ahead(single, x, STARTS)


def test_at_the_centre_a_codec_is_warned_of_though_its_padding_does_not_say_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    LocalSearch(Autoencoder(encodec), CONFIG)
    (record,) = [record for record in caplog.records if "causal" in record.getMessage()]
    assert record.getMessage().startswith("parts.0.layers.0.conv, parts.0.layers.1.block.1.conv, ")
