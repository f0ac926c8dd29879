"""The page: whole, small, escaped, linked; and, where Chromium is installed, that it works in a browser."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self
from urllib.parse import unquote

import pytest

from benchmarks import report, tables
from benchmarks.record import Cost, Record

ROOT = Path(__file__).parents[2]
VOID = {"meta", "link", "img", "br", "hr", "input"}
HISTORY = [
    {"step": step, "structure": {f"stages.{i // 3}.conv.{i % 3}": [2**i + step] for i in range(6)}} for step in range(4)
]
DESIGNED, FOUND = HISTORY[0]["structure"], HISTORY[-1]["structure"]


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
            assert target[1:] in ids
        elif not target.startswith("data:"):
            assert "://" not in target
            assert (page.parent / unquote(target)).exists(), target
    return found


@pytest.fixture
def page(write: Callable[..., Record], results: Path) -> Callable[..., Path]:
    """Writes records of four methods on three folds, with searches and a picture, and makes the page.

    field: receptive field of all of them.
    """

    def make(field: dict[str, Any] | None = None, **other: Any) -> Path:
        picture = results / "figures/toy/tiny/local_single/test picture.png"
        picture.parent.mkdir(parents=True)
        picture.write_bytes(PICTURE)
        for fold in (1, 2, 3):
            write("baseline", fold, 0, 70.0 + fold, structure=DESIGNED, receptive_field=field)
            for method, gain in (("local_single", 2.0 + fold / 10), ("local_multi", (-1.0) ** fold)):
                named = [picture.relative_to(results).as_posix()] if (method, fold) == ("local_single", 1) else []
                write(
                    method,
                    fold,
                    0,
                    70.0 + fold + gain,
                    structure=FOUND,
                    history=HISTORY,
                    search=Cost(5, 3.0, 700.0, "resident"),
                    pictures=named,
                    receptive_field=field,
                )
        write("random_search", 1, 0, 'RuntimeError: <script>alert(1)</script> & "quotes"')
        _, errors = tables.make(results, **other)
        assert errors == []
        return results / "index.html"

    return make


# One pixel, and bytes after its end, which viewers pass over, for the size of a small picture.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
) + bytes(3000)


def test_the_page_is_whole_and_every_link_leads_somewhere(page: Callable[..., Path]) -> None:
    path = page()
    links = check_links(path)
    for method in ("baseline", "local_single", "local_multi"):
        for fold in (1, 2, 3):
            assert f"runs/toy/tiny/{method}/fold{fold}-seed0.json" in links
    parsed = Parsed(path.read_text("utf-8"))
    assert not [tag for tag, _ in parsed.elements if tag in ("link", "iframe", "object")]
    assert [attributes for tag, attributes in parsed.elements if tag == "script"] == [{}]
    assert "@import" not in path.read_text("utf-8")
    assert "url(" not in path.read_text("utf-8")
    for text in (
        "2 of 4 differences to the baseline (2 methods, 2 metrics) have a 95 % interval without 0",
        "local_single accuracy +2.2 ± 0.2 (better)",
        "72.0",
        "synthetic toy signals",
        "not comparable to published numbers",
        "Searched dilations, layer by layer",
        "Sum of the dilations",
        "Not measured: these records are older than the measurement",
    ):
        assert text in parsed.text


def test_receptive_fields_are_drawn_and_tabled_and_lead_to_their_runs(
    page: Callable[..., Path], receptive_field: dict[str, Any]
) -> None:
    path = page(receptive_field)
    check_links(path)
    part = path.read_text("utf-8").split("<summary>How far the networks look")[1].split("<summary>")[0]
    for method in ("baseline", "local_single", "local_multi"):
        assert part.count(f'href="#toy-tiny--{method}"') == 1  # that of the row, which the script gives its numbers
    text = Parsed(f"<div>{part.split('</details>')[0].partition('</summary>')[2]}</div>").text
    assert "Not measured" not in text
    assert "effective 95 % (frames)" in text
    assert "local_single: 95 % within 4" in text


def test_what_comes_from_records_is_text_and_never_markup(page: Callable[..., Path]) -> None:
    text = page().read_text("utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; " in text
    assert 'RuntimeError: <script>alert(1)</script> & "quotes"' in Parsed(text).text


def test_names_that_mean_something_in_html_or_addresses_stay_names(
    write: Callable[..., Record], results: Path, toy: ModuleType
) -> None:
    preset = 'tiny<b>&"c" 100%#?'
    for method in ("baseline", "local_single"):
        for fold in (1, 2):
            write(method, fold, 0, 70.0, preset=preset, config=toy.Config())
    tables.make(results)
    check_links(results / "index.html")
    assert preset in Parsed((results / "index.html").read_text("utf-8")).text


def test_pictures_are_embedded_while_there_is_room_and_linked_beyond(
    page: Callable[..., Path], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = page()
    embedded = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    assert embedded in check_links(path)
    monkeypatch.setattr(report, "LIMIT", path.stat().st_size - 100)
    tables.make(results)
    links = check_links(path)
    assert embedded not in links
    assert "figures/toy/tiny/local_single/test%20picture.png" in links
    assert path.stat().st_size <= report.LIMIT
    # With no room for drawings either, they are files beside the page.
    monkeypatch.setattr(report, "LIMIT", 20_000)
    tables.make(results)
    assert "figures/toy-tiny-structures.svg" in check_links(path)
    assert "<svg" not in path.read_text("utf-8")


def test_the_main_job_comes_first_and_titles_have_true_values(
    page: Callable[..., Path], write: Callable[..., Record], results: Path, toy: ModuleType
) -> None:
    path = page()
    config = toy.Config(fault=r"a\d|")
    for method in ("baseline", "local_single", "local_multi"):
        for fold in range(1, 9):
            search = Cost(5, 3.0, 700.0, "resident")
            write(method, fold, 0, 70.0 + fold, preset="big+fault=a_d_", config=config, search=search)
    tables.make(results)
    check_links(path)
    parsed = Parsed(path.read_text("utf-8"))
    articles = [attributes for tag, attributes in parsed.elements if tag == "article" and "id" in attributes]
    assert [attributes["id"] for attributes in articles] == ["toy-tiny", "toy-big+fault=a_d_"]
    assert parsed.text.count(r"big, fault=a\d|") == 2 + 3  # at a glance, above its table, in that of all searches
    assert "a_d_" not in parsed.text
    assert parsed.text.index("toy, tiny") < parsed.text.index("toy, big")
    markdown = results / "tables/toy-big+fault=a_d_.md"
    assert markdown.read_text("utf-8").startswith(r"# toy, preset big, fault=a\\d\|" + "\n")


def test_a_picture_that_is_not_here_is_left_out(page: Callable[..., Path], results: Path) -> None:
    path = page()
    (results / "figures/toy/tiny/local_single/test picture.png").unlink()
    tables.make(results)
    assert "Predictions" not in Parsed(path.read_text("utf-8")).text
    check_links(path)


def test_sound_is_only_on_the_page_that_stays_on_this_machine(page: Callable[..., Path], results: Path) -> None:
    sound = results / "work/toy/tiny/local_single/fold1-seed0/samples/a b.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    sound.write_bytes(b"RIFF")
    path = page(audio=True)
    assert "audio" not in [tag for tag, _ in Parsed(path.read_text("utf-8")).elements]
    local = results / "work/index.html"
    links = check_links(local)
    assert "../work/toy/tiny/local_single/fold1-seed0/samples/a%20b.wav" in links
    assert "../runs/toy/tiny/baseline/fold1-seed0.json" in links
    assert (results / "work/.gitignore").read_text() == "*\n"


def test_what_is_wrong_is_said_without_paths_of_this_machine(page: Callable[..., Path], results: Path) -> None:
    path = page()
    (results / "runs/toy/tiny/baseline/fold1-seed0.json").write_text("{")
    _, errors = tables.make(results)
    assert len(errors) == 1
    text = Parsed(path.read_text("utf-8")).text
    assert "results/runs/toy/tiny/baseline/fold1-seed0.json: not a readable record" in text
    assert str(results) not in text


def test_studies_are_linked(page: Callable[..., Path], results: Path) -> None:
    (results / "studies/bare").mkdir(parents=True)
    (results / "studies/rules").mkdir(parents=True)
    (results / "studies/rules/README.md").write_text("# Paper rule or ours\n")
    path = page()
    links = check_links(path)
    assert "studies/rules/README.md" in links
    assert "studies/bare" in links
    assert "Paper rule or ours" in Parsed(path.read_text("utf-8")).text


def test_the_committed_page_is_small_and_its_links_lead_somewhere() -> None:
    path = ROOT / "results/index.html"
    assert path.stat().st_size < 2**20
    check_links(path)


class Browser:
    """Headless Chromium over the DevTools protocol, spoken through pipes: needs no package and opens no port."""

    def __init__(self, program: str, profile: Path) -> None:
        # Chromium reads commands from descriptor 3 and answers on 4.
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        command = [program, *options, f"--user-data-dir={profile}", "--disable-dev-shm-usage"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._pending, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self._process.pid, signal.SIGKILL)  # the browser's own children, too
        self._process.wait()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            block = os.read(self._in, 1 << 20)
            if not block:
                raise RuntimeError("Chromium ended")
            self._pending += block
        message, _, self._pending = self._pending.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, *, width: int, height: int = 844, theme: str = "light") -> None:
        """Open a file in a window of this size."""
        self.events.clear()
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.send("Page.navigate", url=path.resolve().as_uri())
        while self.run("document.readyState") != "complete":
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium; on Debian: apt-get install chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


def column(browser: Browser, index: int) -> list[str]:
    """The texts of a column of the first table, as they stand now."""
    rows = "[...document.querySelector('table.sortable').tBodies[0].rows]"
    return browser.run(f"{rows}.map(row => row.cells[{index}].textContent)")


def test_a_click_sorts_and_says_so(browser: Browser, page: Callable[..., Path]) -> None:
    browser.open(page(), width=1280)

    def click(index: int) -> str:
        header = f"document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells[{index}]"
        browser.run(f"{header}.querySelector('button').click()")
        return browser.run(f"{header}.getAttribute('aria-sort')")

    # Means 72.0, 74.2 and 71.7; random_search has none and stays last.
    assert column(browser, 0) == ["baseline", "random_search", "local_single", "local_multi"]
    assert click(1) == "descending"
    assert column(browser, 0) == ["local_single", "baseline", "local_multi", "random_search"]
    assert click(1) == "ascending"
    assert column(browser, 0) == ["local_multi", "baseline", "local_single", "random_search"]
    assert click(0) == "ascending"
    assert column(browser, 0) == ["baseline", "local_multi", "local_single", "random_search"]
    sorted_by = "[...document.querySelector('table.sortable').tHead.rows[0].cells].map(h => h.ariaSort)"
    assert browser.run(sorted_by) == ["ascending", "none", "none", "none", "none"]
    # The keyboard does what the pointer does.
    browser.run("document.querySelector('table.sortable th button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
    assert column(browser, 0) == ["random_search", "local_single", "local_multi", "baseline"]


def test_a_number_leads_to_its_runs_in_a_closed_part(browser: Browser, page: Callable[..., Path]) -> None:
    browser.open(page(), width=1280)
    details = "document.getElementById('toy-tiny--cells')"
    assert browser.run(f"{details}.open") is False
    browser.run("document.querySelector('table.sortable td a').click()")
    assert browser.run("new Promise(done => setTimeout(done, 100))") is not False
    assert browser.run(f"{details}.open") is True
    assert browser.run("location.hash") == "#toy-tiny--baseline"


def test_every_number_of_a_row_leads_where_the_row_does(browser: Browser, page: Callable[..., Path]) -> None:
    browser.open(page(), width=1280)
    links = "row => [...row.querySelectorAll('a')].map(link => link.textContent + ' ' + link.getAttribute('href'))"
    first, missing, *_ = browser.run(f"[...document.querySelector('table.sortable').tBodies[0].rows].map({links})")
    to = "#toy-tiny--baseline"
    assert first == [f"baseline {to}", f"72.0 {to}", f"0.280 {to}", f"3 {to}", f"0 {to}"]
    assert missing == [f"{text} #toy-tiny--random_search" for text in ("random_search", "0 of 3")]


def test_every_number_of_a_run_leads_to_its_record(browser: Browser, page: Callable[..., Path]) -> None:
    browser.open(page(), width=1280)
    rows = "[...document.querySelector('table.runs').tBodies[0].rows]"
    found = browser.run(f"{rows}.map(row => [...row.cells].slice(3).map(cell => cell.querySelector('a')?.pathname))")
    texts = browser.run(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent))")
    led = {}
    for text, links in zip(texts, found, strict=True):
        assert len(set(links)) == 1
        led[text[0], text[1]] = (links[0] or "").partition("/results/")[2]
    assert led["local_multi", "2"] == "runs/toy/tiny/local_multi/fold2-seed0.json"
    assert led["random_search", "1"] == ""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("which", ["toy", "committed"])
def test_the_page_works_from_a_file_at_phone_width(
    browser: Browser, page: Callable[..., Path], which: str, theme: str, receptive_field: dict[str, Any]
) -> None:
    path = page(receptive_field) if which == "toy" else ROOT / "results/index.html"
    browser.open(path, width=390, theme=theme)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.run("document.documentElement.scrollWidth") == 390
    # Whatever is wider lies in a container that scrolls.
    outside = """[...document.querySelectorAll('body *')].filter(one =>
        !one.closest('.scroll') && one.getBoundingClientRect().right > 390.5).map(one => one.outerHTML.slice(0, 80))"""
    assert browser.run(outside) == []
    browser.run("[...document.images].forEach(one => one.loading = 'eager')")  # those out of sight wait otherwise
    missing = "[...document.images].filter(one => !one.complete || !one.naturalWidth).map(one => one.src.slice(-60))"
    deadline = time.monotonic() + 10
    while browser.run(missing) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert browser.run(missing) == []
    said = [event["params"] for event in browser.events if event["method"] in SAID]
    assert said == []
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == ASKED]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert contrast(browser) >= 4.5


SAID = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
ASKED = "Network.requestWillBeSent"


def contrast(browser: Browser) -> float:
    """The lowest contrast of text against its background, as WCAG 2 defines it, over the kinds of text there are."""
    script = """
    (() => {
      const parse = colour => colour.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const behind = one => {
        for (; one; one = one.parentElement) {
          const colour = parse(getComputedStyle(one).backgroundColor);
          if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
      };
      let lowest = 21;
      for (const one of document.querySelectorAll('h1, h2, p, a, th, td, span, summary, figcaption, dd, li')) {
        const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
        lowest = Math.min(lowest, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
      }
      return lowest;
    })()
    """
    return browser.run(script)
