"""`foretell tokenizer` and `foretell shards`, as a user calls them."""

import json
from pathlib import Path

import pytest

from foretell.cli.main import main
from foretell.data.shards import ShardReader
from foretell.tokenizers.tokenizer import Tokenizer


def test_from_text_to_shards(text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, shards = str(tmp_path / "my tokenizer"), str(tmp_path / "my shards")
    assert main(["tokenizer", "train", str(text_folder), "--out", tokenizer, "--vocab-size", "700", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["vocab_size"] == Tokenizer.load(Path(tokenizer)).vocab_size == 700
    assert main(["shards", "build", str(text_folder), "--tokenizer", tokenizer, "--out", shards, "--held-out", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "held-out:" in said
    reader = ShardReader(Path(shards))
    assert reader.manifest.tokenizer == trained["fingerprint"]
    assert reader.train.bytes + reader.held_out.bytes == sum(path.stat().st_size for path in text_folder.iterdir())
    assert reader.manifest.held_out.fraction == 0.1


def test_existing_outputs_are_refused(text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    assert main(["tokenizer", "train", str(text_folder), "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    tokenizer = str(tmp_path / "tokenizer")
    assert main(["tokenizer", "train", str(text_folder), "--out", tokenizer, "--vocab-size", "300"]) == 0
    assert main(["shards", "build", str(text_folder), "--tokenizer", tokenizer, "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("size", "message"), [("100", "vocab_size = 100 is not possible"), ("90000", "more than this text supports")]
)
def test_impossible_vocabularies(
    text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str, message: str
) -> None:
    assert main(["tokenizer", "train", str(text_folder), "--out", str(tmp_path / "out"), "--vocab-size", size]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sample_is_taken_of_a_large_corpus(text_folder: Path, tmp_path: Path) -> None:
    from io import StringIO

    from foretell.base.console import Terminal
    from foretell.jobs.tokenizer import train_tokenizer
    from foretell.tokenizers.config import TokenizerSettings

    said, available = StringIO(), sum(path.stat().st_size for path in text_folder.iterdir())
    settings = TokenizerSettings(vocab_size=300, sample_bytes=available // 3 + 1)
    train_tokenizer(text_folder, tmp_path / "out", settings, Terminal(stream=said))
    assert "one in 3 pieces of" in said.getvalue()
    whole = train_tokenizer(text_folder, tmp_path / "whole", TokenizerSettings(vocab_size=300), Terminal(stream=said))
    assert whole["fingerprint"] != Tokenizer.load(tmp_path / "out").fingerprint


def test_tokens_are_shown(text_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    main(["tokenizer", "train", str(text_folder), "--out", out, "--vocab-size", "300", "--quiet"])
    assert main(["tokenizer", "show", out, "a\nb", "--json"]) == 0
    captured = capsys.readouterr()
    shown = json.loads(captured.out)
    assert [token["text"] for token in shown["tokens"]] == ["a", "\\n", "b"]
    assert shown["bytes_per_token"] == 1
    assert "3 tokens, 1.00 bytes per token" in captured.err
    assert main(["tokenizer", "show", str(tmp_path / "absent"), "text"]) == 1
    assert "has no tokenizer" in capsys.readouterr().err


def test_a_missing_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "train", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) in (1, 2)
    assert str(tmp_path / "absent") in capsys.readouterr().err
