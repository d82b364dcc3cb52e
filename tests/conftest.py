"""What several tests share: real text, from this machine or from the data folder."""

import argparse
import ast
import collections
import email.message
import inspect
import os
import pathlib
import random
import statistics
import textwrap
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' models are too small for more, and several tests run at once

PROSE = (argparse, ast, collections, email.message, inspect, pathlib, random, statistics, textwrap)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data; a test that asks for it is skipped where there is none."""
    folder = Path(os.environ.get("FORETELL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set FORETELL_DATA")
    return folder


@pytest.fixture(scope="session")
def shards_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token shards of the same prose, vocabulary 512: some 30,000 tokens to train on."""
    from foretell.base.console import Terminal
    from foretell.corpus.config import CorpusSettings
    from foretell.data.config import DataSettings
    from foretell.jobs.corpus import build_corpus
    from foretell.jobs.shards import build_shards
    from foretell.jobs.tokenizer import train_tokenizer
    from foretell.tokenizers.config import TokenizerSettings

    folder, terminal = tmp_path_factory.mktemp("prepared"), Terminal(quiet=True)
    build_corpus([str(_write_prose(folder / "text"))], folder / "corpus", CorpusSettings(), terminal)
    train_tokenizer(folder / "corpus", folder / "tokenizer", TokenizerSettings(vocab_size=512), terminal)
    build_shards(folder / "corpus", folder / "tokenizer", folder / "shards", DataSettings(held_out=0.1), terminal)
    return folder / "shards"


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A small folder of real prose: one file per module of the standard library, holding its documentation (some 100 kB)."""
    return _write_prose(tmp_path / "text")


def _write_prose(folder: Path) -> Path:
    folder.mkdir()
    for module in PROSE:
        members = [
            module,
            *(value for _, value in inspect.getmembers(module, lambda value: inspect.isclass(value) or inspect.isfunction(value))),
        ]
        texts = dict.fromkeys(text for member in members if (text := inspect.getdoc(member)))
        (folder / f"{module.__name__}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return folder
