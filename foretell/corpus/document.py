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
