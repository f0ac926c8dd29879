"""Records -> tables, figures and one page. Trains nothing and builds no network; equal records give equal files.

    python -m benchmarks.tables [--results DIR] [--audio]

Per task and preset, results/tables/<task>-<preset>.md (all sections), .csv (every number, one per line) and .tex (test
metrics, differences, receptive fields and cost; to be \\input, with the packages booktabs and graphicx). Presets of a
family (coco, coco-convnext, ...) are gathered in <task>-<family>-family.*, and the cost of all searches in
search_cost.*. Figures are in results/figures; results/tables/README.md lists the tables, results/index.html shows
everything (`benchmarks.report`).
"""

import csv
import io
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import tyro

from benchmarks import figures, report
from benchmarks.groups import (
    BASELINE,
    Group,
    check_protocols,
    conclusion,
    differences,
    estimate,
    group,
    scores,
)
from benchmarks.record import ROOT, RecordError, read_all
from benchmarks.sheets import (
    COST,
    DASH,
    Notes,
    Sheet,
    Sheets,
    caption,
    costs,
    described,
    families,
    family,
    search_cost,
    sheets,
)
from rfnext.files import write_text


def markdown(found: Group, parts: Sheets, drawn: Sequence[str]) -> str:
    """The whole report of a group."""
    lines = [f"# {found.task}, preset {_escape(found.title)}", "", caption(found), "", conclusion(found), ""]
    for sheet in parts.all:
        lines += [f"## {sheet.title}", "", *([sheet.caption, ""] if sheet.caption else []), *_table(sheet), ""]
    lines += _notes(parts.notes)
    lines += ["## Methods", "", *(f"- {name}: {text}" for name, text in described(found.methods).items()), ""]
    if drawn:
        lines += ["## Figures", "", *(f"![{name}](../{quote(name)})" for name in drawn), ""]
    return "\n".join(lines)


def single(sheet: Sheet, notes: Notes) -> str:
    """A report of one sheet."""
    return "\n".join([f"# {sheet.title}", "", sheet.caption, "", *_table(sheet), "", *_notes(notes)])


def _table(sheet: Sheet) -> list[str]:
    rule = ["---"] * sheet.names + ["---:"] * (len(sheet.header) - sheet.names)
    return [_row(sheet.header), _row(rule), *map(_row, sheet.rows)]


def _notes(notes: Notes) -> list[str]:
    marked = [f"- [{i}] {_escape(text)}" for i, text in enumerate(notes.texts, 1)]
    return ["## Notes", "", *marked, ""] if marked else []


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    return text.replace("\n", " ").replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "…": r"\ldots{}",
    DASH: "--",
}


TALLEST = 32
"""Rows of a LaTeX table, all its parts together; more are continued in another one."""

WIDEST = 8
"""Columns of numbers of a LaTeX table; of more, parts are set below each other, each with the names again."""

FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\vbox{%"
"""Makes the parts that follow as narrow as the text if they are wider, all by the same factor."""


def latex(name: str, parts: Sequence[Sheet], notes: Notes, about: str = "") -> str:
    """Sheets as tables for the packages booktabs and graphicx.

    Each caption has the notes that are used; `about` goes into that of the first table, to which the others refer.
    """
    lines = [r"% \usepackage{booktabs,graphicx}"]
    label = re.sub(r"[^a-z0-9]+", "-", name.lower())
    for index, sheet in enumerate(parts):
        used = [text for i, text in enumerate(notes.texts, 1) if any(f"[{i}]" in c for r in sheet.rows for c in r)]
        marks = " ".join(f"{notes.mark(text)} {text}." for text in used)
        title = f"{sheet.title}." if name == sheet.title else f"{name}. {sheet.title}."
        said = " ".join(part for part in (title, sheet.caption, about if not index else "", marks) if part)
        more = rf" Data, protocol and machine: Table \ref{{{label}}}." if about and index else ""
        height = math.ceil(len(sheet.rows) / math.ceil(len(sheet.rows) * _parts(sheet) / TALLEST))
        for start in range(0, len(sheet.rows), height):
            caption = _tex(f"{title} Continued.") if start else f"{_tex(said)}{more}"
            lines += [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
            lines += [] if index or start else [rf"\label{{{label}}}"]
            lines += [r"\medskip", FIT, *_tabulars(sheet, sheet.rows[start : start + height]), r"}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _parts(sheet: Sheet) -> int:
    return math.ceil((len(sheet.header) - sheet.names) / WIDEST)


def _tabulars(sheet: Sheet, rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a sheet as one tabular, or as several below each other."""
    numbers = range(sheet.names, len(sheet.header))
    width = math.ceil(len(numbers) / _parts(sheet))
    lines: list[str] = []
    for start in numbers[::width]:
        columns = [*range(sheet.names), *numbers[start - sheet.names :][:width]]
        header = [sheet.header[column].partition(" (") for column in columns]
        kinds = "l" * sheet.names + "r" * (len(columns) - sheet.names)
        lines += [r"\medskip"] if lines else []
        lines += [rf"\hbox{{\begin{{tabular}}{{{kinds}}}", r"\toprule", _tex_row([name for name, _, _ in header])]
        if any(unit for _, _, unit in header):
            lines.append(_tex_row([f"({unit}" if unit else "" for _, _, unit in header]))
        lines += [r"\midrule", *(_tex_row([row[column] for column in columns]) for row in rows)]
        lines += [r"\bottomrule", r"\end{tabular}}"]
    return lines


def _tex_row(cells: Sequence[str]) -> str:
    # A row that begins with "[" or "*" would be read as an argument of the line break before it.
    guard = "{}" if cells[0].startswith(("[", "*")) else ""
    return guard + " & ".join(re.sub(r"^-(?=\d)", "$-$", _tex(cell)) for cell in cells) + r" \\"


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def numbers(found: Group) -> str:
    """Every number as CSV: table, method, metric, unit, mean, ci95_half_width, units, cells."""
    rows = [["table", "method", "metric", "unit", "mean", "ci95_half_width", "units", "cells"]]
    for method in found.methods:
        tables = {"test": scores(found, method), "test_last_epoch": scores(found, method, last=True)}
        if method != BASELINE:
            tables["difference"] = differences(found, method)
        for table, values in tables.items():
            for metric in found.metrics:
                value = estimate(values[metric.name])
                mean = "" if value is None else f"{value.mean:.6g}"
                half = "" if value is None or value.half_width is None else f"{value.half_width:.6g}"
                counts = ["0", "0"] if value is None else [str(value.units), str(value.cells)]
                rows.append([table, method, metric.name, metric.unit, mean, half, *counts])
        for name, text in zip(COST, costs(found, method), strict=True):
            unit = re.search(r"\((.+)\)", name)
            rows.append(
                ["cost", method, name.partition(" (")[0], unit[1] if unit else "1", text.strip(DASH), "", "", ""]
            )
    return _csv(rows)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def draw(found: Group, results: Path) -> list[str]:
    """Draw the group's figures; returns their paths and those of the tasks' pictures, from the results."""
    paths = []
    for kind, panels in figures.panels(found).items():
        name = Path("figures") / f"{found.name}-{kind}.svg"
        figures.save(results / name, panels)
        paths.append(name.as_posix())
    return paths + found.pictures(results)


def make(results: Path, *, audio: bool = False) -> tuple[list[Path], list[str]]:
    """Write all tables, figures and the page of a results folder: (tables and pages, what was refused or is broken).

    Args:
        results: folder of the records.
        audio: also write work/index.html, a page with the audio that lies on this machine.
    """
    records, broken = read_all(results)
    errors, refused, shown, written = list(broken.values()), [], [], []
    folder = results / "tables"
    for found in group(records, broken):
        if not found.records:  # nothing but broken files: their errors say all there is
            continue
        try:
            check_protocols(found, results)
            shown.append(found)
        except RecordError as error:
            errors.append(str(error))
            refused.append(
                f"- {found.task}, preset {_escape(found.title)}: refused, its records have different protocols"
            )
    lines = []
    for found in shown:
        parts = sheets(found)
        path = folder / f"{found.name}.md"
        write_text(path, markdown(found, parts, draw(found, results)))
        write_text(folder / f"{found.name}.csv", numbers(found))
        about = caption(found)
        printed = (parts.test, parts.difference, parts.receptive_field, parts.cost)
        kept = [sheet for sheet in printed if sheet.rows]
        write_text(folder / f"{found.name}.tex", latex(f"{found.task}, {found.title}", kept, parts.notes, about))
        written.append(path)
        done = sum(record.status == "done" for record in found.records)
        cells = len(found.columns) * len(set(found.methods) - found.left_out.keys())
        lines.append(
            f"- [{found.task}, preset {_escape(found.title)}]({quote(path.name)}): {found.records[0].data}; "
            f"{done} of {cells} cells"
        )
    gathered = {f"{name}-family": family(members) for name, members in families(shown).items()}
    if (cost := search_cost(shown)).sheet.rows:
        gathered["search_cost"] = cost
    for name, one in gathered.items():
        sheet, notes = one.sheet, one.notes
        write_text(folder / f"{name}.md", single(sheet, notes))
        write_text(folder / f"{name}.csv", _csv([sheet.header, *sheet.rows]))
        write_text(folder / f"{name}.tex", latex(sheet.title, [sheet], notes))
        written.append(folder / f"{name}.md")
        lines.append(f"- [{sheet.title}]({quote(name)}.md)")
    if (folder / "speed.md").exists():
        lines.append("- [speed](speed.md): cost of searching, by `python -m benchmarks.speed`")
    lines += refused
    if lines:
        about = (
            "Made from the records in ../runs by `python -m benchmarks.tables`; do not edit. "
            "All of it on one page, to be opened in a browser: [index.html](../index.html)."
        )
        write_text(folder / "README.md", "\n".join(["# Tables", "", about, "", *lines, ""]))
        written += report.write(shown, list(gathered.values()), errors, results, audio=audio)
    return written, errors


@dataclass(frozen=True)
class Options:
    """Make tables, figures and the page from the records; trains nothing."""

    results: Path = ROOT / "results"
    """Folder of the records; tables and figures are written there too."""
    audio: bool = False
    """Also write results/work/index.html, with the audio that lies on this machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if a record is broken or protocols are mixed (the other tables are still written)."""
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.tables")
    written, errors = make(options.results, audio=options.audio)
    for path in written:
        print(path)
    if not written and not errors:
        print(f"no records in {options.results / 'runs'}: run `python -m benchmarks.suite tiny` first")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
