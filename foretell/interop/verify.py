"""Proof that a model went over whole: the same outputs for a probe text, before and after."""

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.models.bert import BERT
from foretell.models.heads import TaskModel
from foretell.models.network import LanguageModel, Network
from foretell.tokenizers.tokenizer import Tokenizer

PROBE = "The quick brown fox jumps over the lazy dog; 3 × 14 = 42, and naïve cafés say: “why not?”"
PROBE_TOKENS = 24


def probe_tokens(model: Network | TaskModel, tokenizer: Tokenizer | None) -> Tensor:
    """(1, T) the probe text in a model's tokens; without a tokenizer, ids spread over its vocabulary."""
    config = model.body.config if isinstance(model, TaskModel) else model.config
    ids = tokenizer.encode(PROBE) if tokenizer else [int(n * math.e * 1000) % config.vocab_size for n in range(1, PROBE_TOKENS)]
    return torch.tensor([ids[: min(PROBE_TOKENS, config.context_length)]])


@torch.no_grad()
def outputs(model: Network | TaskModel, tokens_BT: Tensor) -> Tensor:
    """What a model says: logits where it has a head, hidden states where it has none. Raises ModelError if they are no numbers."""
    said: Tensor
    if isinstance(model, LanguageModel):
        said = model.logits(tokens_BT)
    elif isinstance(model, BERT):
        hidden_BTD = model(tokens_BT)
        said = model.masked_logits(hidden_BTD) if model.transform is not None else hidden_BTD
    else:
        said = model(tokens_BT)
    if not bool(said.isfinite().all()):
        what, cure = "the model's outputs are not finite numbers", "its weights are damaged: get them again from their source"
        raise ModelError(what, where="the probe text", cure=cure)
    return said


def require_same(before: Tensor, after: Tensor, *, exact: bool, where: str) -> str:
    """How far two outputs are apart, in words. exact: the same numbers but for rounding; otherwise weights have been shortened.

    Raises ModelError: more than 1e-4 of the largest value apart, or (shortened) more than 0.1 nats between the predictions.
    """
    difference, largest = float((before - after).abs().max()), float(before.abs().max())
    told = f"largest difference {difference:.2g} of values up to {largest:.3g}"
    if exact:
        wrong = difference > 1e-4 * max(1.0, largest)
    else:
        log_before, log_after = before.double().log_softmax(-1), after.double().log_softmax(-1)
        nats = float((log_before.exp() * (log_before - log_after)).sum(-1).mean())
        told, wrong = f"{told}; predictions {max(nats, 0.0):.2g} nats apart on average", nats > 0.1
    if wrong:
        cure = "please report it with the model's config.json; nothing was written"
        raise ModelError(f"the model does not say the same after the change: {told}", where=where, cure=cure)
    return told


def transformers_outputs(folder: Path, architecture: str, model: Network | TaskModel, tokens_BT: Tensor) -> Tensor | None:
    """What transformers' own class says with a directory's weights; None where transformers is not installed."""
    try:
        import transformers
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is only asked for numbers
        theirs: Any = getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        out = theirs.eval()(tokens_BT) if not _chooses(model) else theirs.eval()(tokens_BT[None])
    for name in ("prediction_logits", "mc_logits", "logits", "last_hidden_state"):
        if name in out:
            said: Tensor = out[name].float()
            return said.view(-1, 1) if _chooses(model) else said
    return torch.stack([out.start_logits, out.end_logits], dim=-1).float()


def _chooses(model: Network | TaskModel) -> bool:
    return isinstance(model, TaskModel) and model.head_config.kind == "choice"
