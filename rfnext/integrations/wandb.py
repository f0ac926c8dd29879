"""Weights & Biases: runs that a resumed training continues, and structures logged in them.

Lightning's `WandbLogger` and mmengine's `WandbVisBackend` do the logging; both hand keyword arguments on to
`wandb.init`, and those are made here:

    logger = WandbLogger(save_dir=folder, **init_arguments(folder, name="ms_tcn seed 0", group="ms_tcn"))
    backend = {"type": "WandbVisBackend", "init_kwargs": init_arguments(folder, name=..., group=...)}
"""

import contextlib
import io
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfnext.dilation import Dilation
from rfnext.files import UNFINISHED, read_json, unfinished, write_text

if TYPE_CHECKING:
    from wandb import Run

    from rfnext.structure import Structure

RUN_FILE = "wandb-run.json"
"""File in a training's folder with id, name and group of its run."""


def init_arguments(folder: Path, *, name: str = "", group: str = "", project: str = "rfnext") -> dict[str, Any]:
    """Keyword arguments of `wandb.init` for the training in `folder`, which must exist.

    The first call makes up an id and stores it in `folder / RUN_FILE`; later calls return the same run, so that a
    resumed training continues it. Nothing is uploaded unless WANDB_MODE is set or there is a login (WANDB_API_KEY, or
    `wandb login`): the run is written to `folder / "wandb"`, and `wandb sync` uploads it later. Until then no
    connection is opened, also none for W&B's own reports of errors (WANDB_ERROR_REPORTING is set to false in this
    process).

    A run may hold the host's name, the user's paths and command line, the git remote, names of packages, use of CPU and
    GPU, and what was printed. With RFNEXT_WANDB_PRIVATE=1 only packages, config, numbers and files that were logged.

    Raises ValueError if the file is broken, OSError if it cannot be written.
    """
    path = folder / RUN_FILE
    if not path.exists():
        _write_once(path, json.dumps({"id": secrets.token_hex(4), "name": name, "group": group}))
    try:
        stored = read_json(path)
        run = {"id": str(stored["id"]), "name": stored["name"] or None, "group": stored["group"] or None}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no run of Weights & Biases ({error}); delete it to start a new one") from error
    uploads = "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ or _logged_in()
    mode = os.environ.get("WANDB_MODE", "online") if uploads else "offline"
    if mode != "online":
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else wandb's process looks its server for errors up
        os.environ.setdefault("WANDB_SILENT", "true")  # it repeats every number, and no address has to be said
    private = {"settings": dict(PRIVATE)} if os.environ.get("RFNEXT_WANDB_PRIVATE", "0") not in ("", "0") else {}
    return {"project": project, "dir": str(folder), "resume": "allow", "mode": mode, **private, **run}


def _logged_in() -> bool:
    """Whether wandb finds a key of its server, in netrc or its settings; opens no connection."""
    import wandb

    with contextlib.redirect_stderr(io.StringIO()):  # it says that a login would ask the server
        found = bool(getattr(getattr(wandb, "api", None), "api_key", None))
        if wandb.run is None:
            wandb.teardown()  # else it ignores what is set in the environment from here on
    return found


PRIVATE = {
    **dict.fromkeys(
        ("x_disable_machine_info", "x_disable_meta", "x_disable_stats", "disable_git", "disable_code"), True
    ),
    **dict.fromkeys(("host", "program", "program_relpath", "program_abspath"), ""),
    "console": "off",
}
"""Settings of W&B that leave out what a run says of its machine."""


def _write_once(path: Path, text: str) -> None:
    """Write a file whole; of several processes of one training, the first one does."""
    made = path.with_name(f"{unfinished(path.name)}{secrets.token_hex(4)}{UNFINISHED}")
    write_text(made, text)
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)


def offline_runs(folder: Path) -> list[Path]:
    """The folders of offline runs below a folder, oldest first, for `wandb sync`.

    A run that was continued (its training was resumed, say) has one folder for each time: uploaded together, they are
    one run again.
    """
    return sorted(folder.rglob("wandb/offline-run-*"), key=lambda path: path.name)


def log_structure(run: "Run", structure: "Structure", designed: Mapping[str, Dilation] | None = None) -> None:
    """Log a structure as the artifact "structure-<run id>" and as the table "structure": one row per layer.

    Args:
        run: what `wandb.init` returned.
        structure: what was found.
        designed: the dilations that the search started from, for a second column.
    """
    import wandb

    rows = (
        [name, *([] if designed is None else [_text(designed.get(name))]), _text(dilation)]
        for name, dilation in structure.items()
    )
    columns: list[str | int] = ["layer", *([] if designed is None else ["designed"]), "dilation"]
    run.log({"structure": wandb.Table(columns=columns, data=[*rows])})
    path = Path(run.dir) / "structure.json"  # the run's own folder, from where it is uploaded
    structure.save(path)
    artifact = wandb.Artifact(f"structure-{run.id}", type="structure")
    artifact.add_file(str(path))
    run.log_artifact(artifact)


def _text(dilation: Dilation | None) -> str:
    return "" if dilation is None else " x ".join(map(str, dilation))
