"""Command lines: names, seeds, and the fields of a preset's config that are given on them."""

import difflib
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import tyro

from benchmarks.cell import derived_name, is_name
from benchmarks.records.identity import Identity
from benchmarks.records.protocol import overrides
from tasks.command_line import parse
from tasks.spec import Task, device_of

Options = TypeVar("Options")
Config = TypeVar("Config")


class UsageError(ValueError):
    """A command line that cannot be run; the message says what to write instead."""


@dataclass(frozen=True)
class Both(Generic[Options, Config]):
    """Options of a command and fields of a task's config on one command line."""

    options: Annotated[Options, tyro.conf.arg(name="")]
    config: Annotated[Config, tyro.conf.arg(name="")]


def parse_both(
    options: Options, config: Config, arguments: Sequence[str], prog: str, description: str | None = None
) -> tuple[Options, Config]:
    """Options and config with what the arguments change in them.

    Raises:
        UsageError: for a value that the config refuses.
        SystemExit: after --help (0) or a wrong option (2), which tyro has explained.
    """
    shape: Any = Both[type(options), type(config)]  # type: ignore[misc]
    try:
        both = parse(shape, list(arguments), default=Both(options, config), prog=prog, description=description)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return both.options, both.config


def refuse_idle(before: Any, config: Any) -> None:
    """Raise UsageError if a field was changed that has no effect in this config, by its `without_effect()`."""
    idle = config.without_effect() if hasattr(config, "without_effect") else {}
    for name, reason in idle.items():
        if getattr(config, name) != getattr(before, name):
            raise UsageError(f"--{name.replace('_', '-')} is of no effect {reason}; leave it out")


LAST_SEED = 2**32 - 1
"""The largest seed that NumPy takes."""


def check_seed(seed: int, option: str = "--seed") -> None:
    """Raise UsageError if a random generator would refuse the seed."""
    if not 0 <= seed <= LAST_SEED:
        raise UsageError(f"{option} must be between 0 and {LAST_SEED}, got {seed}")


def check_device(name: str) -> None:
    """Raise UsageError if the device is not here."""
    try:
        device_of(name)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None


def pick(kind: str, name: str, known: Iterable[str]) -> str:
    """`name`, if it is known; otherwise UsageError with the closest known one."""
    names = list(known)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UsageError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")


def preset_name(task: Task[Any], base: str, config: Any, name: str | None, identity: Identity | None) -> str:
    """The name of a config made of the preset `base`: what the user calls it, else derived from changes and own data.

    Raises:
        UsageError: if the user's name cannot be that of a folder, or is that of a preset with other fields.
    """
    changed = overrides(task.presets[base], config)
    if name is None:
        return derived_name(base, changed, identity)
    if not is_name(name):
        allowed = "up to 80 of a-z, 0-9, '_', '-' and '.', the first of a-z, 0-9 and '_'"
        raise UsageError(f"--name {name!r} becomes the name of folders: {allowed}")
    if name in task.presets and (name != base or changed):
        raise UsageError(f"--name {name} is a preset of {task.name} with other fields; give another name")
    return name


def leave(status: int) -> NoReturn:
    """End the process with a status, which a Ctrl-C while Python ends no longer turns into that of a killed one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)
