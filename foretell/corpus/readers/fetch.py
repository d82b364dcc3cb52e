"""The pages that a `.urls` file names: politely, and never from a private network that the user did not name."""

import hashlib
import ipaddress
import json
import socket
import time
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.robotparser import RobotFileParser

from foretell.base.files import atomic_path, cache_folder
from foretell.corpus.readers.entry import Entry, Records
from foretell.corpus.readers.text import lines
from foretell.corpus.readers.web import page_kind

AGENT, SECONDS, REDIRECTS, TRIES = "foretell", 30.0, 5, 3
PAGE_SECONDS, LONGEST_DELAY, LONGEST_RETRY = 60.0, 30, 60  # of a page in all, of robots.txt's Crawl-delay and of Retry-After
TRY_AGAIN = {429, 500, 502, 503, 504}


class _Refused(Exception):
    """An address that is not fetched; its one argument is the reason."""


def read_urls(entry: Entry) -> Records:
    """A record for each address, one a line; lines that begin with # are the user's own."""
    if not entry.settings.fetch:
        yield entry.dropped("fetch_off")
        return
    if entry.depth:
        yield entry.dropped("fetch_forbidden", "addresses in an archive, which the user has not named")
        return
    fetcher = _fetcher(entry.whole_bytes)
    for number, (line, size_bytes) in enumerate(lines(entry.stream, entry.settings.max_document_bytes), start=1):
        url = line.decode("utf-8", "replace").strip()
        if not url or url.startswith("#"):
            continue
        try:
            content, told = fetcher.page(url)
        except _Refused as error:
            yield entry.dropped(error.args[0], url, number, size_bytes)
            continue
        kind = page_kind(told, content)
        too_large = kind != "pdf" and len(content) > entry.settings.max_document_bytes
        if kind is None or too_large:
            yield entry.dropped("too_large" if kind else "binary", url, number, len(content))
        else:
            known: dict[str, Any] = {"url": url}
            if "charset=" in told.lower():
                known["charset"] = told.lower().rpartition("charset=")[2].strip("\"' ")
            yield entry.raw(number, content, kind, **known)


class _Fetcher:
    """Fetches pages, one a second and host, and keeps them in the user's cache."""

    def __init__(self, most_bytes: int) -> None:
        self.httpx, self.most_bytes = import_module("httpx"), most_bytes
        self.client = self.httpx.Client(timeout=SECONDS, trust_env=False, headers={"User-Agent": AGENT})
        self.robots: dict[str, RobotFileParser] = {}
        self.free_at_seconds: dict[str, float] = {}
        self.delay_seconds: dict[str, float] = {}
        self.until_seconds = float("inf")

    def page(self, told: str) -> tuple[bytes, str]:
        """The page and its Content-Type. Raises _Refused."""
        kept = cache_folder() / "fetched" / hashlib.sha256(told.encode()).hexdigest()
        if kept.exists():
            head, _, content = kept.read_bytes().partition(b"\n")
            return content, str(json.loads(head)["type"])
        self.until_seconds = time.monotonic() + PAGE_SECONDS
        try:
            content, kind = self._follow(self.httpx.URL(told))
        except (self.httpx.HTTPError, self.httpx.InvalidURL, OSError, ValueError) as error:
            raise _Refused("fetch_failed") from error
        _keep(kept, {"url": told, "type": kind}, content)
        return content, kind

    def _follow(self, url: Any) -> tuple[bytes, str]:
        first = url.host
        for _ in range(REDIRECTS + 1):
            if not self._robots(url, url.host == first).can_fetch(AGENT, str(url)):
                raise _Refused("fetch_forbidden")
            status, headers, content = self._get(url, named=url.host == first)
            if status // 100 != 3 or "location" not in headers:
                break
            url = url.join(headers["location"])
        if status != 200:
            raise _Refused("fetch_failed")
        return content, headers.get("content-type", "")

    def _robots(self, url: Any, named: bool) -> RobotFileParser:
        place = f"{url.scheme}://{url.netloc.decode()}"
        if place not in self.robots:
            status, _, content = self._get(self.httpx.URL(f"{place}/robots.txt"), named)
            rules = self.robots[place] = RobotFileParser()
            if status in {401, 403} or status >= 500:
                content = b"User-agent: *\nDisallow: /"
            elif status != 200:
                content = b""
            rules.parse(content.decode("utf-8", "replace").splitlines())
            self.delay_seconds[url.host] = max(1, min(LONGEST_DELAY, int(rules.crawl_delay(AGENT) or 1)))
        return self.robots[place]

    def _get(self, url: Any, named: bool) -> tuple[int, Any, bytes]:
        """Status, headers and content, after waiting for the host's turn; tried again while the host says that it is busy."""
        address = _address(url, named)
        for attempt in range(TRIES):
            now = time.monotonic()
            start = max(now, self.free_at_seconds.get(url.host, now))
            time.sleep(start - now)
            self.until_seconds += start - now  # its turn is not the page's time
            self.free_at_seconds[url.host] = start + self.delay_seconds.get(url.host, 1) + attempt * 2.0
            seconds = min(SECONDS, max(0.001, self.until_seconds - start))
            request = self.client.build_request(
                "GET", url.copy_with(host=address), headers={"Host": url.netloc.decode()}, timeout=seconds
            )
            request.extensions["sni_hostname"] = url.host  # the certificate is the host's, not the address's
            response = self.client.send(request, stream=True)
            try:
                if response.status_code not in TRY_AGAIN or attempt == TRIES - 1:
                    return response.status_code, response.headers, self._content(response)
                if (told := response.headers.get("retry-after", "")).isdecimal():
                    wait = min(LONGEST_RETRY, int(told[:9]))
                    self.free_at_seconds[url.host] = max(self.free_at_seconds[url.host], start + wait)
            finally:
                response.close()
        raise _Refused("fetch_failed")

    def _content(self, response: Any) -> bytes:
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > self.most_bytes:
                raise _Refused("too_large")
            if time.monotonic() > self.until_seconds:
                raise _Refused("fetch_failed")
        return bytes(content)


@lru_cache(maxsize=1)
def _fetcher(most_bytes: int) -> _Fetcher:
    """One for all lists of a process, so that hosts have their rest between these too."""
    return _Fetcher(most_bytes)


def _address(url: Any, named: bool) -> str:
    """The host's address, to which the connection then goes: no second answer can lead elsewhere. Raises _Refused, OSError."""
    if url.scheme not in {"http", "https"} or not url.host:
        raise _Refused("fetch_failed")
    found = [str(answer[4][0]) for answer in socket.getaddrinfo(url.host, url.port or url.scheme, type=socket.SOCK_STREAM)]
    literal = named and (url.host == "localhost" or url.host in found)
    for told in found:
        address: Any = ipaddress.ip_address(told.partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if not literal and (not address.is_global or address.is_multicast):
            raise _Refused("fetch_forbidden")
    return found[0]


def _keep(path: Path, head: dict[str, str], content: bytes) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(json.dumps(head).encode() + b"\n" + content)
