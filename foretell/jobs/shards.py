"""The shards jobs: a corpus and a tokenizer to token shards, and what is new in another corpus added to them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.files import write_text
from foretell.base.records import read_json
from foretell.base.units import count
from foretell.corpus.document import Document
from foretell.corpus.store import CARD, MANIFEST, read_documents
from foretell.data.build import append_shards, write_shards
from foretell.data.config import DataSettings
from foretell.data.shards import Manifest
from foretell.tokenizers.tokenizer import Tokenizer


def build_shards(
    corpus: Path, tokenizer: Path, out: Path, settings: DataSettings, terminal: Terminal, workers: int | None = None
) -> dict[str, Any]:
    """Encode a corpus folder or text files into a new shard folder, by so many processes (absent: one a processor)."""
    documents, loaded = partial(read_documents, corpus), Tokenizer.load(tokenizer)
    manifest = write_shards(documents, loaded, out, settings, terminal, workers, _characters([corpus]))
    if (corpus / CARD).is_file():
        write_text(out / CARD, (corpus / CARD).read_text(encoding="utf-8"))
    total = sum(split.bytes for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        amounts = f"{count(split.tokens)} tokens of {split.bytes / split.tokens:.2f} bytes, {split.bytes / total:.1%} of the text"
        terminal.say(f"{name.replace('_', '-')}: {amounts}, {split.documents} documents")
    return _told(out, manifest, terminal)


def add_to_shards(shards: Path, corpora: Sequence[Path], terminal: Terminal, workers: int | None = None) -> dict[str, Any]:
    """Add the documents of corpora that a shard folder does not hold yet."""

    def documents() -> Iterator[Document]:
        for corpus in corpora:
            yield from read_documents(corpus)

    manifest, added = append_shards(documents, shards, terminal, workers, _characters(corpora))
    if not added:
        terminal.say("no document is new: nothing was changed")
    elif manifest.held_out.ends:
        terminal.warn("held out are still the ends of the first documents: all that is new is trained on")
    if added:
        terminal.say(f"added: {added} documents; {count(manifest.splits['train'].tokens)} tokens to train on now")
    return {"added": added, **_told(shards, manifest, terminal)}


def _told(folder: Path, manifest: Manifest, terminal: Terminal) -> dict[str, Any]:
    terminal.say(f"shards: {folder}")
    return {"shards": str(folder), **manifest.model_dump()}


def _characters(corpora: Sequence[Path]) -> int | None:
    """Of all text, where every corpus says it."""
    if not all((corpus / MANIFEST).is_file() for corpus in corpora):
        return None
    found = [read_json(corpus / MANIFEST).get("totals", {}).get("characters") for corpus in corpora]
    return sum(found) if all(isinstance(characters, int) for characters in found) else None
