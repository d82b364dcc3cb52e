"""How our tensors are called in Hugging Face's layouts, and which of theirs make one of ours.

Sources: transformers' modeling_gpt2 and modeling_qwen3.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.models.config import ModelConfig

MODULES = {  # preset → our module → theirs, # being the layer; several of theirs make one of ours
    "gpt2": {
        "token_embedding": "transformer.wte", "position_embedding": "transformer.wpe", "final_norm": "transformer.ln_f", "head": "lm_head",
        "blocks.#.attention_norm": "transformer.h.#.ln_1", "blocks.#.attention.qkv": "transformer.h.#.attn.c_attn",
        "blocks.#.attention.out": "transformer.h.#.attn.c_proj", "blocks.#.mlp_norm": "transformer.h.#.ln_2",
        "blocks.#.mlp.up": "transformer.h.#.mlp.c_fc", "blocks.#.mlp.down": "transformer.h.#.mlp.c_proj",
    },
    "modern": {
        "token_embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head",
        "blocks.#.attention_norm": "model.layers.#.input_layernorm", "blocks.#.mlp_norm": "model.layers.#.post_attention_layernorm",
        "blocks.#.attention.qkv": "model.layers.#.self_attn.q_proj model.layers.#.self_attn.k_proj model.layers.#.self_attn.v_proj",
        "blocks.#.attention.q_norm": "model.layers.#.self_attn.q_norm",
        "blocks.#.attention.k_norm": "model.layers.#.self_attn.k_norm", "blocks.#.attention.out": "model.layers.#.self_attn.o_proj",
        "blocks.#.mlp.gate_up": "model.layers.#.mlp.gate_proj model.layers.#.mlp.up_proj",
        "blocks.#.mlp.down": "model.layers.#.mlp.down_proj",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Our tensor is the concatenation, along its rows, of theirs, each with so many rows; transposed: each turned first."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    transposed: bool


def rules(config: ModelConfig) -> Iterator[Rule]:
    """One rule for each tensor of the model."""
    queries, keys = config.n_head * config.d_head, config.n_kv_head * config.d_head
    rows = {"attention.qkv": (queries, keys, keys), "mlp.gate_up": (config.d_ff, config.d_ff)}
    for ours, theirs in MODULES[config.preset].items():
        layered, _, part = ours.rpartition("#.")
        if part == "head" and config.tied:
            continue
        conv = bool(layered) and config.preset == "gpt2"  # Conv1D stores matrices as [in, out]; vectors stay as they are
        kinds = ("weight", "bias") if config.bias and (layered or part == "final_norm") else ("weight",)
        for layer, kind in product(range(config.n_layer if layered else 1), kinds):
            name, *names = (f"{module}.{kind}".replace("#", str(layer)) for module in (ours, *theirs.split()))
            yield Rule(name, tuple(names), rows[part] if len(names) > 1 else (), conv)


def to_hugging_face(ours: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict → theirs. Tensors are contiguous, as safetensors wants them."""
    theirs: dict[str, Tensor] = {}
    for rule in rules(config):
        pieces = torch.split(ours[rule.ours], list(rule.rows)) if rule.rows else (ours[rule.ours],)
        for name, piece in zip(rule.theirs, pieces, strict=True):
            theirs[name] = (piece.t() if rule.transposed else piece).contiguous()
    return theirs


def from_hugging_face(theirs: dict[str, Tensor], config: ModelConfig, where: str) -> dict[str, Tensor]:
    """Their tensors → our state dict, fp32. Raises ModelError naming missing and left-over tensors."""
    theirs = {_with_prefix(name, config): tensor for name, tensor in theirs.items() if not _is_junk(name, config)}
    ours: dict[str, Tensor] = {}
    for rule in rules(config):
        missing = [name for name in rule.theirs if name not in theirs]
        if missing:
            near = difflib.get_close_matches(missing[0], theirs, n=1)
            cure = f"the nearest name is {near[0]}" if near else "check that config.json belongs to these weights"
            raise ModelError(f"the tensor {missing[0]} is missing", where=where, cure=cure)
        pieces = [theirs.pop(name).float() for name in rule.theirs]
        ours[rule.ours] = torch.cat([piece.t() if rule.transposed else piece for piece in pieces]).contiguous()
    if theirs:
        what = f"{len(theirs)} tensors have no place in this model, {min(theirs)} first"
        raise ModelError(what, where=where, cure="check that config.json belongs to these weights")
    return ours


def _with_prefix(name: str, config: ModelConfig) -> str:
    """GPT-2's files on the hub have no `transformer.` prefix, those that transformers saves have it."""
    bare = config.preset == "gpt2" and not name.startswith(("transformer.", "lm_head."))
    return f"transformer.{name}" if bare else name


def _is_junk(name: str, config: ModelConfig) -> bool:
    """Old files carry mask buffers, and some carry the tied head a second time."""
    return name.endswith((".attn.bias", ".attn.masked_bias")) or (config.tied and name == "lm_head.weight")
