"""Configs as plain JSON values, and back: what records and checkpoints hold of them."""

import dataclasses
import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

Kind = TypeVar("Kind")

LONGEST = 2000
"""Characters of a message: it quotes names and values of a file from outside."""


def plain(value: Any, name: str, *, whole: bool = False) -> Any:
    """A value as JSON values: dataclasses become dicts, paths and enums strings.

    Fields whose metadata has {"protocol": False} (paths) are left out. So are those with {"protocol": "if changed"}
    (younger than records that stay valid) where they have their default, unless `whole` is set.

    Raises:
        TypeError: naming the part that has no JSON form; `name` is that of the whole.
    """
    if dataclasses.is_dataclass(value):
        kept = [part.name for part in dataclasses.fields(value) if _counts(part, value, whole)]
        return {part: plain(getattr(value, part), f"{name}.{part}", whole=whole) for part in kept}
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}", whole=whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{i}]", whole=whole) for i, item in enumerate(value)]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}; a protocol holds dataclasses and JSON values only")


def _counts(part: dataclasses.Field[Any], value: Any, whole: bool) -> bool:
    counts = part.metadata.get("protocol", True)
    return whole or getattr(value, part.name) != _default(part) if counts == "if changed" else counts


def _default(part: dataclasses.Field[Any]) -> Any:
    """Of a field of a dataclass; MISSING, which equals no value, if it has none."""
    return part.default if part.default_factory is dataclasses.MISSING else part.default_factory()


def rebuild(kind: type[Kind], stored: Any) -> Kind:
    """The config of type `kind` whose JSON form in a protocol is `stored`.

    Fields that belong to no protocol (paths) get their defaults. Nothing is converted: a value that does not have the
    field's type is refused, and so is a field that is missing or unknown.

    Raises:
        ValueError: naming the field.
    """
    try:
        config = TypeAdapter(kind).validate_json(json.dumps(stored), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        text = f"{'.'.join(map(str, ('config', *first['loc'])))}: {first['msg']}"
        raise ValueError(" ".join(text.split())[:LONGEST]) from None
    config = _whole_numbers(config, stored)
    # A missing field has got its default, an unknown one was passed over: neither comes back the same.
    if differing := differences({"config": stored}, {"config": plain(config, "config")}):
        raise ValueError(" ".join(", ".join(differing).split())[:LONGEST])
    return config


def _whole_numbers(value: Any, stored: Any) -> Any:
    """The value with integers where `stored` has them in fields of real numbers, which pydantic converts."""
    if isinstance(value, float) and isinstance(stored, int):
        return stored
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = {part.name for part in dataclasses.fields(value)} & stored.keys()
        return dataclasses.replace(
            value, **{name: _whole_numbers(getattr(value, name), stored[name]) for name in known}
        )
    if isinstance(value, list | tuple):
        return type(value)(_whole_numbers(*pair) for pair in zip(value, stored, strict=True))
    return value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In what two protocols differ, field by field with its dotted name; empty if they are equal."""
    old, new = ({name: repr(value) for name, value in flat(side).items()} for side in (before, after))
    pairs = {name: (old.get(name, "missing"), new.get(name, "missing")) for name in {**old, **new}}
    return [f"{name} is {there} instead of {here}" for name, (here, there) in pairs.items() if here != there]


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
