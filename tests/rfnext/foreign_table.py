"""Write the table of docs/networks.md: `python -m tests.rfnext.foreign_table`, with all libraries installed."""

import logging
import sys
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import torch

from rfnext import files
from rfnext.structure import named_convs
from tests.rfnext.foreign_course import run
from tests.rfnext.foreign_networks import NETWORKS, library_of

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
HEADING = "| network | library | convs | searched | passed over | result | largest error, float64 | float32 |\n"


def row(name: str) -> str:
    """The row of one network; raises AssertionError if it breaks a promise."""
    library, _, short = name.partition("/")
    cells = [short, f"{library} {version(library_of(name))}"]
    if NETWORKS[name].refused:
        try:
            run(NETWORKS[name])
        except ValueError as error:
            reason = str(error).partition(": ")[2].partition(";")[0]
            convs = len(named_convs(NETWORKS[name].network()))
            return _line([*cells, str(convs), "0", "", f"refused: {reason}", "", ""])
        raise AssertionError(f"{name} is not refused")
    measured = run(NETWORKS[name])
    reasons = Counter(measured.passed_over.values())
    double = max((value for step, value in measured.errors.items() if "float32" not in step), default=None)
    cells += [str(measured.convs), str(measured.searched)]
    cells += ["; ".join(f"{count} {reason}" for reason, count in reasons.items())]
    cells += ["; ".join(["passed", *measured.notes])]
    return _line([*cells, *(f"{v:.0e}" if v else "" for v in (double, measured.errors.get("float32, convs")))])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Run all networks, print each row, and put them in place of the page's."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = []
    for name in NETWORKS:
        rows.append(row(name))
        sys.stdout.write(rows[-1])
        sys.stdout.flush()
    text = PAGE.read_text(encoding="utf-8").partition(HEADING)[0]
    files.write_text(PAGE, text + HEADING + "| --- | --- | ---: | ---: | --- | --- | ---: | ---: |\n" + "".join(rows))


if __name__ == "__main__":
    main()
