"""The page: results/index.html, everything that the records say, in one file that needs no network.

Written by `python -m benchmarks.tables`. It carries its style, its script and its figures; pictures of predictions are
embedded as long as the page stays below `LIMIT`, and linked beyond. Every number leads to its records.
"""

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from xml.etree.ElementTree import Element

from benchmarks import figures
from benchmarks.groups import Comparison, Group, comparisons, conclusion, estimate, number, scores
from benchmarks.markup import element as e
from benchmarks.markup import html
from benchmarks.record import Record, work_folder
from benchmarks.sheets import DASH, Gathered, Notes, Sheet, caption, described, heading, sheets
from rfnext.files import write_text

LIMIT = 1_000_000
"""Bytes of the committed page; a repository of ours takes no file over 1 MiB."""

LARGEST_PICTURE = 96_000
"""Bytes of a picture that is embedded."""

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fdfdfc; --card: #ffffff; --ink: #1c2430; --faint: #5c6673; --line: #dfe3e8; --link: #1f5fbf;
  --better: #157a3f; --worse: #c02f2f; --tint: #f3f5f8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #181d25; --ink: #e4e8ee; --faint: #9aa5b3; --line: #2d353f; --link: #7fb0ff;
    --better: #53c985; --worse: #ff8585; --tint: #1f2630;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 70rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { font-size: clamp(1.6rem, 4vw, 2.2rem); line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 {
  font-size: 1.45rem; line-height: 1.25; margin: 3.5rem 0 .5rem; padding-top: 1rem; border-top: 2px solid var(--ink);
}
h3 { font-size: 1.12rem; margin: 0; overflow-wrap: anywhere; }
h4 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p, li, dd { overflow-wrap: anywhere; max-width: 46rem; }
p { margin: .4rem 0 .8rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.faint, figcaption, .data { color: var(--faint); font-size: .88rem; }
.lede { font-size: 1.08rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .4rem; list-style: none; margin: 1rem 0 0; padding: 0; }
nav a {
  display: block; padding: .2rem .7rem; border: 1px solid var(--line); border-radius: 1rem; text-decoration: none;
  font-size: .9rem; background: var(--card);
}
article {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.1rem 1.25rem; margin: 1.25rem 0;
}
.badge {
  display: inline-block; vertical-align: .1em; margin-left: .5rem; padding: .05rem .55rem; border-radius: 1rem;
  background: var(--tint); color: var(--faint); font-size: .78rem; font-weight: 500;
}
.glance { padding-left: 1.1rem; font-size: .95rem; }
.glance li { margin: .35rem 0; }
.conclusion { font-weight: 500; }
.problems { border-left: 4px solid var(--worse); padding: .1rem 1rem; background: var(--tint); }
.problems li { white-space: pre-wrap; }
.scroll { overflow-x: auto; max-width: 100%; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th {
  border-bottom: 2px solid var(--line); vertical-align: bottom; font-weight: 600; white-space: normal;
  min-width: 3.6rem;
}
thead th:has(button) { padding: 0; }
th[scope="row"], th.words, td.words { text-align: left; }
th[scope="row"] {
  font-weight: 500; position: sticky; left: 0; background: var(--card);
  white-space: normal; max-width: min(17rem, 42vw); overflow-wrap: break-word;
}
tbody tr:hover > * { background: var(--tint); }
th button {
  all: unset; box-sizing: border-box; cursor: pointer; width: 100%; padding: .38rem .7rem; text-align: inherit;
}
th button::after { content: "↕"; color: var(--line); margin-left: .3em; font-weight: 400; }
th[aria-sort="ascending"] button::after { content: "▲"; color: var(--link); }
th[aria-sort="descending"] button::after { content: "▼"; color: var(--link); }
th button:focus-visible, a:focus-visible, summary:focus-visible, .scroll:focus-visible {
  outline: 2px solid var(--link); outline-offset: -2px; border-radius: 3px;
}
tbody a { color: inherit; text-decoration: underline dotted var(--line); }
tbody a:hover { color: var(--link); text-decoration: underline; }
.interval { color: var(--faint); }
.difference { display: block; font-size: .8rem; color: var(--faint); }
.better { color: var(--better); font-weight: 600; }
.worse { color: var(--worse); font-weight: 600; }
tr.published > * { font-style: italic; color: var(--faint); }
details { border-top: 1px solid var(--line); padding: .15rem 0; }
summary { cursor: pointer; padding: .4rem 0; font-weight: 500; }
.panels { display: flex; flex-wrap: wrap; align-items: flex-start; gap: .8rem 1.2rem; margin: .6rem 0; }
.panels > svg, .panels > img { max-width: 100%; height: auto; flex: none; }
.panels > .scroll { flex: 1 1 20rem; min-width: 0; margin: 0; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; display: block; }
figcaption { margin-top: .3rem; }
audio { width: 100%; max-width: 28rem; display: block; }
dl { margin: .5rem 0; } dt { font-weight: 500; } dd { margin: 0 0 .4rem; color: var(--faint); font-size: .92rem; }
ol.notes { font-size: .85rem; color: var(--faint); padding-left: 1.6rem; margin: .2rem 0 1rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem .75rem 3rem; }
  article { padding: .9rem .8rem; }
  th, td, th button { padding-left: .5rem; padding-right: .5rem; }
}
@media print { details > * { display: block; } th button::after { content: none; } }
"""

SCRIPT = """
"use strict";
// A click on a header sorts by its column; cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach(header => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    header.setAttribute("aria-sort", "none");
  });
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const words = header.classList.contains("words");
    const first = words ? "ascending" : "descending";
    const second = words ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    headers.forEach(other => other.setAttribute("aria-sort", other === header ? order : "none"));
    const sign = order === "ascending" ? 1 : -1;
    const text = row => row.cells[column].textContent.replaceAll("\u2212", "-");
    const number = row => parseFloat(text(row));
    const compare = (a, b) => words
      ? text(a).localeCompare(text(b), "en", {numeric: true})
      : number(a) - number(b);
    const rows = [...table.tBodies[0].rows];
    const missing = row => !words && isNaN(number(row));
    const full = rows.filter(row => !missing(row)).sort((a, b) => sign * compare(a, b));
    table.tBodies[0].append(...full, ...rows.filter(missing));
  }));
}
// A link to something inside a closed <details> opens it.
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  for (let parent = target; parent; parent = parent.parentElement) {
    if (parent.tagName === "DETAILS") parent.open = true;
  }
  if (target) target.scrollIntoView();
};
// Every number leads where its row's own link does: a quarter of the page, if each were written out.
for (const link of document.querySelectorAll("tbody th a")) {
  for (const cell of link.closest("tr").querySelectorAll("td:not(.words)")) {
    const number = cell.firstChild;
    if (number?.nodeType !== Node.TEXT_NODE || !/^[+\u2212]?[0-9]/.test(number.data)) continue;
    const same = link.cloneNode();
    number.replaceWith(same);
    same.append(number);
  }
}
for (const link of document.querySelectorAll("table.runs td:last-child a")) {
  for (const cell of [...link.closest("tr").cells].slice(3, -1)) {
    const same = link.cloneNode();
    same.append(...cell.childNodes);
    cell.append(same);
  }
}
addEventListener("hashchange", reveal);
reveal();
"""


def write(
    groups: Sequence[Group],
    gathered: Sequence[Gathered],
    problems: Sequence[str],
    results: Path,
    *,
    audio: bool = False,
) -> list[Path]:
    """Write results/index.html and, with `audio`, results/work/index.html; returns their paths.

    Args:
        groups: what may be shown, one (task, preset) each.
        gathered: tables over several groups.
        problems: what is wrong with records that are not shown.
        results: folder of the records.
        audio: the second page plays the sounds that lie on this machine; it is never committed.
    """
    pages = [(results / "index.html", _Page(groups, gathered, problems, results, "", False))]
    if audio:
        pages.append((work_folder(results) / "index.html", _Page(groups, gathered, problems, results, "../", True)))
    for path, page in pages:
        write_text(path, page.text())
    return [path for path, _ in pages]


class _Page:
    """One rendering of the page. root: what leads from its folder to the results."""

    def __init__(
        self,
        groups: Sequence[Group],
        gathered: Sequence[Gathered],
        problems: Sequence[str],
        results: Path,
        root: str,
        audio: bool,
    ) -> None:
        # The main job first, then what compares to a published table, then what has most cells.
        self.groups = sorted(
            groups, key=lambda g: (g.task, not g.main, g.records[0].published is None, -len(g.records), g.preset)
        )
        self.gathered, self.results, self.root, self.audio = gathered, results, root, audio
        self.problems = [text.replace(str(results), "results") for text in problems]
        self.embedded: set[str] = set()
        self.brevity = 0

    def text(self) -> str:
        """The page with as much in it as `LIMIT` allows; pictures last, the first of every group first.

        Where there is no room the figures of the searches are files beside the page, and where even that is too
        much all figures.
        """
        for self.brevity in range(3):
            left = LIMIT - len(html(self.page()).encode())
            if left >= 0:
                break
        named = [(i, name) for group in self.groups for i, name in enumerate(group.pictures(self.results))]
        for place in sorted(set(named)):
            path = self.results / place[1]
            size = path.stat().st_size
            cost = (4 * size // 3 + 200) * named.count(place)
            if size <= LARGEST_PICTURE and cost <= left and path.suffix in KINDS:
                self.embedded.add(place[1])
                left -= cost
        return html(self.page())

    def page(self) -> Element:
        tasks = list(dict.fromkeys(group.task for group in self.groups))
        return e(
            "html",
            e(
                "head",
                e("meta", charset="utf-8"),
                e("meta", name="viewport", content="width=device-width, initial-scale=1"),
                e("meta", name="color-scheme", content="light dark"),
                e("title", "Receptive-field search: results"),
                e("style", STYLE + figures.STYLE),
            ),
            e(
                "body",
                self.header(tasks),
                e("main", [self.section(task) for task in tasks], self.across()),
                e(
                    "footer",
                    e(
                        "p",
                        "Made from the records in ",
                        self.link("runs", e("code", "runs/")),
                        " by ",
                        e("code", "python -m benchmarks.tables"),
                        ". The same tables as Markdown, CSV and LaTeX: ",
                        self.link("tables/README.md", e("code", "tables/")),
                        ".",
                        class_="faint",
                    ),
                ),
                e("script", SCRIPT),
            ),
            lang="en",
        )

    def header(self, tasks: Sequence[str]) -> Element:
        records = [record for group in self.groups for record in group.records]
        done = sum(record.status == "done" for record in records)
        commits = sorted({record.commit or "unknown" for record in records})
        return e(
            "header",
            e("h1", "Does it pay to search receptive fields?"),
            e(
                "p",
                f"{done} finished runs of {len(records)}, each with its record: click a number. "
                f"± is the half width of a 95 % confidence interval; the small line below a value is the difference to "
                f"the baseline, paired by fold and seed, in colour where its interval excludes 0.",
                class_="lede",
            ),
            e("p", f"Code: commit {', '.join(commits)}.", class_="faint") if commits else None,
            e("div", e("p", "Not shown:"), e("ul", [e("li", text) for text in self.problems]), class_="problems")
            if self.problems
            else None,
            e("ul", [self.glance(group) for group in sorted(self.groups, key=lambda g: not g.main)], class_="glance"),
            e(
                "nav",
                e(
                    "ul",
                    [e("li", e("a", task, href=f"#{_anchor(task)}")) for task in tasks],
                    e("li", e("a", "across tasks", href="#across")),
                ),
                aria_label="Tasks",
            ),
        )

    def glance(self, found: Group) -> Element:
        name = f"{found.task}, {found.title}"
        return e("li", e("a", name, href=f"#{_anchor(found.name)}"), ": ", _minus(conclusion(found)))

    def section(self, task: str) -> Element:
        groups = [group for group in self.groups if group.task == task]
        return e(
            "section",
            e("h2", task, id=_anchor(task)),
            [self.gathering(one) for one in self.gathered if one.task == task],
            [self.article(group) for group in groups],
        )

    def gathering(self, one: Gathered) -> Element:
        """A table over several groups; its numbers lead to the runs of their group."""
        rows = []
        for line, group in zip(one.sheet.rows, one.groups, strict=True):
            names = [e("td", text, class_="words") for text in line[1 : one.sheet.names]]
            link = f"#{_anchor(group.name, 'cells')}"
            rows.append(e("tr", _row_header(line[0], link), names, map(_number, line[one.sheet.names :])))
        return e(
            "article",
            e("h3", one.sheet.title),
            e("p", one.sheet.caption, class_="faint"),
            _scrolling(one.sheet.header, rows, one.sheet.title, one.sheet.names),
            _notes(one.notes),
        )

    def article(self, found: Group) -> Element:
        parts, drawn = sheets(found), figures.panels(found)
        published = found.records[0].published
        badge = "not comparable to published numbers" if published is None else "data of a published table"
        return e(
            "article",
            e("h3", found.title, e("span", badge, class_="badge")),
            e("p", found.records[0].data, class_="data"),
            e("p", _minus(conclusion(found)), class_="conclusion"),
            self.main_table(found, parts.test, parts.notes),
            _notes(parts.notes),
            self.drawing(found, drawn, "differences"),
            self.findings(found, drawn),
            self.receptive_fields(found, drawn, parts.receptive_field),
            self.predictions(found),
            e(
                "details",
                e("summary", "Differences, last epoch, cost"),
                [
                    part
                    for sheet in (parts.difference, parts.last, parts.cost)
                    if sheet.rows
                    for part in (
                        e("h4", sheet.title),
                        e("p", sheet.caption, class_="faint") if sheet.caption else None,
                        self.table(sheet, found),
                    )
                ],
            ),
            e("details", e("summary", "Every run and its record"), self.cells(found), id=_anchor(found.name, "cells")),
            e(
                "details",
                e("summary", "How it was measured"),
                e("p", caption(found), class_="faint"),
                e(
                    "dl",
                    [
                        part
                        for name, text in described(found.methods).items()
                        for part in (e("dt", e("code", name)), e("dd", text))
                    ],
                ),
                e(
                    "p",
                    "As files: ",
                    [
                        part
                        for end in ("md", "csv", "tex")
                        for part in (self.link(f"tables/{found.name}.{end}", end), " ")
                    ],
                    class_="faint",
                ),
            ),
            id=_anchor(found.name),
        )

    def main_table(self, found: Group, sheet: Sheet, notes: Notes) -> Element:
        """The test scores with the paired differences below them."""
        compared = {(one.method, one.metric.name): one for one in comparisons(found)}
        rows = []
        for line in sheet.rows:
            method = line[0]
            if method not in found.methods:  # a published row
                rows.append(e("tr", _row_header(method), map(_number, line[1:]), class_="published"))
                continue
            missing = notes.missing(found, method)
            values = scores(found, method)
            cells = []
            for metric in found.metrics:
                mean = estimate(values[metric.name])
                if mean is None:
                    cells.append(e("td", f"{DASH} {missing}"))
                    continue
                text, _, half = number(mean, metric.decimals).partition(" ± ")
                interval = e("span", f" ± {half}", class_="interval") if half else None
                cells.append(
                    e(
                        "td",
                        _minus(text),
                        interval,
                        f" {missing}" if missing else None,
                        _difference(compared.get((method, metric.name))),
                    )
                )
            tail = map(_number, line[1 + len(found.metrics) :])
            rows.append(e("tr", _row_header(method, self.target(found, method)), cells, tail))
        return _scrolling(sheet.header, rows, f"Test scores of {found.task}, {found.title}", sheet.names)

    def target(self, found: Group, method: str) -> str:
        """Where a method's number leads: to its record, or to the list of them if they are several."""
        done = list(found.done(method).values())
        return self.record(done[0]) if len(done) == 1 else f"#{_anchor(found.name, method)}"

    def table(self, sheet: Sheet, found: Group) -> Element:
        """A sheet whose rows are methods and lead to the records."""
        rows = [
            e("tr", _row_header(line[0], self.target(found, line[0])), map(_number, line[1:])) for line in sheet.rows
        ]
        return _scrolling(sheet.header, rows, sheet.title, sheet.names)

    def cells(self, found: Group) -> Element:
        """Every run: all its metrics, and why there are none."""
        rows, seen = [], set()
        for method in found.methods:
            for fold, seed in found.columns:
                record, reason = found.done(method).get((fold, seed)), found.why_not(method, fold, seed)
                row = e(
                    "tr",
                    _row_header(method),
                    [e("td", str(value)) for value in (fold, seed)],
                )
                if method not in seen:
                    row.set("id", _anchor(found.name, method))
                seen.add(method)
                if record is None or record.metrics is None:
                    row.extend([e("td", DASH) for _ in found.metrics])
                    row.append(e("td", reason or "not run", class_="words"))
                else:
                    row.extend([e("td", _minus(f"{record.metrics[m.name]:.{m.decimals}f}")) for m in found.metrics])
                    stamp = record.finished.partition("+")[0].replace("T", " ")
                    row.append(e("td", e("a", stamp, href=self.record(record)), class_="words"))
                rows.append(row)
        header = ["method", "fold", "seed", *map(heading, found.metrics), "record, finished (UTC)"]
        return _scrolling(header, rows, f"Every run of {found.task}, {found.title}", 1, runs=True)

    def findings(self, found: Group, drawn: dict[str, list[figures.Panel]]) -> Element | None:
        if not drawn.keys() & {"dilations", "structures", "reach"}:
            return None
        return e(
            "details",
            e("summary", "What the searches found"),
            self.drawing(found, drawn, "dilations", "reach"),
            self.drawing(found, drawn, "structures"),
            e(
                "p",
                "A chain of convs with kernel k and stride 1 has a theoretical receptive field of 1 + (k − 1) times "
                "the sum of its dilations. The sums are over the searched layers, methods are means over folds and "
                "seeds, and of methods that ended on equal structures only the first is drawn.",
                class_="faint",
            ),
        )

    def receptive_fields(self, found: Group, drawn: dict[str, list[figures.Panel]], sheet: Sheet) -> Element:
        """How far the scored networks look, before and after the searches."""
        beside = self.drawing(found, drawn, "receptive_fields")
        if beside is not None:
            beside.append(self.table(sheet, found))
        said = sheet.caption or (
            "Not measured: these records are older than the measurement, or their task has no probe for it. Cells that "
            "are run again have it."
        )
        return e("details", e("summary", "How far the networks look"), beside, e("p", said, class_="faint"))

    def drawing(self, found: Group, drawn: dict[str, list[figures.Panel]], *kinds: str) -> Element | None:
        """The panels of some kinds side by side; as files where the page has no room for them."""
        kinds = tuple(kind for kind in kinds if kind in drawn)
        panels = [panel for kind in kinds for panel in drawn[kind]]
        if not panels:
            return None
        about = f"{found.task}, {found.title}: {', '.join(kinds)}"
        if self.brevity > (0 if "dilations" in kinds or "structures" in kinds else 1):
            files = [f"figures/{found.name}-{kind}.svg" for kind in kinds]
            return e(
                "div", [e("img", src=self.address(name), alt=about, loading="lazy") for name in files], class_="panels"
            )
        drawings = [figures.svg([panel]) for panel in panels]
        if any(panel.width > figures.WIDTH for panel in panels):
            return e("div", drawings, class_="scroll", tabindex="0", role="region", aria_label=about)
        return e("div", drawings, class_="panels")

    def predictions(self, found: Group) -> Element | None:
        shown = []
        pictures = found.pictures(self.results)
        for record in sorted(found.records, key=lambda record: found.methods.index(record.method)):
            shown += [self.picture(name, record) for name in record.pictures if name in pictures]
            if self.audio:
                shown += [self.sound(path, record) for path in self.sounds(record)]
        if not shown:
            return None
        return e("details", e("summary", f"Predictions ({len(shown)})"), shown)

    def picture(self, name: str, record: Record) -> Element:
        about = e(
            "figcaption",
            e("a", f"{record.method}, fold {record.fold}, seed {record.seed}", href=self.record(record)),
            f": {Path(name).stem}",
        )
        path = self.results / name
        if name not in self.embedded:
            return e("figure", about, e("p", self.link(name, "open the picture"), class_="faint"))
        data = base64.b64encode(path.read_bytes()).decode()
        source = f"data:{KINDS[path.suffix]};base64,{data}"
        return e("figure", e("img", src=source, alt=f"Predictions of {record.cell}"), about)

    def sounds(self, record: Record) -> list[Path]:
        """Wave files of a run that lie on this machine."""
        cell = record.cell
        beside = {(self.results / name).parent for name in record.pictures}
        folders = [cell.work(self.results), *sorted(beside)]
        return sorted({path for folder in folders for path in folder.rglob("*.wav")})

    def sound(self, path: Path, record: Record) -> Element:
        name = path.relative_to(self.results).as_posix()
        return e(
            "figure",
            e("audio", controls="", preload="none", src=self.address(name)),
            e("figcaption", f"{record.method}, fold {record.fold}, seed {record.seed}: {path.stem}"),
        )

    def across(self) -> Element:
        """Tables over several groups, and what else the results folder holds."""
        others = []
        if (self.results / "tables" / "speed.md").exists():
            others.append(e("li", self.link("tables/speed.md", "Cost of searching, operator by operator")))
        for folder in sorted((self.results / "studies").glob("*/")):
            page = folder / "README.md"
            target = page if page.exists() else folder
            name = target.relative_to(self.results).as_posix()
            others.append(e("li", "Study: ", self.link(name, _title(page) or folder.name)))
        return e(
            "section",
            e("h2", "Across tasks", id="across"),
            [self.gathering(one) for one in self.gathered if one.task is None],
            e("ul", others) if others else None,
        )

    def record(self, record: Record) -> str:
        return self.address(record.cell.path(Path()).as_posix())

    def address(self, name: str) -> str:
        return self.root + quote(name)

    def link(self, name: str, *label: str | Element) -> Element:
        return e("a", *label, href=self.address(name))


def _anchor(*names: str) -> str:
    """An id of its own for every name, whatever characters that has."""
    return "--".join(quote(name, safe="+=,@").replace("%", ":") for name in names)


def _scrolling(
    header: Sequence[str], rows: Sequence[Element], label: str, names: int, *, runs: bool = False
) -> Element:
    """A sortable table in a container of its own, which scrolls where the table is wider than the page.

    runs: method, fold, seed, metrics, and in words a link to the record.
    """
    words = {*range(names), *([len(header) - 1] if runs else [])}
    heads = [
        e(
            "th",
            (text or "cell").replace(") ", ")\N{NO-BREAK SPACE}"),
            scope="col",
            **({"class_": "words"} if index in words else {}),
        )
        for index, text in enumerate(header)
    ]
    kind = "sortable runs" if runs else "sortable"
    table = e("table", e("thead", e("tr", heads)), e("tbody", rows), class_=kind)
    return e("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _row_header(text: str, link: str | None = None) -> Element:
    """A row's name; the script lets its numbers lead where the name does."""
    return e("th", e("a", text, href=link) if link else text, scope="row")


def _number(text: str) -> Element:
    return e("td", _minus(text))


def _difference(one: Comparison | None) -> Element | None:
    if one is None:
        return None
    text = _minus(number(one.difference, one.metric.decimals, signed=True))
    said = f"{text} {one.verdict}" if one.verdict else text
    return e("span", said, class_=f"difference {one.verdict or ''}".strip())


def _minus(text: str) -> str:
    """With a minus sign instead of a hyphen before numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def _notes(notes: Notes) -> Element | None:
    return e("ol", [e("li", text) for text in notes.texts], class_="notes") if notes.texts else None


def _title(page: Path) -> str | None:
    """The first heading of a Markdown file."""
    if not page.exists():
        return None
    return next((line[2:] for line in page.read_text("utf-8").splitlines() if line.startswith("# ")), None)
