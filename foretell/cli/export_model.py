"""`foretell export`."""

import argparse
from pathlib import Path

from foretell.base.console import Terminal

EXAMPLE = """foretell export runs/mine/model --to gguf --dtype q8_0 --out mine.gguf
  foretell export runs/mine/model --to hf --dtype bf16 --out mine-hf"""
GIGABYTE = 10**9


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model directory")
    parser.add_argument(
        "--to",
        choices=("hf", "gguf", "onnx"),
        required=True,
        help="hf: transformers, vLLM; gguf: llama.cpp, Ollama; onnx: onnxruntime",
    )
    parser.add_argument("--out", type=Path, metavar="PATH", required=True, help="a new folder; for gguf a new file")
    parser.add_argument(
        "--dtype",
        choices=("f32", "f16", "bf16", "q8_0"),
        help="of the weights; default: hf as stored, gguf f16, onnx f32; q8_0 (8 bits) is for gguf",
    )
    parser.add_argument("--shard-gb", type=float, default=5.0, metavar="GB", help="hf: files of at most this size (default 5)")


def run(arguments: argparse.Namespace, terminal: Terminal) -> object:
    from foretell.jobs.convert import export_model

    bytes_ = int(max(arguments.shard_gb, 0.0) * GIGABYTE) if arguments.shard_gb < GIGABYTE else 0
    return export_model(arguments.model, arguments.to, arguments.out, terminal, dtype=arguments.dtype, shard_bytes=bytes_)
