"""Command lines of dataclasses, by tyro: a value that a class refuses is one line, whichever class it is of.

Also what the command lines that predict share.
"""

import argparse
import contextlib
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from rfnext.files import explained
from tasks.spec import DataError, device_of


def parse(shape: Any, arguments: Sequence[str] | None, **settings: Any) -> Any:
    """What `tyro.cli` makes of a command line, None: of this process's; settings are its own.

    Raises:
        ValueError: that of a check in `__post_init__`, of the class or of one in it, for which tyro has a box of lines.
        SystemExit: after --help (0), or an option or a value that cannot be read (2), which tyro has explained.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(shape, args=arguments, **settings)
    except SystemExit as end:
        refused = _refused(end)
        if refused is not None:
            raise refused from None
        sys.stderr.write(said.getvalue())
        raise
    sys.stderr.write(said.getvalue())  # warnings
    return found


def parse_or_end(shape: Any, arguments: Sequence[str] | None, **settings: Any) -> Any:
    """As `parse`; a ValueError is said in one line and ends the process with 2, as what tyro refuses does."""
    try:
        return parse(shape, arguments, **settings)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def add_device(parser: argparse.ArgumentParser) -> None:
    """The argument --device; one that is not here is refused."""
    said = "auto, cpu, cuda, cuda:1, ... (default: %(default)s)"
    parser.add_argument("--device", type=_device_name, default="auto", help=said)


def _device_name(text: str) -> str:
    try:
        device_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def status_of(work: Callable[[], int]) -> int:
    """What a command exits with: what its work returns; after one line, 3 for data that cannot be used, 1 for files."""
    try:
        return work()
    except (OSError, ValueError) as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        return 3 if isinstance(error, DataError) else 1


def _refused(end: SystemExit) -> ValueError | None:
    """The error of a class's own check that tyro was about to explain."""
    cause = end.__context__
    while cause is not None:
        places = (frame.f_code.co_name for frame, _ in traceback.walk_tb(cause.__traceback__))
        if isinstance(cause, ValueError) and "__post_init__" in places:
            return cause
        cause = cause.__context__
    return None
