"""Settings: their help, what is refused, and what the presets stand for."""

import dataclasses

import pytest
import tyro

from rfnext import Bounds, LocalConfig
from tasks.action_segmentation.config import PAPER, PRESETS, Config


@pytest.mark.parametrize("name", PAPER)
def test_published_settings(name):
    c = PRESETS[name]
    assert (c.model, c.stages, c.layers, c.maps, c.dropout) == ("ms_tcn", 4, 10, 64, 0.5)
    assert (c.epochs, c.batch, c.lr, c.lr_drop_epoch, c.smoothing) == (65, 8, 5e-4, 50, 0.15)
    assert (c.stride, len(c.folds)) == {"50salads": (2, 5), "breakfast": (1, 4), "gtea": (1, 4)}[name]
    assert c.search == LocalConfig(interval=3, rounds=10, spread=0.5, branches=3, bounds=Bounds(1, 2048))


def test_presets_that_divide_a_step_are_those_of_the_papers_data():
    divided = {name for name, config in PRESETS.items() if config.micro_batch is not None}
    assert divided == {name for name in PRESETS if name.startswith(PAPER)} - {"50salads-c2f-tcn"}
    assert Config(model="c2f_tcn", batch=1, micro_batch=1).micro_batch == 1  # nothing to divide


@pytest.mark.parametrize("name", PRESETS)
def test_spread_is_the_librarys_unless_the_name_says_otherwise(name):
    search = PRESETS[name].search
    narrow = name.endswith(("-spread-0.1", "-paper-rule"))
    assert search.spread == (0.1 if narrow else 0.5)
    assert search.rule == ("paper" if name.endswith("-paper-rule") else "default")


@pytest.mark.parametrize("data", ["50salads", "seglearn"])
def test_presets_of_a_study_differ_in_the_search_alone(data):
    plain, *others = (PRESETS[f"compact-{data}{end}"] for end in ("", "-spread-0.1", "-paper-rule"))
    for other in others:
        assert dataclasses.replace(other, search=plain.search) == plain
        assert other.search != plain.search


def test_every_field_has_a_help_text(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
    assert "Videos per step." in text
    config = tyro.cli(Config, args=["--folds", "1", "3", "--root", "x", "--search.rounds", "2", "--model", "ms_tcn_pp"])
    assert (config.folds, str(config.root), config.search.rounds, config.model) == ((1, 3), "x", 2, "ms_tcn_pp")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"model": "c2f_tcn", "micro_batch": 2}, "micro_batch is 2, but .* needs all 8 videos of a step"),
        ({"feature_stride": 0}, "feature_stride is 0; it must be at least 1"),
        ({"length_tolerance": -1}, "length_tolerance is -1; it must be at least 0"),
        ({"model": "tcn"}, "unknown dataset 'seglearn' or model 'tcn'; known: .*ms_tcn_pp"),
        ({"dataset": "salad"}, "unknown dataset 'salad'.*50salads"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)
