"""The protocol: what must be equal for two records to share a table, and for a record to be kept."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from benchmarks.records.identity import Identity
from tasks.plain import flat, plain
from tasks.spec import Task

FILES = "files "
"""Begins the data of a protocol that is known by the fingerprint of its files, and not by what tables call it."""


def protocol(
    task: Task[Any], config: Any, settings: Mapping[str, Any], identity: Identity | None = None
) -> dict[str, Any]:
    """What decides a cell's result besides fold, seed and machine, as plain JSON values.

    Config fields with metadata {"protocol": False} (paths) are left out, in nested dataclasses too. Data in files is
    what its fingerprint says, wherever it lies; other data, and files that are not here, are what tables call them.

    Args:
        task: the task.
        config: its config.
        settings: the method's own. They may differ between the rows of a table; the rest (`shared`) may not.
        identity: of the config's data; None if it has no files, or if they are not here.

    Raises:
        TypeError: naming the field whose value has no JSON form.
    """
    return {
        "task": task.name,
        "version": task.version,
        "data": f"{FILES}{identity.fingerprint}" if identity else task.data_label(config),
        "config": plain(config, "config"),
        "settings": plain(dict(settings), "settings"),
    }


def shared(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a protocol that all rows of a table have in common."""
    return {key: value for key, value in protocol.items() if key != "settings"}


def of_files(protocol: Mapping[str, Any]) -> bool:
    """Whether a protocol has the fingerprint of its data's files."""
    return str(protocol.get("data")).startswith(FILES)


def same_but_data(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two protocols have everything in common except, perhaps, the data."""
    return {**before, "data": None} == {**after, "data": None}


def overrides(preset: Any, config: Any) -> dict[str, Any]:
    """Fields of the protocol in which a config differs from its preset: dotted name -> value, as plain JSON values."""
    before, after = (flat(plain(one, "config", whole=True)) for one in (preset, config))
    return {name: value for name, value in after.items() if name not in before or before[name] != value}


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """The first 10 hex digits of the SHA-256 of a protocol in canonical JSON."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
