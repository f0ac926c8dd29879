"""Protocols: what decides a result is in them, and a config comes back from its own or is refused by field."""

import dataclasses
import enum
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

import tasks
from benchmarks.cell import Cell
from benchmarks.records.protocol import fingerprint, overrides, protocol, shared
from tasks.plain import differences, rebuild


@dataclass(frozen=True)
class Inner:
    width: int = 3
    cache: str = field(default="here", metadata={"protocol": False})


@dataclass(frozen=True)
class Outer:
    sizes: tuple[int, ...] = (1, 2)
    folder: Path = field(default=Path("here"), metadata={"protocol": False})
    inner: Inner = Inner()


def test_protocol_is_made_of_what_decides_the_result(toy: ModuleType) -> None:
    task = toy.TASK
    here = protocol(task, Outer(), {"candidates": 5})
    assert here["config"] == {"sizes": [1, 2], "inner": {"width": 3}}
    assert here["settings"] == {"candidates": 5}
    elsewhere = protocol(task, Outer(folder=Path("there"), inner=Inner(cache="there")), {"candidates": 5})
    assert fingerprint(elsewhere) == fingerprint(here)
    for other in (
        protocol(task, Outer(inner=Inner(width=4)), {"candidates": 5}),
        protocol(task, Outer(), {"candidates": 6}),
        protocol(dataclasses.replace(task, version=2), Outer(), {"candidates": 5}),
        protocol(dataclasses.replace(task, data_label=lambda config: "other"), Outer(), {"candidates": 5}),
    ):
        assert fingerprint(other) != fingerprint(here)


@dataclass(frozen=True)
class Grown(Outer):
    """`Outer` in a later version."""

    tolerance: int = field(default=0, metadata={"protocol": "if changed"})
    weights: tuple[int, ...] = field(default_factory=lambda: (1, 2), metadata={"protocol": "if changed"})


def test_younger_fields_count_where_they_are_changed(toy: ModuleType) -> None:
    before, after = (protocol(toy.TASK, config, {}) for config in (Outer(), Grown()))
    assert before == after
    changed = protocol(toy.TASK, Grown(tolerance=3), {})
    assert differences(before, changed) == ["config.tolerance is 3 instead of missing"]
    assert rebuild(Grown, before["config"]) == Grown()
    assert rebuild(Grown, changed["config"]) == Grown(tolerance=3)
    assert overrides(Grown(), Grown(tolerance=3)) == {"tolerance": 3}
    assert overrides(Grown(tolerance=3), Grown()) == {"tolerance": 0}
    heavy = protocol(toy.TASK, Grown(weights=(3,)), {})
    assert differences(before, heavy) == ["config.weights is [3] instead of missing"]
    assert rebuild(Grown, heavy["config"]) == Grown(weights=(3,))


def test_rows_of_a_table_share_all_but_the_settings(toy: ModuleType) -> None:
    one, two = (protocol(toy.TASK, Outer(), {"candidates": n}) for n in (5, 6))
    assert shared(one) == shared(two)
    assert shared(one) != shared(protocol(toy.TASK, Outer(sizes=()), {"candidates": 5}))
    assert differences(one, two) == ["settings.candidates is 6 instead of 5"]
    assert differences(one, one) == []
    assert differences({"a": 1}, {"b": {"c": 2}}) == ["a is missing instead of 1", "b.c is 2 instead of missing"]


def test_overrides_are_the_fields_that_decide_by_dotted_name() -> None:
    assert overrides(Outer(), Outer(folder=Path("there"), inner=Inner(cache="there"))) == {}
    assert overrides(Outer(), Outer(sizes=(), inner=Inner(width=4))) == {"sizes": [], "inner.width": 4}


def test_protocol_is_read_back_as_it_was_planned(cell: Callable[..., Cell]) -> None:
    for method in ("random_single", "genetic_to_local_multi"):
        planned = cell(method).protocol()
        assert json.loads(json.dumps(planned)) == planned


def test_protocol_refuses_values_without_json_form(toy: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"config\.sizes\[1\] is a function"):
        protocol(toy.TASK, Outer(sizes=(1, lambda: 2)), {})  # type: ignore[arg-type]


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Everything:
    whole: int = 1
    real: float = 0.5
    yes: bool = True
    text: str = "a"
    maybe: int | None = None
    kind: Literal["a", "b"] = "b"
    many: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 1.0)
    nested: Inner = Inner(width=4)
    choice: Inner | Outer | None = Outer(sizes=())
    colour: Colour = Colour.RED
    path: Path = Path("a/b")
    table: Mapping[str, int] = field(default_factory=lambda: {"a": 1})
    secret: str = field(default="here", metadata={"protocol": False})


def test_a_config_is_rebuilt_from_its_protocol(toy: ModuleType) -> None:
    for config in (
        Everything(),
        Everything(maybe=3, many=(), choice=None, secret="here"),
        Everything(choice=Inner(width=7)),
        Everything(real=1),  # whole numbers may stand for real ones
        toy.Config(epochs=3, lr_drop_epoch=2, folds=(1,), bias=False),
    ):
        stored = json.loads(json.dumps(protocol(toy.TASK, config, {})["config"]))
        again = rebuild(type(config), stored)
        assert again == config
        assert fingerprint(protocol(toy.TASK, again, {})) == fingerprint(protocol(toy.TASK, config, {}))


@pytest.mark.parametrize("name", tasks.names())
def test_every_preset_is_rebuilt_from_its_protocol(name: str) -> None:
    task = tasks.load(name)
    for config in task.presets.values():
        again = rebuild(type(config), json.loads(json.dumps(protocol(task, config, {})["config"])))
        assert overrides(config, again) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "config.extra"),
        ({"secret": "there"}, "config.secret"),
        ({"whole": "1"}, "config.whole"),
        ({"whole": True}, "config.whole"),
        ({"whole": 1.5}, "config.whole"),
        ({"real": "x"}, "config.real"),
        ({"yes": 1}, "config.yes"),
        ({"text": None}, "config.text"),
        ({"kind": "c"}, "config.kind"),
        ({"many": [1, "2"]}, "config.many.1"),
        ({"pair": ["a"]}, "config.pair"),
        ({"nested": {"width": 4, "depth": 1}}, "config.nested.depth"),
        ({"nested": {}}, "config.nested.width"),
        ({"nested": 3}, "config.nested"),
        ({"maybe": "x"}, "config.maybe"),
        ({"colour": "blue"}, "config.colour"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_field(toy: ModuleType, change: dict, message: str) -> None:
    stored = protocol(toy.TASK, Everything(), {})["config"]
    with pytest.raises(ValueError, match=message):
        rebuild(Everything, stored | change)
    del stored["text"]
    with pytest.raises(ValueError, match="config.text"):
        rebuild(Everything, stored)


@pytest.mark.parametrize("stored", [None, [], 3, "x"])
def test_what_is_no_config_at_all_is_refused(stored: object) -> None:
    with pytest.raises(ValueError, match="config"):
        rebuild(Everything, stored)


def test_a_config_that_its_own_checks_refuse_is_refused(toy: ModuleType) -> None:
    stored = protocol(toy.TASK, toy.Config(), {})["config"]
    with pytest.raises(ValueError, match="epochs is 0; it must be at least 1"):
        rebuild(toy.Config, stored | {"epochs": 0})
