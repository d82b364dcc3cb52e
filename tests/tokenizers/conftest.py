"""A small tokenizer, trained once."""

import argparse
import inspect

import pytest

from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def source_text() -> str:
    return inspect.getsource(argparse)


@pytest.fixture(scope="session")
def tokenizer(source_text: str) -> Tokenizer:
    return train_bpe([source_text], TokenizerSettings(vocab_size=1000))
