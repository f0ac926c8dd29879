"""The page: whole, escaped, linked."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from benchmarks.records.lines import write_lines
from benchmarks.records.record import Record
from benchmarks.report.build import build

VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Parsed(HTMLParser):
    """The elements of a page; raises AssertionError where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", list[str]()
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.elements if attribute in attributes]


def check_links(page: Path) -> list[str]:
    """Every link leads to a file that is there or to a place in the page, and nothing to the network; returns them."""
    parsed = Parsed(page.read_text("utf-8"))
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    found = parsed.values("href") + parsed.values("src")
    for target in found:
        if target.startswith("#"):
            assert unquote(target[1:]) in map(unquote, ids)
        elif not target.startswith("data:"):
            assert "://" not in target
            assert (page.parent / unquote(target)).exists(), target
    return found


def test_the_page_is_whole_and_every_link_leads_somewhere(page: Callable[..., Path]) -> None:
    path = page()
    links = check_links(path)
    for method in ("baseline", "local_single", "local_multi"):
        for fold in (1, 2, 3):
            assert f"runs/toy/tiny/{method}/fold{fold}-seed0.json" in links
    text = path.read_text("utf-8")
    parsed = Parsed(text)
    assert not [tag for tag, _ in parsed.elements if tag in ("link", "iframe", "object")]
    assert [attributes for tag, attributes in parsed.elements if tag == "script"] == [{}]
    assert "@import" not in text
    assert "url(" not in text
    for said in ("local_single accuracy +2.2 ± 0.2 (better)", "72.0", "synthetic toy signals", "−0.022"):
        assert said in parsed.text
    assert len([target for target in links if target.startswith("data:image/svg+xml;base64,")]) == 5


def test_the_answer_comes_first(page: Callable[..., Path]) -> None:
    text = Parsed(page().read_text("utf-8")).text
    answer = text.index("There are no records of load_forecasting here")
    assert answer < text.index("1 of 2 better, 1 not decided") < text.index("search epochs")
    assert text.index("search epochs") < text.index("How it was measured") < text.index("Code: commit abc")


def test_the_published_tables_are_linked(page: Callable[..., Path]) -> None:
    assert "paper/table.md" in check_links(page())


def test_receptive_fields_are_drawn_and_tabled(page: Callable[..., Path], receptive_field: dict[str, Any]) -> None:
    path = page(receptive_field)
    links = check_links(path)
    assert len([target for target in links if target.startswith("data:image/svg+xml;base64,")]) == 6
    assert "effective 95 % (frames)" in Parsed(path.read_text("utf-8")).text


def test_what_comes_from_records_is_text_and_never_markup(page: Callable[..., Path]) -> None:
    text = page().read_text("utf-8")
    assert "<script>alert" not in text
    assert 'RuntimeError: <script>alert(1)</script> & "quotes"' in Parsed(text).text


def test_names_that_mean_something_in_html_or_addresses_stay_names(write: Callable[..., Record], results: Path) -> None:
    data = 'tiny<b>&"c" 100%#?'
    for method in ("baseline", "local_single"):
        for fold in (1, 2):
            write(method, fold, 0, 70.0, data=data)
    build(results)
    check_links(results / "index.html")
    assert data in Parsed((results / "index.html").read_text("utf-8")).text


def test_the_main_job_comes_first(page: Callable[..., Path], write: Callable[..., Record], results: Path) -> None:
    path = page()
    for method in ("baseline", "local_single", "local_multi"):
        for fold in range(1, 9):
            write(method, fold, 0, 70.0 + fold, preset="big")
    build(results)
    check_links(path)
    parsed = Parsed(path.read_text("utf-8"))
    articles = [attributes for tag, attributes in parsed.elements if tag == "article" and "id" in attributes]
    assert [attributes["id"] for attributes in articles] == ["toy-tiny", "toy-big"]


def test_pictures_and_sounds_are_shown_where_they_are_here(page: Callable[..., Path], results: Path) -> None:
    sound = results / "work/toy/tiny/local_single/fold1-seed0/samples/a b.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    sound.write_bytes(b"RIFF")
    path = page()
    links = check_links(path)
    assert "figures/toy/tiny/local_single/test%20picture.png" in links
    assert "work/toy/tiny/local_single/fold1-seed0/samples/a%20b.wav" in links
    (results / "figures/toy/tiny/local_single/test picture.png").unlink()
    sound.unlink()
    build(results)
    assert "Predictions" not in Parsed(path.read_text("utf-8")).text
    check_links(path)


def test_what_is_wrong_is_said_without_paths_of_this_machine(page: Callable[..., Path], results: Path) -> None:
    path = page()
    (results / "runs/toy/tiny/baseline/fold1-seed0.json").write_text("{")
    _, errors = build(results)
    assert len(errors) == 1
    text = Parsed(path.read_text("utf-8")).text
    assert "results/runs/toy/tiny/baseline/fold1-seed0.json: not a readable record" in text
    assert str(results) not in text


def test_studies_are_linked(page: Callable[..., Path], results: Path) -> None:
    (results / "rules").mkdir(parents=True)
    (results / "rules/README.md").write_text("# Paper rule or ours\n")
    path = page()
    assert "rules/README.md" in check_links(path)
    assert "Paper rule or ours" in Parsed(path.read_text("utf-8")).text


def test_records_that_came_as_lines_are_shown_without_a_link(make: Callable[..., Record], results: Path) -> None:
    write_lines(results / "toy-tiny/records.jsonl", [make("baseline", fold, 0, 70.0) for fold in (1, 2)])
    build(results)
    links = check_links(results / "index.html")
    assert not [target for target in links if target.startswith("runs/")]
    assert "2026-01-01 00:00:00" in Parsed((results / "index.html").read_text("utf-8")).text
