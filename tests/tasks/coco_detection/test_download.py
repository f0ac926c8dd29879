"""Downloads from a server on this machine that breaks off, and from none."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tasks.coco_detection.download import fetch

CONTENT = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, also from a byte on; the first answer breaks off."""

    asked: list[str]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "bytes=0-")
        self.asked.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0])
        self.send_response(416 if start > len(CONTENT) else 206 if start else 200)
        rest = CONTENT[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[:1000] if len(self.asked) == 1 else rest)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.asked = []
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a.pth"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_goes_on_where_it_broke_off(url: str, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "a.pth"
    with pytest.raises(OSError, match=rf"cannot fetch {url} .*put the file at .*a.pth"):
        fetch(url, place)
    assert not place.exists()
    fetch(url, place)
    fetch(url, place)
    assert Handler.asked == ["bytes=0-", "bytes=1000-"]
    assert place.read_bytes() == CONTENT
    assert [path.name for path in place.parent.iterdir()] == ["a.pth"]


def test_a_part_of_another_file_is_dropped(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth.part").write_bytes(b"x" * 20000)
    with pytest.raises(OSError, match="416"):
        fetch(url, tmp_path / "a.pth")
    fetch(url, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_no_network_is_an_error_with_the_link_and_the_place(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot fetch http://127.0.0.1:9/a.pth .*put the file at .*a.pth"):
        fetch("http://127.0.0.1:9/a.pth", tmp_path / "a.pth")
