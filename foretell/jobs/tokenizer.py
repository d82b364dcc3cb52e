"""Tokenizer jobs: learn one from a corpus, and show what one makes of a text."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, require_new
from foretell.base.units import size
from foretell.corpus.store import read_documents
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer, pieces


def train_tokenizer(corpus: Path, out: Path, settings: TokenizerSettings, terminal: Terminal) -> dict[str, Any]:
    """Learn a tokenizer from a corpus folder or text files into a new directory."""
    require_new(out)
    available = sum(document.bytes for document in read_documents(corpus))
    every = max(1, -(-available // settings.sample_bytes))
    with terminal.progress("learning the tokenizer", available / every, "characters") as progress:

        def texts() -> Iterator[str]:
            for piece in islice((piece for document in read_documents(corpus) for piece in pieces(document.text)), 0, None, every):
                progress.advance(len(piece))
                yield piece

        tokenizer = train_bpe(texts(), settings)
    with atomic_path(out) as partial:
        tokenizer.save(partial)
    part = size(available) if every == 1 else f"1/{every} of {size(available)}"
    terminal.say(f"learned {tokenizer.vocab_size} tokens from {part} of text: {out}")
    return {"tokenizer": str(out), "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}


def show_tokens(directory: Path, text: str, terminal: Terminal) -> dict[str, Any]:
    """Print the tokens of a text."""
    tokenizer = Tokenizer.load(directory)
    ids = tokenizer.encode(text)
    tokens = [{"id": token, "text": tokenizer.token_text(token), "bytes": len(tokenizer.decode_bytes([token]))} for token in ids]
    terminal.table(["id", "token", "bytes"], [[str(value) for value in token.values()] for token in tokens], result=True)
    average = len(tokenizer.decode_bytes(ids)) / max(len(ids), 1)
    terminal.say(f"{len(ids)} tokens, {average:.2f} bytes per token")
    return {"tokens": tokens, "bytes_per_token": average}
