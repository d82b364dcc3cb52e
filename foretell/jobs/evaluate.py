"""The job of evaluating a model on text files."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from foretell.base.console import Terminal
from foretell.base.errors import DataError, SettingError
from foretell.base.files import require_new, write_text
from foretell.base.records import dump
from foretell.compute.device import set_threads
from foretell.evaluation.perplexity import protocol, score_batches, text_batches
from foretell.interop.huggingface import open_model

MICRO_BATCH = 8
COLUMNS = {"file": "", "tokens": ",", "bytes": ",", "loss": ".4f", "perplexity": ".2f", "bits_per_byte": ".4f"}  # → format


def evaluate(model: Path, texts: list[Path], out: Path | None, terminal: Terminal) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of each file as one text. Raises ForetellError."""
    if out is not None:
        require_new(out)
    if not texts:
        raise SettingError("nothing to evaluate on", where="command line", cure="add --text FILE, once or more")
    contents = [_read(path) for path in texts]
    set_threads(None)
    network, tokenizer = open_model(model)
    context, results, metrics = network.config.context_length, list[dict[str, Any]](), dict[str, Any]()
    for path, content in zip(texts, contents, strict=True):
        tokens_N = np.array(tokenizer.encode_bytes(content), dtype=np.int64)
        batches = text_batches(tokens_N, tokenizer.start, context, MICRO_BATCH)
        score = score_batches(network, batches, tokenizer.byte_lengths())
        metrics |= {f"{path}: {name}": metric for name, metric in score.to_metrics(protocol(context, "fp32")).items()}
        results.append({"file": str(path), **score.to_json(), "protocol": protocol(context, "fp32")})
    rows = [[format(result[name], style) for name, style in COLUMNS.items()] for result in results]
    terminal.table([name.replace("_", " ") for name in COLUMNS], rows, result=True)
    terminal.say(f"protocol: {results[0]['protocol']}")
    if out is not None:
        write_text(out / "evaluation.json", dump({"metrics": metrics, "texts": results}, indent=2))
    return {"texts": results}


def _read(path: Path) -> bytes:
    """The bytes of a text; '-' is standard input. Any bytes can be scored: bits per byte needs no valid UTF-8."""
    if str(path) != "-" and (not path.exists() or path.is_dir()):
        raise SettingError("there is no such file", where=f"--text {path}", cure="give a text file")
    content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    if not content:
        raise DataError("the text is empty", where=str(path), cure="give a file with text")
    return content
