"""Where things are kept that were made or downloaded and can be made again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder that the environment variable RFNEXT_CACHE names, else ~/.cache/rfnext; it need not exist yet."""
    return Path(os.environ.get("RFNEXT_CACHE") or Path.home() / ".cache" / "rfnext")
