"""Tables as LaTeX, to be \\input, for the packages booktabs and graphicx."""

import math
import re
from collections.abc import Sequence

from tabulate import LATEX_ESCAPE_RULES, tabulate

from benchmarks.report.content import Column, Notes, Table

SYMBOLS = str.maketrans(
    {
        "±": r"$\pm$",
        "×": r"$\times$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
        "→": r"$\rightarrow$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "…": r"\ldots{}",
        "–": "--",
        "−": "$-$",
        "|": r"\textbar{}",
    }
)
"""What pdflatex does not support or prints as something else."""

TALLEST = 32
"""Rows of a table; more are continued in another one."""

WIDEST = 8
"""Columns of numbers of a table; more are continued in another one, with the names again."""

FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Makes the table as narrow as the text if it is wider."""


def latex(name: str, tables: Sequence[Table], notes: Notes, about: str = "") -> str:
    """Tables with captions that have the notes they use.

    Args:
        name: of the whole; its label is made of it.
        tables: what is printed.
        notes: those that the tables' marks are of.
        about: goes into the caption of the first table, to which the others refer.
    """
    lines = [r"% \usepackage{booktabs,graphicx}"]
    label = re.sub(r"[^a-z0-9]+", "-", name.lower())
    for index, table in enumerate(tables):
        title = f"{table.title}." if name == table.title else f"{name}. {table.title}."
        said = " ".join(part for part in (title, table.caption, "" if index else about, _used(table, notes)) if part)
        caption = escape(said)
        if about and index:
            caption += rf" Data, protocol and machine: Table \ref{{{label}}}."
        for number, part in enumerate(_parts(table)):
            shown = escape(f"{title} Continued.") if number else caption
            lines += [r"\begin{table}", r"\centering", rf"\caption{{{shown}}}"]
            lines += [] if index or number else [rf"\label{{{label}}}"]
            lines += [r"\medskip", FIT, _tabular(part) + "}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    text = " ".join(text.split())
    return "".join(LATEX_ESCAPE_RULES.get(character, character) for character in text).translate(SYMBOLS)


def _used(table: Table, notes: Notes) -> str:
    """The notes whose marks the table has."""
    text = " ".join(part for line in table.lines for part in line)
    used = set(re.findall(r"\[(\d+)\]", text))
    return " ".join(f"[{i}] {note}." for i, note in enumerate(notes.texts, 1) if str(i) in used)


def _parts(table: Table) -> list[tuple[Sequence[str], list[Column], list[list[str]]]]:
    """A table in pieces that fit a page: (headers of words, columns, rows)."""
    count, words = len(table.columns), len(table.names)
    width = math.ceil(count / math.ceil(count / WIDEST))
    height = math.ceil(len(table.rows) / math.ceil(len(table.rows) / TALLEST))
    lines = table.lines
    return [
        (
            table.names,
            list(table.columns[left : left + width]),
            [line[:words] + line[words + left : words + left + width] for line in lines[top : top + height]],
        )
        for top in range(0, len(lines), height)
        for left in range(0, count, width)
    ]


def _tabular(part: tuple[Sequence[str], list[Column], list[list[str]]]) -> str:
    names, columns, rows = part
    # The unit is a line of its own, which keeps columns narrow.
    units = [*("" for _ in names), *(f"({c.unit}) {c.arrow}".replace("()", "").strip() for c in columns)]
    # A hyphen in front of a digit is a minus.
    body = [[re.sub(r"^-(?=\d)", "−", " ".join(text.split())) for text in row] for row in rows]
    body = [units, *body] if any(units) else body
    aligned = ["left"] * len(names) + ["right"] * len(columns)
    header = [*names, *(column.name for column in columns)]
    text = tabulate(body, header, tablefmt="latex_booktabs", colalign=aligned, disable_numparse=True)
    lines = text.translate(SYMBOLS).splitlines()
    if any(units):  # the rule belongs below them
        rule = lines.index(r"\midrule")
        lines[rule], lines[rule + 1] = lines[rule + 1], lines[rule]
    return "\n".join(lines)
