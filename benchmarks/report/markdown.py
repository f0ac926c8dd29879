"""Tables as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence

from tabulate import tabulate

from benchmarks.records.statistics import Estimate
from benchmarks.report.content import Content, Notes, Table


def report(said: Content, figures: Sequence[str]) -> str:
    """The whole report of a preset.

    Args:
        said: what it says.
        figures: names of the figures in its folder.
    """
    found = said.found
    lines = [f"# {found.task}, preset {escape(found.title)}", "", escape(said.caption), "", escape(said.conclusion), ""]
    lines += [line for name in figures for line in (f"![{name}]({name})", "")]
    for one in said.tables:
        lines += [f"## {one.title}", "", *([escape(one.caption), ""] if one.caption else []), table(one), ""]
    lines += notes(said.notes)
    lines += ["## Methods", "", *(f"- {name}: {escape(text)}" for name, text in said.methods.items()), ""]
    return "\n".join(lines)


def single(one: Table, marked: Notes) -> str:
    """A report of one table."""
    return "\n".join([f"# {one.title}", "", escape(one.caption), "", table(one), "", *notes(marked)])


def table(one: Table) -> str:
    """One table; leading words to the left, numbers to the right."""
    return pipe(one.header, one.lines, words=len(one.names))


def pipe(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Rows of text as a Markdown table.

    Args:
        header: titles of the columns.
        rows: text of every entry.
        words: number of leading columns that hold words; the others are aligned to the right.
    """
    aligned = ["left"] * words + ["right"] * (len(header) - words)
    escaped = [[escape(text) for text in row] for row in (header, *rows)]
    return tabulate(escaped[1:], escaped[0], tablefmt="pipe", colalign=aligned, disable_numparse=True)


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return text.replace("\n", " ").replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def notes(marked: Notes) -> list[str]:
    """The lines of a report's last section; none without notes."""
    lines = [f"- [{i}] {escape(text)}" for i, text in enumerate(marked.texts, 1)]
    return ["## Notes", "", *lines, ""] if lines else []


def numbers(tables: Sequence[Table]) -> str:
    """Every number of some tables as CSV, one per line."""
    rows = [["table", "row", "column", "unit", "mean", "ci95_half_width", "units", "cells"]]
    for one in tables:
        for row in one.rows:
            for column, entry in zip(one.columns, row.entries, strict=True):
                name = ", ".join(row.names)
                rows.append([one.key, name, column.name, column.unit, *_parts(entry.value, entry.text)])
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _parts(value: Estimate | float | None, text: str) -> list[str]:
    """Mean, half width, units, cells. What is no single number, as a size per axis, stays as it is printed."""
    if value is None:
        return [text.strip("–"), "", "", ""]
    if not isinstance(value, Estimate):
        return [f"{value:.6g}", "", "", ""]
    half = "" if value.half_width is None else f"{value.half_width:.6g}"
    return [f"{value.mean:.6g}", half, str(value.units), str(value.cells)]
