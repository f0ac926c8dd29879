"""Files that are written completely or not at all, JSON from outside, and the cache folder."""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader gets the old file or the new one, never a part.

    The data goes to a temporary file in the same folder (created if missing), is flushed to disk, and is renamed
    over `path`. On any failure (a full disk among them) the old file stays and the temporary one is removed.

    Raises OSError, with the target path in the message, if the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is meant to be read by others, as the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write {path}: {error.strerror}; the previous file is kept") from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def parse_json(text: str) -> Any:
    """The value of a JSON text from outside.

    Raises ValueError if it is no JSON, names an entry twice (json.loads keeps the last one), or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise ValueError(f"entry {twice!r} appears twice")
    return content


def serialised(value: Any) -> bytes:
    """What `torch.save` would write to a file, for `write_bytes`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def cache_folder() -> Path:
    """The folder for files that were downloaded or compiled and can be made again; it may not exist yet.

    It is the folder that the environment variable RFNEXT_CACHE names, else ~/.cache/rfnext.
    """
    return Path(os.environ.get("RFNEXT_CACHE") or Path.home() / ".cache" / "rfnext")
