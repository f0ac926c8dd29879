"""The page in Chromium, where that is installed: it sorts, fits a phone, and is readable in both themes."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest


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


FIRST = "[...document.querySelectorAll('table.sortable')].find(t => t.tBodies[0].textContent.includes('random_single'))"
"""The table of test scores."""


def names(browser: Browser) -> list[str]:
    """The names of the rows, as they are ordered now."""
    return browser.run(f"[...{FIRST}.tBodies[0].rows].map(row => row.cells[0].textContent)")


def test_a_click_sorts_and_says_so(browser: Browser, page: Callable[..., Path]) -> None:
    browser.open(page(), width=1280)

    def click(index: int) -> str:
        header = f"{FIRST}.tHead.rows[0].cells[{index}]"
        browser.run(f"{header}.querySelector('button').click()")
        return browser.run(f"{header}.getAttribute('aria-sort')")

    # Means 72.0, 74.2 and 71.7; random_single has none and stays last.
    before = names(browser)
    assert sorted(before) == ["baseline", "local_multi", "local_single", "random_single"]
    assert click(1) == "descending"
    assert names(browser) == ["local_single", "baseline", "local_multi", "random_single"]
    assert click(1) == "ascending"
    assert names(browser) == ["local_multi", "baseline", "local_single", "random_single"]
    assert click(0) == "ascending"
    assert names(browser) == ["baseline", "local_multi", "local_single", "random_single"]
    # The keyboard does what the pointer does.
    browser.run(f"{FIRST}.querySelector('th button').focus()")
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, **key)
    assert names(browser) == ["random_single", "local_single", "local_multi", "baseline"]


@pytest.mark.parametrize("width", [1400, 390])
def test_no_table_is_cut(browser: Browser, page: Callable[..., Path], width: int) -> None:
    browser.open(page(), width=width)
    browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    cut = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert browser.run(cut) == 0
    assert browser.run("document.querySelectorAll('.scroll').length") > 3


SAID = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
ASKED = "Network.requestWillBeSent"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_works_from_a_file_at_phone_width(
    browser: Browser, page: Callable[..., Path], theme: str, receptive_field: dict[str, Any]
) -> None:
    browser.open(page(receptive_field), width=390, theme=theme)
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
    assert [event["params"] for event in browser.events if event["method"] in SAID] == []
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == ASKED]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert contrast(browser) >= 4.5


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
