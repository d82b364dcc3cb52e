"""The shard folder, read: tokens in memory-mapped files, and which document each of them comes from."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from foretell.base.errors import DataError
from foretell.base.files import digest
from foretell.base.records import read_json
from foretell.base.settings import Settings
from foretell.data.held_out import HeldOut
from foretell.tokenizers.tokenizer import Tokenizer

SPLITS, CARD = ("train", "held_out"), "card.md"
START, IDENTITY = np.dtype("<u8"), np.dtype("S16")  # the document index: first token and id of each document


class SplitRecord(Settings):
    """One split. files: name → SHA-256. bytes: of the text, in UTF-8."""

    files: dict[str, str]
    tokens: int
    documents: int
    bytes: int

    def sizes(self, token_bytes: int) -> dict[str, int]:
        """The end of a file's name → how many of its bytes are this split's. More may follow, of a build that is under way."""
        return {
            "tokens.bin": self.tokens * token_bytes,
            "starts.bin": self.documents * START.itemsize,
            "identities.bin": self.documents * IDENTITY.itemsize,
        }


class Manifest(Settings):
    """manifest.json. tokenizer: its fingerprint. held_out: how that split was made. version: 1 + how often documents were added."""

    tokenizer: str
    vocab_size: int
    end_of_text: int
    dtype: str
    held_out: HeldOut
    splits: dict[str, SplitRecord]
    version: int = 1

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in the files."""
        return np.dtype(self.dtype).itemsize


class Split:
    """The tokens of one split as one long row; every document ends with end_of_text."""

    def __init__(self, folder: Path, name: str, manifest: Manifest) -> None:
        record, self.folder, self.end_of_text = manifest.splits[name], folder, manifest.end_of_text
        self.tokens, self.documents, self.bytes = record.tokens, record.documents, record.bytes
        self._tokens = _mapped(folder / f"{name}-tokens.bin", np.dtype(manifest.dtype), self.tokens)
        self._overlapping: NDArray[Any] = self._tokens  # every window of the length that was read last, as a view
        self._starts = _mapped(folder / f"{name}-starts.bin", START, self.documents)
        self.identities = _mapped(folder / f"{name}-identities.bin", IDENTITY, self.documents)

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` >= 1 tokens from `start`."""
        if not 0 <= start < start + length <= self.tokens:
            raise IndexError(f"tokens {start} to {start + length} of {self.tokens}")
        return self._tokens[start : start + length].astype(np.int64)

    def windows(self, starts_B: NDArray[np.int64], length: int) -> NDArray[Any]:
        """(B, length) tokens from each of these places on (0 or later), in the files' own type."""
        view = self._overlapping  # taken once: another thread may read other windows
        if view.shape[1:] != (length,):
            view = self._overlapping = sliding_window_view(self._tokens, length)
        windows_BT: NDArray[Any] = view[starts_B]
        return windows_BT

    def document_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """The numbers of the documents that hold the tokens at these positions (any shape)."""
        places = np.asarray(positions).astype(START)  # the index's own type, or numpy would convert the whole index
        return (np.searchsorted(self._starts, places, side="right") - 1).astype(np.int64)

    def document_id(self, number: int) -> str:
        """The corpus's id of a document."""
        return bytes(self.identities[number]).decode()


class ShardReader:
    """A shard folder. Sizes are checked when it is opened, contents by `verify`. Raises DataError.

    state: the digest of the manifest. What was added to a folder lies behind what was there, so an older state can still be read.
    """

    def __init__(self, path: Path, state: str | None = None) -> None:
        """state: the one that is wanted, if it is still known; absent: the newest."""
        self.path, manifest = path, path / "manifest.json"
        if state is not None and (older := path / older_manifest(state)).is_file():
            manifest = older
        try:
            self.manifest = Manifest.model_validate(read_json(manifest))
            self.state = digest(manifest)
            self.train, self.held_out = (Split(path, name, self.manifest) for name in SPLITS)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(manifest, f"the manifest of the shards is damaged: {error}") from error

    @property
    def card(self) -> str:
        """What the corpus says of itself, in Markdown; empty where it was a plain file."""
        path = self.path / CARD
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def verify(self) -> None:
        """Compare every file with its checksum."""
        for split_name, split in self.manifest.splits.items():
            sizes = split.sizes(self.manifest.token_bytes)
            for name, sha256 in split.files.items():
                part = name.removeprefix(f"{split_name}-")
                if part not in sizes or digested(self.path / name, sizes[part]).hexdigest() != sha256:
                    raise _damaged(self.path / name, "the content of a shard file has changed since it was written")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the shards were encoded with."""
        tokenizer = Tokenizer.load(self.path / "tokenizer")
        if tokenizer.fingerprint != self.manifest.tokenizer:
            raise _damaged(self.path / "tokenizer", "the tokenizer in the shard folder is not the one that made the shards")
        return tokenizer


def older_manifest(state: str) -> str:
    """The name of a manifest that was replaced when documents were added."""
    return f"manifest-{state[:16]}.json"


def digested(path: Path, size: int) -> "hashlib._Hash":
    """The SHA-256 of a file's first `size` bytes, which may be continued."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while size and (block := stream.read(min(size, 2**20))):
            found.update(block)
            size -= len(block)
    return found


def _mapped(path: Path, dtype: "np.dtype[Any]", length: int) -> NDArray[Any]:
    """The first `length` values of a file as an array of which only what is touched is read."""
    size, expected = path.stat().st_size if path.is_file() else 0, length * dtype.itemsize
    if size < expected or not expected:
        raise _damaged(path, f"a shard file has {size} bytes where {expected} were written")
    return np.asarray(np.memmap(path, dtype, "r", shape=(length,)))  # a plain view, whose slices cost less


def _damaged(path: Path, what: str) -> DataError:
    return DataError(what, where=str(path), cure="build the shards again with `foretell shards build`")
