"""How our tensors are called in Hugging Face's layouts (layouts.toml), and which of theirs make one of ours."""

import difflib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.base.files import read_text
from foretell.models.config import ModelConfig

BARE = re.compile(r"^(wte|wpe|h|ln_f)\.")  # GPT-2's files on the hub lack the prefix that transformers writes
MASK = re.compile(r"\.attn\.(masked_)?bias$")  # old files carry mask buffers


@cache
def layouts() -> dict[str, dict[str, Any]]:
    """layouts.toml: preset → model_type, architecture, words, fixed, modules."""
    return tomllib.loads(read_text(Path(__file__).with_name("layouts.toml")))


def rules(config: ModelConfig) -> Iterator[tuple[str, list[str], list[int], bool]]:
    """For each tensor: our name; their names in the order of our rows; the rows of each; whether theirs are transposed."""
    queries, keys = config.n_head * config.d_head, config.n_kv_head * config.d_head
    rows = {"attention.qkv": [queries, keys, keys], "mlp.gate_up": [config.d_ff, config.d_ff]}
    for ours, theirs in layouts()[config.preset]["modules"].items():
        layered, _, part = ours.rpartition("#.")
        if part == "head" and config.tied:
            continue
        conv = bool(layered) and config.preset == "gpt2"  # Conv1D stores matrices as [in, out]; vectors stay as they are
        kinds = ("weight", "bias") if config.bias and (layered or part == "final_norm") else ("weight",)
        for layer, kind in product(range(config.n_layer if layered else 1), kinds):
            name, *names = (f"{module}.{kind}".replace("#", str(layer)) for module in (ours, *theirs))
            yield name, names, rows[part] if len(names) > 1 else [], conv


def to_hugging_face(ours: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict → theirs. Tensors are contiguous, as safetensors wants them."""
    theirs: dict[str, Tensor] = {}
    for name, names, rows, transposed in rules(config):
        pieces = torch.split(ours[name], rows) if rows else (ours[name],)
        theirs |= {n: (piece.t() if transposed else piece).contiguous() for n, piece in zip(names, pieces, strict=True)}
    return theirs


def from_hugging_face(theirs: dict[str, Tensor], config: ModelConfig, where: str) -> dict[str, Tensor]:
    """Their tensors → our state dict, fp32. Raises ModelError naming missing and left-over tensors."""
    theirs = {BARE.sub(r"transformer.\g<0>", name): tensor for name, tensor in theirs.items() if not MASK.search(name)}
    if config.tied:
        theirs.pop("lm_head.weight", None)  # some files carry the tied head a second time
    ours, unfit = dict[str, Tensor](), "check that config.json belongs to these weights"
    for name, names, _, transposed in rules(config):
        for missing in (n for n in names if n not in theirs):
            near = difflib.get_close_matches(missing, theirs, n=1)
            cure = f"the nearest name is {near[0]}" if near else unfit
            raise ModelError(f"the tensor {missing} is missing", where=where, cure=cure)
        pieces = [theirs.pop(n).float() for n in names]
        ours[name] = torch.cat([piece.t() if transposed else piece for piece in pieces]).contiguous()
    if theirs:
        raise ModelError(f"{len(theirs)} tensors have no place in this model, {min(theirs)} first", where=where, cure=unfit)
    return ours
