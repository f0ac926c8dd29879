"""Writes everything that follows from the records of a results folder; equal records give equal files."""

import logging
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.records.folder import read_all
from benchmarks.records.lines import write_lines
from benchmarks.records.places import ROOT
from benchmarks.records.protocol import of_files, shared
from benchmarks.records.record import Key, RecordError
from benchmarks.report import figures, markdown, paper
from benchmarks.report.across import across
from benchmarks.report.content import Content, content
from benchmarks.report.gathered import Gathered, check_protocols, gather, leave_out_odd
from benchmarks.report.latex import latex
from benchmarks.report.page import Section, page
from rfnext.files import explained, write_bytes, write_text
from tasks.plain import differences

log = logging.getLogger(__name__)

COMMITTED = ("scores", "dilations")
"""Figures that are files beside a preset's table; the page has all."""


def build(results: Path) -> tuple[list[Path], list[str]]:
    """Write all tables, figures and the page of a results folder.

    A record that is broken is left out and named, and the records.jsonl that it is in stays as it is. A preset whose
    records have different protocols is left as it is on the disk. Records of an outdated protocol that came with the
    repository give way to those that were run here on the same data; a warning says so.

    Returns:
        The tables and pages that were written, and what was refused or is broken.
    """
    records = read_all(results)
    errors, sections, written = list(map(str, records.broken)), [], []
    incomplete = {fault.path for fault in records.broken}
    for key, reason in records.failed.items():
        errors.append(f"{key}: failed here, so the table shows the record that came with the repository: {reason}")
    for found in gather(records):
        odd = leave_out_odd(found, records.places)
        errors += odd
        drop_outdated(found, records.own)
        if not found.records:
            continue  # the errors of broken files are reported already
        try:
            check_protocols(found, results)
        except RecordError as error:
            errors.append(str(error))
            continue
        section = Section(content(found), figures.draw(found), results)
        lines = results / found.name / "records.jsonl"
        if not odd and lines not in incomplete:
            write_lines(lines, found.records)
        written.append(write_preset(section))
        sections.append(section)
    if not sections and not errors:
        return [], []
    shown = [section.content.found for section in sections]
    gathered = across(shown)
    for one in gathered:
        path = results / f"{one.name}.md"
        write_text(path, markdown.single(one.table, one.notes))
        write_text(results / f"latex/{one.name}.tex", latex(one.table.title, [one.table], one.notes))
        written.append(path)
    written.append(paper.write(results, shown))
    index = results / "index.html"
    write_text(index, page(sections, gathered, errors, results))
    return [*written, index], errors


def drop_outdated(found: Gathered, own: Collection[Key]) -> None:
    """Take out committed records that cannot share a table with those that were run here on the same data.

    Those of before files counted (`records.identity`) have the same data if it has the same name.
    """
    mine = [record for record in found.records if record.key in own]
    if not mine:
        return
    latest = max(mine, key=lambda record: record.finished)
    of_method = {record.method: record.protocol for record in mine}
    outdated = [
        record
        for record in found.records
        if record.key not in own
        and record.data == latest.data
        and (not of_files(record.protocol) or record.protocol["data"] == latest.protocol.get("data"))
        and (
            shared(record.protocol) != shared(latest.protocol)
            or record.protocol != of_method.get(record.method, record.protocol)
        )
    ]
    if outdated:
        left = {record.key for record in outdated}
        found.records = [record for record in found.records if record.key not in left]
        what = ", ".join(differences(outdated[0].protocol, latest.protocol))
        log.warning("%s: %d committed records of another protocol are left out: %s", found.name, len(outdated), what)


def write_preset(section: Section) -> Path:
    """Write a preset's folder and its LaTeX tables; returns the path of its table."""
    said = section.content
    found = said.found
    folder = section.results / found.name
    for kind in COMMITTED:
        if kind in section.figures:
            write_bytes(folder / f"{kind}.svg", section.figures[kind])
    shown = [f"{kind}.svg" for kind in COMMITTED if (folder / f"{kind}.svg").exists()]
    write_text(folder / "table.csv", markdown.numbers(said.tables))
    write_text(section.results / f"latex/{found.name}.tex", _printed(said))
    write_text(folder / "table.md", markdown.report(said, shown))
    return folder / "table.md"


def _printed(said: Content) -> str:
    """What papers print: scores, differences, receptive fields, cost."""
    tables = [table for table in said.tables if table in (said.test, said.difference, said.receptive_field, said.cost)]
    return latex(f"{said.found.task}, {said.found.title}", tables, said.notes, said.caption)


@dataclass(frozen=True)
class Options:
    """Make tables, figures and the page from the records; trains nothing."""

    results: Path = ROOT / "results"
    """Folder of the records; everything is written there too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if a record is broken, protocols are mixed (the rest is still written) or nothing can be.

    2 if there is no such folder.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.report")
    if not options.results.is_dir():
        print(f"error: no folder {options.results}; give the one of the records by --results DIR", file=sys.stderr)
        return 2
    try:
        written, errors = build(options.results)
    except OSError as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        return 1
    for path in written:
        print(path)
    if not written and not errors:
        print(f"no records in {options.results}: run `python -m benchmarks.suite tiny` first")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0
