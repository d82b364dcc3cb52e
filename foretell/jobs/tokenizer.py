"""Tokenizer jobs: learn one from a corpus, and show what one makes of a text."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, require_new
from foretell.base.units import size
from foretell.corpus.store import read_documents
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.pieces import pieces
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.tokenizers.train import train

LOOKED_AT = 16  # pieces (some 1 MB) in which unknown tokens are counted


def train_tokenizer(corpus: Path | Sequence[Path], out: Path, settings: TokenizerSettings, terminal: Terminal) -> dict[str, Any]:
    """Learn a tokenizer from corpus folders or text files into a new directory."""
    require_new(out)
    paths = [corpus] if isinstance(corpus, Path) else corpus
    available = sum(document.bytes for path in paths for document in read_documents(path))
    every = max(1, -(-available // settings.sample_bytes))
    readings = 2 if settings.kind == "wordpiece" else 1
    with terminal.progress("learning the tokenizer", readings * available / every, "characters") as progress:

        def texts() -> Iterator[str]:
            for piece in _sample(paths, every):
                progress.advance(len(piece))
                yield piece

        tokenizer = train(texts, settings)
        unknown = _unknown_share(tokenizer, list(islice(_sample(paths, every), LOOKED_AT)))
    with atomic_path(out) as partial:
        tokenizer.save(partial)
    part = size(available) if every == 1 else f"1/{every} of {size(available)}"
    terminal.say(f"learned {tokenizer.vocab_size} tokens from {part} of text: {out}")
    if unknown:
        terminal.warn(f"{unknown:.2%} of the tokens of this text's beginning are unknown to it and cannot be told apart")
    summary = {"tokenizer": str(out), "vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint}
    return summary if tokenizer.unknown is None else {**summary, "unknown": unknown}


def show_tokens(directory: Path, text: str, terminal: Terminal) -> dict[str, Any]:
    """Print the tokens of a text."""
    tokenizer = Tokenizer.load(directory)
    ids = tokenizer.encode(text)
    tokens = [{"id": token, "text": tokenizer.token_text(token), "bytes": len(tokenizer.decode_bytes([token]))} for token in ids]
    terminal.table(["id", "token", "bytes"], [[str(value) for value in token.values()] for token in tokens], result=True)
    average, unknown = len(text.encode()) / max(len(ids), 1), ids.count(tokenizer.unknown) if tokenizer.unknown is not None else 0
    terminal.say(f"{len(ids)} tokens, {average:.2f} bytes per token{f', {unknown} unknown' if unknown else ''}")
    return {"tokens": tokens, "bytes_per_token": average, "unknown": unknown}


def _sample(paths: Sequence[Path], every: int) -> Iterator[str]:
    """Every so many-th piece of all texts."""
    documents = chain.from_iterable(map(read_documents, paths))
    return islice((piece for document in documents for piece in pieces(document.text)), 0, None, every)


def _unknown_share(tokenizer: Tokenizer, texts: list[str]) -> float:
    """The share of a text's tokens that stand for something unknown."""
    ids_N = np.concatenate([np.empty(0, np.uint32), *tokenizer.encode_batch(texts)])
    return 0.0 if tokenizer.unknown is None else float((ids_N == tokenizer.unknown).sum()) / max(len(ids_N), 1)
