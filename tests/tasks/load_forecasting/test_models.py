"""The network: causal whatever its dilations are, and free of units and levels."""

import numpy as np
import pytest
import torch

import rfnext
from rfnext import Structure
from tasks.load_forecasting.config import Config
from tasks.load_forecasting.models import Forecaster, rebuild, searched
from tests.no_float64 import NoFloat64

COLUMNS = {"columns": ["load", "temperature"]}


def network(**settings: object) -> Forecaster:
    torch.manual_seed(0)
    model = rebuild(Config(width=6, **settings), COLUMNS)  # type: ignore[arg-type]
    assert isinstance(model, Forecaster)
    return model.eval()


def inputs(length: int = 400) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2, length)))


@pytest.mark.parametrize("settings", [{}, {"trailing": 30}, {"head": "quantile"}])
@pytest.mark.parametrize("dilations", [(1, 2, 4), (43, 20, 27), (144, 1, 7)])
def test_no_forecast_depends_on_the_future(settings: dict[str, object], dilations: tuple[int, ...]):
    model = network(**settings)
    Structure({f"blocks.{k}.dilated": d for k, d in enumerate(dilations)}).apply(model)
    x = inputs()
    before = model(x)
    for position in (50, 200, 399):
        other = x.clone()
        other[:, :, position:] += 10
        after = model(other)
        assert torch.equal(after[..., :position], before[..., :position])
        assert not torch.equal(after[..., position], before[..., position]), "the present is read"


def test_a_searched_network_stays_causal():
    model = network()
    search = rfnext.LocalSearch(model, rfnext.LocalConfig(interval=1, rounds=3), searched, example=inputs())
    for _ in range(3):
        model(inputs()).square().mean().backward()
        search.after_step()
    assert rfnext.is_causal(model, inputs())


def test_the_convs_reach_back_by_their_dilation():
    """The slow definition: one block of dilation d reads t, t - d and t - 2 d."""
    model = network(layers=1)
    Structure({"blocks.0.dilated": 37}).apply(model)
    x = inputs().requires_grad_()
    model(x)[0, 0, 300].backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum(0).nonzero().flatten().tolist() == [226, 263, 300]


def test_forecasts_follow_the_units():
    model, x = network(), inputs() + 3
    model.calibrate(x[0])
    once = model(x)
    scaled = x * 1e9 + 5e12
    model.calibrate(scaled[0])
    assert torch.allclose(model(scaled), once * 1e9 + 5e12, rtol=1e-6)


@pytest.mark.parametrize("trailing", [0, 20])
def test_a_covariate_that_never_changed_does_not_reach_the_forecast(trailing: int):
    """A holiday after a training part without one would come in by weights that nothing has trained."""
    model, x = network(trailing=trailing), inputs()
    x[:, 1] = 0.7
    model.calibrate(x[0])
    expected = model(x)
    for value in (0.0, -5e4, 1e100):
        x[:, 1, 200:] = value
        assert torch.equal(model(x), expected)
    x[:, 0, 200:] += 1  # others do reach it
    assert not torch.equal(model(x), expected)
    x[:, 0] = 4.0
    model.calibrate(x[0])  # of a target that does not change, the scale is that of its units
    assert model.scale[0] == 1


def test_a_level_is_carried_over():
    """With `trailing`, a series that lies higher is forecast to lie higher by as much, once the window is past it."""
    model, x = network(trailing=20), inputs()
    model.calibrate(x[0])
    higher = x.clone()
    higher[:, 0] += 100
    assert torch.allclose(model(higher), model(x) + 100, atol=1e-4)


def test_the_level_is_the_mean_of_the_last_values():
    model, x = network(trailing=5), inputs(30)
    model.calibrate(x[0])
    levelled = model.normalised(x) * model.scale + model.centre
    series = x[0, 0].tolist()
    for position in range(30):
        window = series[max(0, position - 4) : position + 1]
        assert levelled[0, 0, position].item() == pytest.approx(series[position] - sum(window) / len(window), abs=1e-5)


def test_the_level_of_large_values_is_not_rounded_away():
    """Sums of 200,000 values around 1e12 are multiples of 32."""
    model, x = network(trailing=5), inputs(200_000)
    expected = x[0, 0, -5:].mean() + 1e12
    x[0, 0] += 1e12
    model.calibrate(x[0])
    with torch.no_grad():
        levelled = model.normalised(x)[0, 0, -1] * model.scale[0] + model.centre[0]
    assert levelled.item() == pytest.approx((x[0, 0, -1] - expected).item(), abs=1e-3)


def test_a_column_that_never_changes_in_the_training_part_is_no_division_by_zero():
    model, x = network(), inputs()
    x[:, 1] = 0.1  # whose mean is not exactly 0.1
    model.calibrate(x[0])
    assert model.normalised(x)[0, 1].eq(0).all()
    x[:, 1, 200:] = 0.2
    assert model(x).abs().max() < 100


def test_a_device_without_float64_gives_the_digits_of_the_cpu():
    model, x = network(trailing=5), inputs()
    model.calibrate(x[0] * 1e9 + 5e12)
    with torch.no_grad():
        expected = model(x * 1e9 + 5e12)
        with NoFloat64():
            assert torch.equal(model(x * 1e9 + 5e12), expected)
    model.to("meta")
    assert (model.centre.device.type, model.normalised(x).device.type) == ("cpu", "meta")
    assert model.centre.dtype == torch.float64
    assert model.forecast(model.normalised(x)).shape == (1, 1, 400)
