"""Lists of addresses: nothing is fetched unasked, and never what robots.txt or the network's borders forbid."""

import gzip
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from foretell.corpus.config import CorpusSettings
from foretell.corpus.document import Dropped, Raw
from foretell.corpus.readers import fetch
from foretell.corpus.readers.open import records
from foretell.corpus.sources import find_files

pytest.importorskip("httpx")
SETTINGS = CorpusSettings(fetch=True, max_document_bytes=1024)
PAGES: dict[str, tuple[int, str, bytes]] = {
    "/robots.txt": (200, "text/plain", b"User-agent: *\nDisallow: /private"),
    "/page": (200, "text/html; charset=Latin1", b"<p>caf\xe9"),
    "/private": (200, "text/html", b"private"),
    "/gone": (404, "text/html", b"gone"),
    "/image": (200, "image/png", b"png"),
    "/large": (200, "text/plain", b"x" * 2000),
    "/moved": (302, "/page", b""),
    "/away": (302, "http://localhost.localdomain/page", b""),
    "/round": (302, "/round", b""),
    "/later": (429, "17", b""),
    "/file": (302, "file:///etc/passwd", b""),
}


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path == "/busy" and len([path for path in self.asked if path == "/busy"]) < 3:
            self.send_response(503)
            self.end_headers()
            return
        status, kind, content = PAGES.get(self.path, (200, "text/plain", self.headers["Host"].encode()))
        self.send_response(status)
        self.send_header({302: "Location", 429: "Retry-After"}.get(status, "Content-Type"), kind)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("FORETELL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetch, "time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))
    Handler.asked = []
    fetch._fetcher.cache_clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def read(tmp_path: Path, *urls: str, settings: CorpusSettings = SETTINGS) -> list[Raw | Dropped]:
    (tmp_path / "a.urls").write_text("# pages\n\n" + "\n".join(urls) + "\n")
    return [item for file in find_files([str(tmp_path / "a.urls")], tmp_path) for item in records(file, settings)]


def told(items: list[Raw | Dropped]) -> list[bytes | str]:
    return [item.reason if isinstance(item, Dropped) else item.content for item in items]


def test_nothing_is_fetched_unasked(site: str, tmp_path: Path) -> None:
    assert told(read(tmp_path, f"{site}/page", settings=CorpusSettings())) == ["fetch_off"]
    assert Handler.asked == []


def test_pages_come_once_and_are_kept(site: str, tmp_path: Path) -> None:
    for _ in range(2):
        (page,) = read(tmp_path, f"{site}/page")
        assert isinstance(page, Raw)
        assert (page.content, page.format, page.number) == (b"<p>caf\xe9", "html", 3)
        assert page.metadata == {"url": f"{site}/page", "charset": "latin1"}
    assert Handler.asked == ["/robots.txt", "/page"]


def test_what_cannot_or_must_not_be_fetched_has_its_reason(site: str, tmp_path: Path) -> None:
    paths = ["private", "gone", "image", "large", "moved", "away", "round", "file", "busy"]
    items = read(tmp_path, *(f"{site}/{path}" for path in paths), "ftp://a/b", "no address", "http://[", "http://127.0.0.1:1/")
    found = dict(zip([*paths, "ftp", "none", "wrong", "refused"], told(items), strict=True))
    assert found.pop("moved") == b"<p>caf\xe9"
    assert found.pop("busy") == site.removeprefix("http://").encode()
    assert found.pop("private") == "fetch_forbidden"
    assert (found.pop("image"), found.pop("large")) == ("binary", "too_large")
    assert found.pop("away") in {"fetch_forbidden", "fetch_failed"}  # private, or unknown here
    assert set(found.values()) == {"fetch_failed"}
    assert "/private" not in Handler.asked


def test_a_name_that_leads_into_a_private_network_is_refused(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"inside.example": "127.0.0.1", "cloud.example": "169.254.169.254", "mapped.example": "::ffff:10.0.0.1"}
    found = lambda host, *_, **__: [(0, 0, 0, "", (answers.get(host, host), 0))]  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", found)
    port = site.rpartition(":")[2]
    assert told(read(tmp_path, *(f"http://{host}:{port}/page" for host in answers))) == ["fetch_forbidden"] * 3
    assert Handler.asked == []


def test_one_request_a_second_and_host(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetch, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: 100.0))
    read(tmp_path, f"{site}/page", f"{site}/other")
    assert waits == [0.0, 1.0, 2.0]  # robots.txt and two pages, by a clock that stands still
    read(tmp_path, f"{site}/another")
    assert waits[3:] == [3.0]  # in another list too


def test_the_host_says_how_long_to_wait(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(fetch, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: 100.0))
    monkeypatch.setitem(PAGES, "/robots.txt", (200, "text/plain", b"User-agent: *\nCrawl-delay: 900"))
    assert told(read(tmp_path, f"{site}/page", f"{site}/later")) == [b"<p>caf\xe9", "fetch_failed"]
    assert waits == [0.0, 1.0, 31.0, 61.0, 93.0]  # robots.txt's longest delay, which is more than the 17 s of Retry-After
    monkeypatch.setitem(PAGES, "/robots.txt", (200, "text/plain", b""))
    fetch._fetcher.cache_clear()
    waits.clear()
    read(tmp_path, f"{site}/later")
    assert waits == [0.0, 1.0, 18.0, 35.0]


def test_a_page_that_trickles_in_is_given_up(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 10_000, 25))
    monkeypatch.setattr(fetch, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: float(next(clock))))
    assert told(read(tmp_path, f"{site}/page")) == ["fetch_failed"]


def test_addresses_in_an_archive_are_nobodys_wish(site: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.urls", f"{site}/page\n")
    for settings, reason in ((SETTINGS, "fetch_forbidden"), (CorpusSettings(), "fetch_off")):
        found = [item for file in find_files([str(tmp_path / "a.zip")], tmp_path) for item in records(file, settings)]
        assert told(found) == [reason]
    assert Handler.asked == []


def test_compressed_answers_are_bounded(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Response:
        def iter_bytes(self) -> Iterator[bytes]:
            yield from [gzip.compress(b"")] * 100

    fetcher = fetch._Fetcher(most_bytes=1000)
    with pytest.raises(fetch._Refused, match="too_large"):
        fetcher._content(Response())
    fetcher.client.close()
