"""How our tensors are called in Hugging Face's layouts, and which of theirs make one of ours.

A rule says: our tensor is the concatenation (along its rows) of their tensors; GPT-2's Conv1D stores matrices as [in, out],
so those are transposed. Sources: transformers' modeling_gpt2 and modeling_qwen3.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.models.config import ModelConfig


@dataclass(frozen=True)
class Rule:
    """Our name, their names in the order of our rows, the rows of each, and whether theirs are transposed."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()
    transposed: bool = False


def rules(config: ModelConfig) -> Iterator[Rule]:
    """All rules of a model, layer by layer. Biases ride along with their weights in the gpt2 layout."""
    yield from _gpt2(config) if config.preset == "gpt2" else _qwen3(config)


def _gpt2(config: ModelConfig) -> Iterator[Rule]:
    yield Rule("token_embedding.weight", ("transformer.wte.weight",))
    yield Rule("position_embedding.weight", ("transformer.wpe.weight",))
    parts = {
        "attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
        "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
    }  # fmt: skip
    for layer in range(config.n_layer):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                conv = kind == "weight" and not ours.endswith("norm")
                yield Rule(f"blocks.{layer}.{ours}.{kind}", (f"transformer.h.{layer}.{theirs}.{kind}",), transposed=conv)
    yield Rule("final_norm.weight", ("transformer.ln_f.weight",))
    yield Rule("final_norm.bias", ("transformer.ln_f.bias",))
    if not config.tied:
        yield Rule("head.weight", ("lm_head.weight",))


def _qwen3(config: ModelConfig) -> Iterator[Rule]:
    queries, keys = config.n_head * config.d_head, config.n_kv_head * config.d_head
    parts: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
        "attention_norm": (("input_layernorm",), ()),
        "attention.qkv": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), (queries, keys, keys)),
        "attention.q_norm": (("self_attn.q_norm",), ()),
        "attention.k_norm": (("self_attn.k_norm",), ()),
        "attention.out": (("self_attn.o_proj",), ()),
        "mlp_norm": (("post_attention_layernorm",), ()),
        "mlp.gate_up": (("mlp.gate_proj", "mlp.up_proj"), (config.d_ff, config.d_ff)),
        "mlp.down": (("mlp.down_proj",), ()),
    }
    yield Rule("token_embedding.weight", ("model.embed_tokens.weight",))
    for layer in range(config.n_layer):
        for ours, (theirs, rows) in parts.items():
            names = tuple(f"model.layers.{layer}.{name}.weight" for name in theirs)
            yield Rule(f"blocks.{layer}.{ours}.weight", names, rows)
    yield Rule("final_norm.weight", ("model.norm.weight",))
    if not config.tied:
        yield Rule("head.weight", ("lm_head.weight",))


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
        pieces = [piece.t() if rule.transposed else piece for piece in pieces]
        ours[rule.ours] = (torch.cat(pieces) if len(pieces) > 1 else pieces[0]).contiguous()
    if theirs:
        raise ModelError(
            f"{len(theirs)} tensors have no place in this model, {min(theirs)} first", where=where, cure="check config.json"
        )
    return ours


def _with_prefix(name: str, config: ModelConfig) -> str:
    """GPT-2's files on the hub have no `transformer.` prefix, those that transformers saves have it."""
    bare = config.preset == "gpt2" and not name.startswith(("transformer.", "lm_head."))
    return f"transformer.{name}" if bare else name


def _is_junk(name: str, config: ModelConfig) -> bool:
    """Old files carry mask buffers, and some carry the tied head a second time."""
    return name.endswith((".attn.bias", ".attn.masked_bias")) or (config.tied and name == "lm_head.weight")
