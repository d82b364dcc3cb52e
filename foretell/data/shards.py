"""The shard folder, read: tokens in memory-mapped files, and which document each of them comes from."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.base.errors import DataError
from foretell.base.files import digest
from foretell.base.records import read_json
from foretell.base.settings import Settings
from foretell.data.held_out import HeldOut
from foretell.tokenizers.tokenizer import Tokenizer

SPLITS = ("train", "held_out")
START, IDENTITY = np.dtype("<u8"), np.dtype("S16")  # the document index: first token and id of each document


class SplitRecord(Settings):
    """One split. files: name → SHA-256. bytes: of the text, in UTF-8."""

    files: dict[str, str]
    tokens: int
    documents: int
    bytes: int


class Manifest(Settings):
    """manifest.json. tokenizer: its fingerprint. held_out: how that split was made."""

    tokenizer: str
    vocab_size: int
    end_of_text: int
    dtype: str
    held_out: HeldOut
    splits: dict[str, SplitRecord]

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
        self._starts = _mapped(folder / f"{name}-starts.bin", START, self.documents)
        self._identities = _mapped(folder / f"{name}-identities.bin", IDENTITY, self.documents)

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """`length` >= 1 tokens from `start`."""
        if not 0 <= start < start + length <= self.tokens:
            raise IndexError(f"tokens {start} to {start + length} of {self.tokens}")
        return self._tokens[start : start + length].astype(np.int64)

    def document_at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """The numbers of the documents that hold the tokens at these positions (any shape)."""
        places = np.asarray(positions).astype(START)  # the index's own type, or numpy would convert the whole index
        return (np.searchsorted(self._starts, places, side="right") - 1).astype(np.int64)

    def document_id(self, number: int) -> str:
        """The corpus's id of a document."""
        return bytes(self._identities[number]).decode()


class ShardReader:
    """A shard folder. Sizes are checked when it is opened, contents by `verify`. Raises DataError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.manifest = Manifest.model_validate(read_json(path / "manifest.json"))
            self.train, self.held_out = (Split(path, name, self.manifest) for name in SPLITS)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path / "manifest.json", f"the manifest of the shards is damaged: {error}") from error

    def verify(self) -> None:
        """Compare every file with its checksum."""
        for split in self.manifest.splits.values():
            for name, sha256 in split.files.items():
                if digest(self.path / name) != sha256:
                    raise _damaged(self.path / name, "the content of a shard file has changed since it was written")

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the shards were encoded with."""
        tokenizer = Tokenizer.load(self.path / "tokenizer")
        if tokenizer.fingerprint != self.manifest.tokenizer:
            raise _damaged(self.path / "tokenizer", "the tokenizer in the shard folder is not the one that made the shards")
        return tokenizer


def _mapped(path: Path, dtype: "np.dtype[Any]", length: int) -> NDArray[Any]:
    """A file as an array of which only what is touched is read."""
    size, expected = path.stat().st_size if path.is_file() else 0, length * dtype.itemsize
    if size != expected or not size:
        raise _damaged(path, f"a shard file has {size} bytes where {expected} were written")
    return np.memmap(path, dtype, "r")


def _damaged(path: Path, what: str) -> DataError:
    return DataError(what, where=str(path), cure="build the shards again with `foretell shards build`")
