"""LaTeX tables: escaped whatever the records say, split where they are large, and they compile."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.record import Cost, Record
from benchmarks.report.build import build
from benchmarks.report.content import Column, Entry, Notes, Row, Table
from benchmarks.report.latex import FIT, latex

DATA = r"50% of {x}_$y$ & \z #1 ~^ <a> | b… ≥ 1 × 2 – é"


def large(rows: int, columns: int) -> Table:
    entries = tuple(Entry("-1.5") for _ in range(columns))
    made = tuple(Row((f"row_{i}",), entries) for i in range(rows))
    return Table("large", "Large", "Much.", ("a",), tuple(Column(f"b_{i}", "%") for i in range(columns)), made)


def bare(text: str) -> str:
    """Without comments and escaped characters."""
    lines = [re.sub(r"(?<!\\)%.*", "", line) for line in text.splitlines()]
    return re.sub(r"\\[\\&%$#_{}]", "", "\n".join(lines))


def test_numbers_are_those_of_the_table(write: Callable[..., Record], results: Path) -> None:
    for fold, ours, theirs in ((1, 72.0, 70.0), (2, 75.0, 72.0), (3, 78.0, 74.0)):
        write("baseline", fold, 0, theirs)
        write("local_single", fold, 0, ours)
    build(results)
    text = (results / "latex/toy-tiny.tex").read_text("utf-8")
    rows = [[cell.strip(" \\") for cell in line.split(" & ")] for line in text.splitlines() if "local" in line]
    assert [r"local\_single", r"+3.0 $\pm$ 2.5"] in [row[:2] for row in rows]
    assert r"(\%) $\uparrow$" in text


def test_text_is_escaped_and_braces_are_balanced(write: Callable[..., Record], results: Path) -> None:
    write("baseline", 1, 0, 70.0, data=DATA)
    write("local_single", 1, 0, "Error: a_b\n\n100 % {of \\memory", data=DATA)
    build(results)
    text = bare((results / "latex/toy-tiny.tex").read_text("utf-8").replace(FIT, "{"))
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert text.count("$") % 2 == 0
    assert not set(re.sub(r"\\ensuremath\{[<>]\}|\\\^", "", text)) & set("#_~<>|")
    assert sorted(re.findall(r"\\begin{(\w+)}", text)) == sorted(re.findall(r"\\end{(\w+)}", text))
    assert "\n\n" not in text  # a blank line inside of a caption is an error


@pytest.mark.parametrize(("rows", "columns"), [(3, 8), (3, 9), (70, 4), (70, 13)])
def test_a_large_table_is_split_without_losing_a_number(rows: int, columns: int) -> None:
    text = latex("Large", [large(rows, columns)], Notes())
    bodies = re.findall(r"\\midrule(.*?)\\bottomrule", text, re.DOTALL)
    lines = [line for body in bodies for line in body.splitlines() if "row" in line]
    assert sum(line.count("$-$1.5") for line in lines) == rows * columns
    assert all(line.count("&") <= 8 for line in lines)
    assert all(len(body.splitlines()) <= 34 for body in bodies)
    for header, body in zip(re.findall(r"\\toprule(.*?)\\midrule", text, re.DOTALL), bodies, strict=True):
        counts = {line.count("&") for line in [*header.splitlines(), *body.splitlines()] if line.strip()}
        assert len(counts) == 1


def test_it_compiles_without_a_complaint(
    write: Callable[..., Record],
    results: Path,
    tmp_path: Path,
    receptive_field: dict[str, Any],
    search: Cost,
    define: Callable[..., None],
) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex and booktabs; on Debian: apt-get install texlive-latex-recommended")
    define(suites={"tiny": ("tiny", "tiny-wide")})
    for preset in ("tiny", "tiny-wide"):
        fields = {"data": DATA, "preset": preset}
        for fold in (1, 2):
            for method in ("baseline", "local_single"):
                write(method, fold, 0, 70.0 + fold, search=search, receptive_field=receptive_field, **fields)
        write("local_multi", 1, 0, "Error: a_b\n\n100 % {of \\memory", **fields)
    build(results)
    kinds = {path.stem: path.read_text() for path in (results / "latex").glob("*.tex")}
    assert set(kinds) == {"toy-tiny", "toy-tiny-wide", "toy-tiny-suite", "search_cost", "paper"}
    kinds["large"] = latex("Large", [large(70, 13)], Notes())
    source = [r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}"]
    for name, text in kinds.items():
        (tmp_path / f"{name}.tex").write_text(text)
        source += [rf"\input{{{name}}}", r"\clearpage"]
    (tmp_path / "all.tex").write_text("\n".join([*source, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for _ in range(2):  # the second run knows the labels
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    log = (tmp_path / "all.log").read_text(errors="replace")
    assert [line for line in log.splitlines() if re.search(r"Warning|Overfull|Missing character", line)] == []
