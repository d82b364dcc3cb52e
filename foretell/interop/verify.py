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
PREDICTIONS = 64  # logits of so many and more are a prediction among tokens
Outputs = dict[str, Tensor]


def probe_tokens(model: Network | TaskModel, tokenizer: Tokenizer | None) -> Tensor:
    """(1, T) the probe text in a model's tokens; without a tokenizer, ids spread over its vocabulary."""
    config = model.body.config if isinstance(model, TaskModel) else model.config
    ids = tokenizer.encode(PROBE) if tokenizer else [int(n * math.e * 1000) % config.vocab_size for n in range(1, PROBE_TOKENS)]
    return torch.tensor([ids[: min(PROBE_TOKENS, config.context_length)]])


@torch.no_grad()
def outputs(model: Network | TaskModel, tokens_BT: Tensor) -> Outputs:
    """All that a model says, under transformers' names. Raises ModelError if it is not finite."""
    said: Outputs = {}
    if isinstance(model, TaskModel):
        said = _decided(model, tokens_BT)
    elif isinstance(model, LanguageModel):
        said["logits"] = model.logits(tokens_BT)
    elif isinstance(model, BERT):
        said = _encoded(model, tokens_BT)
    if not all(bool(values.isfinite().all()) for values in said.values()):
        what, cure = "the model's outputs are not finite numbers", "its weights are damaged: get them again from their source"
        raise ModelError(what, where="the probe text", cure=cure)
    return said


def _decided(model: TaskModel, tokens_BT: Tensor) -> Outputs:
    values: Tensor = model(tokens_BT)
    if model.head_config.kind == "spans":
        return {"start_logits": values[..., 0], "end_logits": values[..., 1]}
    if model.head_config.kind == "choice" and isinstance(model.body, LanguageModel):
        return {"mc_logits": values, "logits": model.body.logits(tokens_BT)}
    return {"logits": values}


def _encoded(model: BERT, tokens_BT: Tensor) -> Outputs:
    hidden_BTD = model(tokens_BT)
    if model.transform is not None and model.next_sentence is not None:
        pairs = model.next_sentence_logits(hidden_BTD)
        return {"prediction_logits": model.masked_logits(hidden_BTD), "seq_relationship_logits": pairs}
    if model.transform is not None:
        return {"logits": model.masked_logits(hidden_BTD)}
    if model.next_sentence is not None:
        return {"logits": model.next_sentence_logits(hidden_BTD)}
    return {"last_hidden_state": hidden_BTD} | ({"pooler_output": model.pooled(hidden_BTD)} if model.pooler is not None else {})


def require_same(before: Outputs, after: Outputs, *, exact: bool, where: str) -> str:
    """How far two models' outputs are apart, in words. exact: the same but for rounding; otherwise weights have been shortened.

    Raises ModelError: something is not said any more; or more than 1e-4 of the largest value apart; or (shortened) more than a
    quarter of it, or 0.1 nats between what is predicted.
    """
    told, cure = list[str](), "please report it with the model's config.json; nothing was written"
    for name, values in before.items():
        if name not in after:
            raise ModelError(f"the model gives no {name} any more", where=where, cure=cure)
        other = after[name].reshape(values.shape)
        difference, largest = float((values - other).abs().max()), float(values.abs().max())
        words = f"largest difference {difference:.2g} of {name.replace('_', ' ')} up to {largest:.3g}"
        right = difference <= (1e-4 if exact else 0.25) * max(1.0, largest)  # so put, it is false of what is no number
        if not exact and values.shape[-1] >= PREDICTIONS:
            log_before, log_after = values.double().log_softmax(-1), other.double().log_softmax(-1)
            nats = float((log_before.exp() * (log_before - log_after)).sum(-1).mean())
            words, right = f"{words}, predictions {max(nats, 0.0):.2g} nats apart", right and nats <= 0.1
        if not right:
            raise ModelError(f"the model does not say the same after the change: {words}", where=where, cure=cure)
        told.append(words)
    return "; ".join(told)


def transformers_outputs(folder: Path, architecture: str, several: bool, tokens_BT: Tensor) -> Outputs | None:
    """What transformers' own class says with a directory's weights; None where transformers is not installed.

    several: the class chooses among several sequences, and wants a dimension more.
    """
    try:
        import transformers
    except ImportError:
        return None
    progress: Any = transformers.utils.logging
    progress.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is only asked for numbers
        theirs: Any = getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        out = theirs.eval()(tokens_BT[None] if several else tokens_BT)
    return {name: values.float() for name, values in out.items() if isinstance(values, Tensor)}
