"""A small tokenizer and shard folders made with it."""

import hashlib
import inspect
import random
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

from foretell.base.console import Terminal
from foretell.corpus.document import Document
from foretell.data.build import write_shards
from foretell.data.config import DataSettings
from foretell.data.shards import ShardReader
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer

MakeShards = Callable[..., ShardReader]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe([inspect.getsource(random)], TokenizerSettings(vocab_size=600))


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """Two hundred short documents out of a real text, one of them not ASCII."""
    parts = inspect.getsource(random).split("\n\n")[:200]
    texts = [f"{number} {part}" for number, part in enumerate(parts)] + ["Ünïcode 中文\n" * 3]
    return [Document(hashlib.sha256(text.encode()).hexdigest()[:16], text, "random.py") for text in texts]


@pytest.fixture
def make_shards(tmp_path: Path, tokenizer: Tokenizer) -> MakeShards:
    def make(documents: list[Document], stream: StringIO | None = None, **settings: float) -> ShardReader:
        out = tmp_path / f"shards {len(list(tmp_path.iterdir()))}"
        write_shards(
            lambda: iter(documents), tokenizer, out, DataSettings.model_validate(settings), Terminal(stream=stream or StringIO())
        )
        return ShardReader(out)

    return make
