"""Studies on the page: what a folder of results with a README.md says, and its table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from benchmarks.report.content import Column, Entry, Row, Table

OPENING = ("planted_truth", "search_at_equal_cost", "does_search_pay")
"""Folders of the studies that the page shows, in this order; the others are linked."""


@dataclass(frozen=True)
class Study:
    """A study. said: its question and answer. table: the first one of its table.md, if it has one."""

    title: str
    address: str
    said: Sequence[str]
    table: Table | None


def shown(results: Path) -> list[Study]:
    """The studies that are shown, of those that are here."""
    return [_study(results, name) for name in OPENING if (results / name / "README.md").exists()]


def linked(results: Path) -> list[tuple[str, str]]:
    """(title, address) of all studies and of what else has a table of its own."""
    found = []
    for page in sorted(results.glob("*/README.md")):
        found.append((_title(page), quote(page.relative_to(results).as_posix())))
    if (results / "speed/table.md").exists():
        found.append(("Cost of searching, operator by operator", "speed/table.md"))
    return found


def _title(page: Path) -> str:
    titles = [line[2:] for line in page.read_text("utf-8", errors="replace").splitlines() if line.startswith("# ")]
    return titles[0] if titles else page.parent.name


def _study(results: Path, name: str) -> Study:
    page = results / name / "README.md"
    paragraphs = [" ".join(part.split()) for part in page.read_text("utf-8", errors="replace").split("\n\n")]
    answers = [text for text in paragraphs if text.startswith(("**Question.**", "**Answer.**"))]
    said = answers or [text for text in paragraphs if text and not text.startswith("#")][:1]
    written = results / name / "table.md"
    table = first_table(written.read_text("utf-8", errors="replace"), _title(page)) if written.exists() else None
    return Study(_title(page), quote(f"{name}/README.md"), [plain(text) for text in said], table)


def plain(text: str) -> str:
    """Markdown of one paragraph as plain text."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"\*\*|`", "", text)


def first_table(text: str, title: str) -> Table | None:
    """The first table of a Markdown file, its first column as names; None if there is none."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("|")), None)
    if start is None:
        return None
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([plain(cell.strip().replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    header, _, *body = rows
    columns = tuple(Column(name) for name in header[1:])
    return Table(title, title, "", (header[0],), columns, tuple(Row((r[0],), tuple(map(Entry, r[1:]))) for r in body))
