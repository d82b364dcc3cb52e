"""What travels through the corpus: documents, and what was left out with its reason."""

import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any


@dataclass(slots=True)
class Dropped:
    """What was left out. bytes: of its text, or of the file where it never became text; duplicate_of: the id kept instead."""

    id: str
    source: str
    reason: str
    excerpt: str
    bytes: int
    duplicate_of: str | None = None


@dataclass(slots=True)
class Raw:
    """A record as its container held it, before it is a document's text.

    name: relative to its SOURCE, with members behind `!/` (`web.zip!/a/page.html`). label: the same as the user gave it. number:
    the byte at which a part of a running text begins, the line of a JSONL file or the row of a table (both from 1), else 0.
    content: bytes as they lie there, or text where the container says what its characters are. format: text, code, markdown, html,
    xml, json (an object on a line), row (of a table: `content` is its text), pdf, docx, epub, email. metadata: what the container
    knows (`fields`: the other columns, `url`, …). size_bytes: what the record takes in its container, where that is another size.
    """

    name: str
    label: str
    number: int
    content: bytes | str
    format: str
    metadata: dict[str, Any] = field(default_factory=dict)
    size_bytes: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the source that this record accounts for."""
        return len(self.content) if self.size_bytes is None else self.size_bytes

    def dropped(self, reason: str, excerpt: str = "") -> Dropped:
        """The record that takes this one's place when it is left out."""
        return Dropped(document_id(self.name, self.number, b""), self.source, reason, excerpt, self.bytes)

    @property
    def source(self) -> str:
        """Where it is from, with the line or row."""
        return f"{self.label}:{self.number}" if self.format in ("json", "row") else self.label


@dataclass(slots=True)
class Document:
    """One text on its way. source: the file as the user gave it (`file:line` for JSONL). metadata: `format`, `part`, `fields`, …"""

    id: str
    text: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of the text in UTF-8."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())

    def dropped(self, reason: str, duplicate_of: str | None = None) -> Dropped:
        """The record that takes this document's place when a step leaves it out."""
        return Dropped(self.id, self.source, reason, excerpt(self.text), self.bytes, duplicate_of)


Items = Iterator[Document | Dropped]


def document_id(name: str, part: int, content: bytes) -> str:
    """16 hexadecimal characters of SOURCE-relative name, part and content: the same on every machine."""
    return hashlib.blake2b(f"{name}\0{part}\0".encode() + content, digest_size=8).hexdigest()


def excerpt(text: str) -> str:
    """The first 240 characters of a text, on one line."""
    return " ".join(text[:240].split()).encode("utf-8", "replace").decode()


def reasons() -> dict[str, str]:
    """Reason → what it means and what helps, for every reason that a built-in step gives."""
    return tomllib.loads(files("foretell.corpus").joinpath("reasons.toml").read_text(encoding="utf-8"))
