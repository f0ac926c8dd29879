"""Cell: one cell of a table, with everything that running it needs, its protocol, and the names of its files."""

import dataclasses
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks
from benchmarks.methods.method import Method
from benchmarks.records.identity import Identity
from benchmarks.records.places import work_folder
from benchmarks.records.protocol import fingerprint, overrides, protocol
from benchmarks.records.record import Key
from tasks.spec import Logger, Task


@dataclass(frozen=True)
class Cell:
    """One method on one fold and seed of a task's data, with everything that running it needs.

    It can be pickled: the task is pickled by its name.

    preset: the name of the config. base: the preset of the task that the config was made of.
    results: folder of the records, made absolute; checkpoints, logs and locks go to its work folder.
    threads: of torch on the CPU. resume: continue half-finished trainings of the same cell and protocol.
    identity: of the data as it was when the cell was planned; see `records.identity`.
    """

    task: Task[Any]
    preset: str
    config: Any
    method: Method
    fold: int
    seed: int
    results: Path
    base: str
    device: str = "auto"
    threads: int = 1
    logger: Logger = "none"
    resume: bool = True
    identity: Identity | None = None

    def __post_init__(self) -> None:
        # Workers start in other folders.
        object.__setattr__(self, "results", self.results.absolute())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "task": self.task.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"task": tasks.load(state["task"])})

    def __str__(self) -> str:
        return str(self.key)

    @property
    def key(self) -> Key:
        """The name of its record."""
        return Key(self.task.name, self.preset, self.method.name, self.fold, self.seed)

    def resuming(self) -> "Cell":
        """The same cell, which continues half-finished trainings."""
        return dataclasses.replace(self, resume=True)

    @property
    def work(self) -> Path:
        """Folder of its checkpoints and log, not yet created."""
        return self.key.work(self.results)

    @property
    def model(self) -> Path:
        """The network that it scored, written by `tasks.checkpoint`."""
        return self.work / "model.pt"

    @property
    def structure(self) -> Path:
        """The dilations of that network, as `rfnext.Structure.load` reads them."""
        return self.work / "structure.json"

    @property
    def log(self) -> Path:
        """What its worker printed."""
        return self.work / "log.txt"

    def search_folder(self, name: str) -> Path:
        """Folder of a search that cells of other methods share, not yet created."""
        # Beside the folders of the methods' cells, one of which may have the search's name.
        searches = work_folder(self.results) / self.task.name / self.preset / "searches"
        return searches / name / f"fold{self.fold}-seed{self.seed}"

    def protocol(self, config: Any = None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The planned protocol of its record, or that of a part of its work with its own config or settings."""
        of_part = self.method.settings_of(self.task, self.config) if settings is None else settings
        return protocol(self.task, config or self.config, of_part, self.identity)

    @property
    def overrides(self) -> dict[str, Any]:
        """Fields of the protocol in which its config differs from the preset `base`, by dotted name."""
        return overrides(self.task.presets[self.base], self.config)

    @property
    def command(self) -> str:
        """The command line that runs it again, without the paths of data and results, which belong to no protocol."""
        words = ["python -m benchmarks.run", self.task.name, self.method.name, "--preset", self.base]
        words += ["--fold", str(self.fold), "--seed", str(self.seed)]
        for name, value in self.overrides.items():
            *groups, leaf = name.replace("_", "-").split(".")
            if isinstance(value, bool):
                words.append("--" + ".".join([*groups, leaf if value else f"no-{leaf}"]))
            else:
                values = value if isinstance(value, list) else [value]
                words += ["--" + ".".join([*groups, leaf]), *(shlex.quote(str(item)) for item in values)]
        for part in dataclasses.fields(self.config):
            differs = getattr(self.config, part.name) != getattr(self.task.presets[self.base], part.name)
            if differs and not part.metadata.get("protocol", True):
                words += [f"--{part.name.replace('_', '-')}", part.name.upper()]
        if self.preset != derived_name(self.base, self.overrides, self.identity):
            words += ["--name", self.preset]
        return " ".join(words)


def derived_name(base: str, changed: dict[str, Any], identity: Identity | None = None) -> str:
    """The name of a preset with changed fields or own data.

    It is the preset's, a short fingerprint of the changes, and the folder of the data with a short fingerprint.
    """
    name = f"{base}-{fingerprint(changed)[:6]}" if changed else base
    return f"{name}-{identity.folder}-{identity.fingerprint[:6]}" if identity and identity.folder else name


def is_name(text: str) -> bool:
    """Whether a text can be a preset's name: it becomes the name of folders and files."""
    return re.fullmatch(r"[a-z0-9_][a-z0-9_.-]{0,79}", text) is not None
