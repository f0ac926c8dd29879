"""The page: results/index.html, everything that the records say, in one file that needs no network."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.records.record import Record
from benchmarks.report import opening, paper, study_pages
from benchmarks.report.across import Across
from benchmarks.report.content import Column, Content

FIGURES = {
    "scores": "Test scores; blue diamonds and orange crosses where the paired difference to the baseline is decided",
    "differences": "Differences to the baseline",
    "dilations": "Dilations before and after the searches",
    "structures": "Structures against the hand design; orange: larger dilations, purple: smaller ones",
    "trajectories": "How the searches changed the dilations",
    "receptive_fields": "Effective receptive fields",
}
"""Kinds of figures in the order of the page, and what they show."""


class Run(NamedTuple):
    """A cell: its metrics as text, the file of its record if that is here, and when it ended or why it failed."""

    method: str
    fold: int
    seed: int
    numbers: list[str]
    file: str | None
    said: str


@dataclass(frozen=True)
class Section:
    """One (task, preset) on the page. figures: kind -> SVG."""

    content: Content
    figures: Mapping[str, bytes]
    results: Path

    @property
    def anchor(self) -> str:
        """Its place in the page."""
        return quote(self.content.found.name, safe="")

    @property
    def drawn(self) -> list[tuple[str, str]]:
        """(what it shows, data URI) of every figure; as images, so that their ids and styles do not clash."""
        encoded = {kind: base64.b64encode(content).decode() for kind, content in self.figures.items()}
        shown = [kind for kind in FIGURES if kind in encoded]
        return [(FIGURES[kind], f"data:image/svg+xml;base64,{encoded[kind]}") for kind in shown]

    @property
    def runs(self) -> list[Run]:
        """Every cell of it."""
        found = self.content.found
        rows = []
        for method in found.methods:
            for fold, seed in found.columns:
                record = found.done(method).get((fold, seed))
                if record is None or record.metrics is None:
                    why = found.why_not(method, fold, seed) or "not run"
                    rows.append(Run(method, fold, seed, ["–"] * len(found.metrics), None, why))
                    continue
                numbers = [f"{record.metrics[metric.name]:.{metric.decimals}f}" for metric in found.metrics]
                ended = record.finished.partition("+")[0].replace("T", " ")
                rows.append(Run(method, fold, seed, numbers, self._file(record), ended))
        return rows

    @property
    def run_header(self) -> list[str]:
        """Titles of the columns of `runs`."""
        return ["method", "fold", "seed", *(Column.of(m).title for m in self.content.found.metrics), "finished (UTC)"]

    def _file(self, record: Record) -> str | None:
        path = record.key.path(self.results)
        return quote(path.relative_to(self.results).as_posix()) if path.exists() else None

    @property
    def predictions(self) -> list[tuple[str, str]]:
        """(whose, address) of the pictures that are on this machine."""
        return [
            (f"{_of(record)}: {Path(name).stem}", quote(name))
            for record in self._ordered
            for name in record.pictures
            if (self.results / name).exists()
        ]

    @property
    def sounds(self) -> list[tuple[str, str]]:
        """(whose, address) of the sounds that are on this machine."""
        made = []
        for record in self._ordered:
            folders = {record.key.work(self.results), *((self.results / name).parent for name in record.pictures)}
            paths = sorted({path for folder in folders for path in folder.rglob("*.wav")})
            made += [(f"{_of(record)}: {p.stem}", quote(p.relative_to(self.results).as_posix())) for p in paths]
        return made

    @property
    def _ordered(self) -> list[Record]:
        found = self.content.found
        return sorted(found.records, key=lambda record: found.methods.index(record.method))


def _of(record: Record) -> str:
    return f"{record.method}, fold {record.fold}, seed {record.seed}"


def page(sections: Sequence[Section], across: Sequence[Across], problems: Sequence[str], results: Path) -> str:
    """The page as text.

    Args:
        sections: what may be shown, one (task, preset) each.
        across: tables over several presets.
        problems: what is wrong with records that are not shown.
        results: the folder that the page is for; links lead into it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = _minus
    # The main job first, then what compares to a published table, then what has most cells.
    ordered = sorted(sections, key=_order)
    tasks: dict[str, list[Section]] = {}
    for section in ordered:
        tasks.setdefault(section.content.found.task, []).append(section)
    lead = next((one for one in ordered if (one.content.found.task, one.content.found.preset) == opening.LEAD), None)
    records = [record for section in ordered for record in section.content.found.records]
    return environment.get_template("page.html.j2").render(
        tasks=tasks,
        lead=lead,
        answer=opening.sentences(lead.content.found if lead else None),
        chart=opening.chart(lead.content.found) if lead else None,
        per_task=opening.lines([members[0].content.found for members in tasks.values()]),
        across=across,
        anchors={section.content.found.name: section.anchor for section in ordered},
        problems=[text.replace(str(results), "results") for text in problems],
        done=sum(record.status == "done" for record in records),
        cells=len(records),
        commits=sorted({record.commit or "unknown" for record in records}),
        methods={name: text for section in ordered for name, text in section.content.methods.items()},
        shown_studies=study_pages.shown(results),
        studies=study_pages.linked(results),
        paper=(results / paper.NAME / "table.md").exists(),
    )


def _order(section: Section) -> tuple[bool, str, bool, bool, int, str]:
    found = section.content.found
    leads = found.task == opening.LEAD[0]
    return (not leads, found.task, not found.main, found.published is None, -len(found.records), found.preset)


def _minus(text: str) -> str:
    """With a minus sign instead of a hyphen before numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", str(text))
