"""The job of evaluating a model on text files."""

from pathlib import Path
from typing import Any

import numpy as np

from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.files import require_new, write_text
from foretell.base.records import dump
from foretell.compute.device import default_device, set_threads
from foretell.evaluation.perplexity import protocol, score_batches, text_batches
from foretell.interop.huggingface import load_model
from foretell.models.gpt import GPT
from foretell.tokenizers.tokenizer import Tokenizer

MICRO_BATCH = 8


def evaluate(model_folder: Path, texts: list[Path], out: Path | None, terminal: Terminal) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of each file as one text. Raises ForetellError."""
    if out is not None:
        require_new(out)
    if not texts:
        raise SettingError("nothing to evaluate on", where="command line", cure="add --text FILE, once or more")
    contents = {path: _read(path) for path in texts}
    set_threads(None)
    model, tokenizer = load_model(model_folder).to(default_device()), Tokenizer.load(model_folder)
    results = [_score(model, tokenizer, path, content) for path, content in contents.items()]
    columns = ["file", "tokens", "bytes", "loss", "perplexity", "bits/byte"]
    rows = [
        [
            r["file"],
            f"{r['tokens']:,}",
            f"{r['bytes']:,}",
            f"{r['loss']:.4f}",
            f"{r['perplexity']:.2f}",
            f"{r['bits_per_byte']:.4f}",
        ]
        for r in results
    ]
    terminal.table(columns, rows)
    terminal.say(f"protocol: {results[0]['protocol']}")
    if out is not None:
        write_text(out / "evaluation.json", dump({"texts": results}, indent=2))
    return {"texts": results}


def _read(path: Path) -> bytes:
    """The bytes of a text; '-' is standard input. Any bytes can be scored: bits per byte needs no valid UTF-8."""
    import sys

    if str(path) == "-":
        return sys.stdin.buffer.read()
    if not path.is_file():
        raise SettingError("there is no such file", where=f"--text {path}", cure="give a text file")
    content = path.read_bytes()
    if not content:
        raise DataError("the file is empty", where=str(path), cure="give a file with text")
    return content


def _score(model: GPT, tokenizer: Tokenizer, path: Path, content: bytes) -> dict[str, Any]:
    context = model.config.context_length
    tokens_N = np.array(tokenizer.encode_bytes(content), dtype=np.int64)
    batches = text_batches(tokens_N, tokenizer.end_of_text, context, MICRO_BATCH)
    score = score_batches(model, batches, tokenizer.byte_lengths())
    return {"file": str(path), **score.to_json(), "protocol": protocol(context, "fp32")}
