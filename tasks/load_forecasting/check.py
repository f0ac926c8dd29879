"""Check a series of one's own: `python -m tasks.load_forecasting.check PATH [--time COLUMN] [--target COLUMN]`.

Prints every problem found, of one file the first 20, one a line, as "file:line: problem; how to fix it", and exits with
1; or a summary, and 0.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.findings import Findings
from tasks.load_forecasting.csv_file import NAME, read_csv


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.load_forecasting.check",
        description=f"Check a folder with a {NAME}, or any such file: a column of time stamps in equal steps, a "
        "target, and covariates. Prints every problem as file:line: problem; how to fix it, and exits with 1 "
        "if there is one.",
    )
    parser.add_argument("path", type=Path, help=f"the folder of {NAME}, or a file")
    parser.add_argument("--time", default="time", help="column of the time stamps; default: time")
    parser.add_argument("--target", default="target", help="column that is forecast; default: target")
    given = parser.parse_args(arguments)
    report = Findings()
    path = given.path / NAME if given.path.is_dir() else given.path
    found = read_csv(path, given.time, given.target, report)
    if found is None:
        return report.end("")
    columns, steps = found.values.shape
    return report.end(
        f"{steps} steps of {found.step:g} s from {found.start}, target {found.columns[0]!r}, "
        f"{columns - 1} covariates{': ' if columns > 1 else ''}{', '.join(found.columns[1:])}; "
        f"a day has {86400 / found.step:g} steps (--horizon, --seasons)"
    )


if __name__ == "__main__":
    sys.exit(main())
