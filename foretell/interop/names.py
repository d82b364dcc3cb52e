"""How our tensors are called in Hugging Face's layouts (layouts.toml), and which of theirs make one of ours."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.models.build import build_empty
from foretell.models.config import ModelConfig, TransformerConfig
from foretell.models.heads import HeadConfig

PREFIX = re.compile(r"^(transformer|model|bert)\.")  # files on the hub lack the prefix that transformers writes, or have another
LEGACY = ((re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"), (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"))
MASKED_BIAS = ("cls.predictions.bias", "cls.predictions.decoder.bias")  # one vector under two names
MASKED_TIE = ("embeddings.word_embeddings", "cls.predictions.decoder")
JUNK = re.compile(  # buffers that old files carry: causal masks, positions, rotary frequencies
    r"(\.attn\.(attention\.)?(masked_)?bias|\.rotary_emb\.inv_freq|embeddings\.(position_ids|token_type_ids))$"
)


@dataclass(frozen=True)
class Rule:
    """One tensor of ours. theirs: the names of the pieces, one below the other; rows: of each; transposed: theirs is [in, out]."""

    ours: str
    shape: tuple[int, ...]
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    transposed: bool

    def pieces(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Their names and shapes."""
        for name, rows in zip(self.theirs, self.rows, strict=True):
            shape = (rows, *self.shape[1:])
            yield name, shape[::-1] if self.transposed else shape


def rules(config: ModelConfig, layout: dict[str, Any] | None, head: HeadConfig | None = None) -> list[Rule]:
    """For each tensor of ours what it is in theirs, with transformers' prefixes. layout None: Foretell's own, as they are."""
    found: list[Rule] = []
    for ours, tensor in build_empty(config, head).state_dict().items():
        inner, shape = ours.removeprefix("body.") if head else ours, tuple(tensor.shape)
        if config.tied and inner == "head.weight":
            continue
        theirs, conv = _their_names(inner, layout, head) if layout else ((ours,), False)
        rows = shape[:1] if len(theirs) == 1 else _rows(inner, config)
        found.append(Rule(ours, shape, theirs, rows, conv and len(shape) == 2))
    return found


def _their_names(ours: str, layout: dict[str, Any], head: HeadConfig | None) -> tuple[tuple[str, ...], bool]:
    module, _, kind = ours.rpartition(".")
    if module == "task_head" and head is not None:
        key = "classes" if head.kind in ("regression", "reward") else head.kind
        return (f"{layout['heads'][key]}.{kind}",), False
    if ours == "head.bias":
        return MASKED_BIAS[:1], False
    layer = (re.findall(r"^blocks\.(\d+)\.", module) or [""])[0]
    pattern = re.sub(r"^blocks\.\d+\.", "blocks.#.", module)
    if pattern in layout["tops"]:
        return tuple(f"{name}.{kind}" for name in layout["tops"][pattern]), False
    prefix = layout["heads"].get("spans_prefix", layout["prefix"]) if head and head.kind == "spans" else layout["prefix"]
    names = layout["modules"][pattern]
    return tuple(f"{prefix}.{name}.{kind}".replace("#", layer) for name in names), bool(layer) and layout.get("conv", False)


def _rows(ours: str, config: ModelConfig) -> tuple[int, ...]:
    assert isinstance(config, TransformerConfig)  # noqa: S101
    if ".mlp." in ours:
        return config.d_ff, config.d_ff
    keys = config.n_kv_head * config.d_head
    return config.n_head * config.d_head, keys, keys


def to_theirs(ours: Mapping[str, Tensor], found: list[Rule]) -> dict[str, Tensor]:
    """Our state dict → theirs, as views where that is possible."""
    theirs: dict[str, Tensor] = {}
    for rule in found:
        for name, piece in zip(rule.theirs, torch.split(ours[rule.ours], list(rule.rows)), strict=True):
            theirs[name] = piece.t() if rule.transposed else piece
    return theirs


def from_theirs(theirs: Mapping[str, Tensor], found: list[Rule], where: str) -> dict[str, Tensor]:
    """Their tensors → our state dict, as views where that is possible (so a mapped file costs no memory).

    Raises ModelError naming a tensor that is missing, has another shape or has no place, with the nearest name.
    """
    by_name: dict[str, str] = {}
    for name in theirs:
        if JUNK.search(name):
            continue
        if (other := by_name.setdefault(bare(name), name)) != name and {name, other} != set(MASKED_BIAS):
            cure = "restore the files from the model's source"
            raise ModelError(f"the tensors {other} and {name} are one and the same here", where=where, cure=cure)
    _tie(by_name, found)
    ours, unfit = dict[str, Tensor](), "check that config.json belongs to these weights"
    for rule in found:
        pieces = []
        for name, shape in rule.pieces():
            actual = by_name.pop(bare(name), None)
            if actual is None:
                near = difflib.get_close_matches(name, theirs, n=1)
                cure = f"the nearest name is {near[0]}; {unfit}" if near else unfit
                raise ModelError(f"the tensor {name} is missing", where=where, cure=cure)
            tensor = theirs[actual]
            if tuple(tensor.shape) != shape:
                what = f"the tensor {actual} has shape {list(tensor.shape)}, the config says {list(shape)}"
                raise ModelError(what, where=where, cure=unfit)
            pieces.append(tensor.t() if rule.transposed else tensor)
        ours[rule.ours] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if by_name:
        named = sorted(by_name.values())
        near = difflib.get_close_matches(named[0], [name for rule in found for name in rule.theirs], n=1)
        what = f"{len(named)} tensors have no place in this model, {named[0]} first"
        raise ModelError(what, where=where, cure=f"the nearest that has one is {near[0]}" if near else unfit)
    return ours


def _tie(by_name: dict[str, str], found: list[Rule]) -> None:
    """A tied matrix may stand in a file under either name or both (OpenAIGPTDoubleHeadsModel saves only the head's)."""
    expected = {bare(name) for rule in found for name in rule.theirs}
    for embedding, head in (("wte", "lm_head"), ("tokens_embed", "lm_head"), ("embed_tokens", "lm_head"), MASKED_TIE):
        if f"{head}.weight" in by_name and f"{head}.weight" not in expected:
            matrix = by_name.pop(f"{head}.weight")
            if f"{embedding}.weight" in expected:
                by_name.setdefault(f"{embedding}.weight", matrix)
                return
            by_name[f"{head}.weight"] = matrix


def bare(name: str) -> str:
    """A tensor's name without prefix, in today's spelling."""
    for old, new in LEGACY:
        name = old.sub(new, name)
    return MASKED_BIAS[0] if name == MASKED_BIAS[1] else PREFIX.sub("", name)
