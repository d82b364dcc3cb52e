"""The shards job: a corpus and a tokenizer to token shards."""

from functools import partial
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.units import count
from foretell.corpus.store import read_documents
from foretell.data.build import write_shards
from foretell.data.config import DataSettings
from foretell.tokenizers.tokenizer import Tokenizer


def build_shards(corpus: Path, tokenizer: Path, out: Path, settings: DataSettings, terminal: Terminal) -> dict[str, Any]:
    """Encode a corpus folder or text files into a new shard folder."""
    manifest = write_shards(partial(read_documents, corpus), Tokenizer.load(tokenizer), out, settings, terminal)
    total = sum(split.bytes for split in manifest.splits.values())
    for name, split in manifest.splits.items():
        amounts = f"{count(split.tokens)} tokens of {split.bytes / split.tokens:.2f} bytes, {split.bytes / total:.1%} of the text"
        terminal.say(f"{name.replace('_', '-')}: {amounts}, {split.documents} documents")
    terminal.say(f"shards: {out}")
    return {"shards": str(out), **manifest.model_dump()}
