"""Tokenizer jobs: learn one from a corpus, show what one makes of a text, and compare several on a corpus."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, require_new
from foretell.base.groups import grouped
from foretell.base.units import count, size
from foretell.corpus.store import read_documents
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.pieces import PIECE_CHARACTERS, pieces
from foretell.tokenizers.tokenizer import Tokenizer
from foretell.tokenizers.train import train

LOOKED_AT = 16  # pieces (some 1 MB) in which unknown tokens are counted
COMPARED_BYTES, GROUP_CHARACTERS = 100_000_000, 4_000_000  # how much text is compared, how much of it is encoded at once
ALL = "all"  # the row of a comparison that holds every language
COLUMNS = ["tokenizer", "size", "used", "text", "bytes/token", "tokens/word", "unknown", "MB/s", "engine"]


def train_tokenizer(corpus: Path | Sequence[Path], out: Path, settings: TokenizerSettings, terminal: Terminal) -> dict[str, Any]:
    """Learn a tokenizer from corpus folders or text files into a new directory."""
    require_new(out)
    paths = [corpus] if isinstance(corpus, Path) else corpus
    available, every = _thinned(paths, settings.sample_bytes)
    readings = 2 if settings.kind == "wordpiece" else 1
    with terminal.progress("learning the tokenizer", readings * available / every, "characters") as progress:

        def texts() -> Iterator[str]:
            for piece, _ in _sample(paths, every):
                progress.advance(len(piece))
                yield piece

        tokenizer = train(texts, settings)
        unknown = _unknown_share(tokenizer, [piece for piece, _ in islice(_sample(paths, every), LOOKED_AT)])
    with atomic_path(out) as partial:
        tokenizer.save(partial)
    part = size(available) + (f", one in {every} pieces of {count(PIECE_CHARACTERS)} characters," if every > 1 else "")
    terminal.say(f"learned {tokenizer.vocab_size} tokens from {part} of text: {out}")
    if unknown:
        terminal.warn(f"{unknown:.2%} of the tokens of this text's beginning are unknown to it and cannot be told apart")
    learned = {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint, "sampled_every": every}
    summary: dict[str, Any] = {"tokenizer": str(out), **learned}
    return summary if tokenizer.unknown is None else {**summary, "unknown": unknown}


def show_tokens(directory: Path, text: str, terminal: Terminal) -> dict[str, Any]:
    """Print the tokens of a text."""
    tokenizer = Tokenizer.load(directory)
    ids = tokenizer.encode(text)
    tokens = [{"id": token, "text": tokenizer.token_text(token), "bytes": len(tokenizer.decode_bytes([token]))} for token in ids]
    terminal.table(["id", "token", "bytes"], [[str(value) for value in token.values()] for token in tokens], result=True)
    average, unknown = len(text.encode()) / max(len(ids), 1), ids.count(tokenizer.unknown) if tokenizer.unknown is not None else 0
    terminal.say(f"{len(ids)} tokens, {average:.2f} bytes per token{f', {unknown} unknown' if unknown else ''}")
    terminal.say(f"much text is encoded by {tokenizer.engine}")
    return {"tokens": tokens, "bytes_per_token": average, "unknown": unknown, "engine": tokenizer.engine}


def compare_tokenizers(directories: Sequence[Path], corpus: Path, terminal: Terminal) -> dict[str, Any]:
    """Encode the same text with several tokenizers, and show what they make of it, by language where the corpus knows that.

    Words are what white space parts, so that tokens per word mean nothing in languages that write without it.
    """
    compared = [_Compared(directory) for directory in directories]
    available, every = _thinned([corpus], COMPARED_BYTES)
    bytes_of, words_of = Counter[str](), Counter[str]()
    with terminal.progress("comparing", available / every, "characters") as progress:
        for group in grouped(_sample([corpus], every), lambda item: len(item[0]), GROUP_CHARACTERS):
            for piece, language in group:
                for name in (ALL, language):
                    bytes_of[name] += len(piece.encode())
                    words_of[name] += len(piece.split())
            for one in compared:
                one.add(group)
            progress.advance(sum(len(piece) for piece, _ in group))
    names = [ALL, *sorted(bytes_of.keys() - {ALL})] if len(bytes_of) > 2 else [ALL]
    results = [one.result(bytes_of, words_of, names) for one in compared]
    terminal.table(COLUMNS, [row for result in results for row in _rows(result)], result=True)
    if every > 1:
        terminal.say(f"one in {every} pieces of {count(PIECE_CHARACTERS)} characters was encoded")
    return {"bytes": bytes_of[ALL], "words": words_of[ALL], "sampled_every": every, "tokenizers": results}


class _Compared:
    """What one tokenizer made of the text so far."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._tokenizer = directory, Tokenizer.load(directory)
        self._engine = self._tokenizer.engine  # found before the clock runs
        self._tokens, self._unknown, self._seconds = Counter[str](), Counter[str](), 0.0
        self._used_V = np.zeros(self._tokenizer.vocab_size, bool)

    def add(self, group: list[tuple[str, str]]) -> None:
        """Encode pieces of text, each with its language."""
        started_at_seconds = time.perf_counter()
        encoded = self._tokenizer.encode_batch([piece for piece, _ in group])
        self._seconds += time.perf_counter() - started_at_seconds
        for ids, (_, language) in zip(encoded, group, strict=True):
            self._used_V[ids] = True
            for name in (ALL, language):
                self._tokens[name] += len(ids)
                self._unknown[name] += 0 if self._tokenizer.unknown is None else int((ids == self._tokenizer.unknown).sum())

    def result(self, bytes_of: Counter[str], words_of: Counter[str], names: list[str]) -> dict[str, Any]:
        """The figures, by language."""
        languages = {}
        for name in names:
            tokens = max(self._tokens[name], 1)
            ratios = {"bytes_per_token": bytes_of[name] / tokens, "tokens_per_word": tokens / max(words_of[name], 1)}
            languages[name] = {**ratios, "unknown": self._unknown[name] / tokens, "tokens": self._tokens[name]}
        about = {"tokenizer": str(self._directory), "kind": self._tokenizer.kind, "vocab_size": self._tokenizer.vocab_size}
        speed = {"megabytes_per_second": bytes_of[ALL] / max(self._seconds, 1e-9) / 1e6, "engine": self._engine}
        return {**about, "vocabulary_used": float(self._used_V.mean()), **speed, "languages": languages}


def _rows(result: dict[str, Any]) -> Iterator[list[str]]:
    """A comparison's lines for one tokenizer: of all text, then of each language."""
    for name, said in result["languages"].items():
        about, speed = ["", "", ""], ["", ""]
        if name == ALL:
            about = [Path(result["tokenizer"]).name, f"{result['vocab_size']:,}", f"{result['vocabulary_used']:.1%}"]
            speed = [f"{result['megabytes_per_second']:.1f}", result["engine"]]
        yield [*about, name, f"{said['bytes_per_token']:.3f}", f"{said['tokens_per_word']:.3f}", f"{said['unknown']:.2%}", *speed]


def _thinned(paths: Sequence[Path], most_bytes: int) -> tuple[int, int]:
    """The bytes of all documents, and of how many pieces one is taken so that no more than `most_bytes` are read."""
    available = sum(document.bytes for path in paths for document in read_documents(path))
    return available, max(1, -(-available // most_bytes))


def _sample(paths: Sequence[Path], every: int) -> Iterator[tuple[str, str]]:
    """Every so many-th piece of all texts, with its language."""
    documents = chain.from_iterable(map(read_documents, paths))
    told = ((document.text, str(document.metadata.get("language", "not told"))) for document in documents)
    return islice(((piece, language) for text, language in told for piece in pieces(text)), 0, None, every)


def _unknown_share(tokenizer: Tokenizer, texts: list[str]) -> float:
    """The share of a text's tokens that stand for something unknown."""
    ids_N = np.concatenate([np.empty(0, np.uint32), *tokenizer.encode_batch(texts)])
    return 0.0 if tokenizer.unknown is None else float((ids_N == tokenizer.unknown).sum()) / max(len(ids_N), 1)
