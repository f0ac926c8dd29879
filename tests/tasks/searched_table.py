"""Write the table of the tasks' networks into docs/networks.md: `python -m tests.tasks.searched_table`."""

import logging
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

import tasks
from rfnext import files, plan

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"
HEADING = "| task | preset | convs | searched | in the modules | not searched |\n"
TABLE = re.compile(rf"(?<={re.escape(HEADING)})(\|.*\n)+")
SMALL = ("tiny", "families")
"""Begin the names of presets whose networks are built in seconds, without data or weights from elsewhere."""


def presets() -> list[tuple[str, str]]:
    """Task and preset of each network."""
    return [(name, preset) for name in tasks.names() for preset in tasks.load(name).presets if preset.startswith(SMALL)]


def row(name: str, preset: str) -> str:
    """The row of one network, built as its trainings build it."""
    task = tasks.load(name)
    found = plan(task.build(task.presets[preset]), task.where)
    modules = sorted({re.sub(r"\d+", "*", ".".join(one.layer.split(".")[:2])) for one in found.searched})
    kernels = Counter(max(one.kernel) for one in found.layers if one.passed_over is not None)
    others = "; ".join(f"{count} of kernel {size}" for size, count in sorted(kernels.items()))
    cells = [name, f"`{preset}`", str(len(found.layers)), str(len(found.searched)), f"`{'`, `'.join(modules)}`", others]
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Print each row, and put them in place of the page's."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = ["| --- | --- | ---: | ---: | --- | --- |\n"]
    for name, preset in presets():
        rows.append(row(name, preset))
        sys.stdout.write(rows[-1])
        sys.stdout.flush()
    text = PAGE.read_text(encoding="utf-8")
    files.write_text(PAGE, TABLE.sub(lambda _: "".join(rows), text))


if __name__ == "__main__":
    main()
