"""Parity with transformers, one row for each class, shape and direction: `python benchmarks/parity.py` prints the table.

Random weights, fp32, the same tokens: the largest difference of any output. `theirs`: transformers saves, Foretell opens;
`ours`: Foretell saves, transformers opens. Padding on the left and on the right where the architecture allows it. The tests run
every row and hold it to 1e-5.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretell.interop.huggingface import load_any, save_model
from foretell.models.heads import TaskModel

LIMIT, VOCABULARY, LENGTH, PAD = 1e-5, 97, 24, 0
GPT = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": PAD}
SHAPES: dict[str, list[dict[str, Any]]] = {
    "gpt2": [
        {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 32},
        {"n_layer": 3, "n_embd": 60, "n_head": 3, "n_inner": 100, "n_positions": 40, "activation_function": "relu"},
        {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 24, "activation_function": "gelu", "tie_word_embeddings": False},
    ],
    "openai-gpt": [
        {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 32},
        {"n_layer": 3, "n_embd": 60, "n_head": 3, "n_positions": 40, "afn": "relu"},
        {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 24, "afn": "silu"},
    ],
    "gpt_neo": [
        {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 5},
        {"num_layers": 3, "hidden_size": 60, "num_heads": 3, "attention_types": [[["local"], 3]], "window_size": 9},
        {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "attention_types": [[["global"], 2]], "intermediate_size": 70},
    ],
    "llama": [
        {"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 1}
        | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "max_position_embeddings": 64}
        | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
        {"hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
           | {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}, "max_position_embeddings": 128},
    ],
    "mistral": [
        {"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"sliding_window": 7},
        {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 1}
        | {"sliding_window": None},
        {"hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        | {"sliding_window": 3, "head_dim": 24},
    ],
    "qwen2": [
        {"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 3}
        | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16}}
        | {"max_position_embeddings": 64, "tie_word_embeddings": True},
        {"hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
        | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ],
    "qwen3": [
        {"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"head_dim": 32},
        {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 1}
        | {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
        {"hidden_size": 32, "intermediate_size": 70, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
        | {"head_dim": 16, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0}},
    ],
    "bert": [
        {"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4},
        {"hidden_size": 60, "intermediate_size": 240, "num_hidden_layers": 3, "num_attention_heads": 3, "hidden_act": "gelu_new"},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        | {"max_position_embeddings": 24},
    ],
}  # fmt: skip
CLASSES = {
    "gpt2": "GPT2LMHeadModel GPT2ForSequenceClassification GPT2ForTokenClassification GPT2ForQuestionAnswering "
    "GPT2DoubleHeadsModel",
    "openai-gpt": "OpenAIGPTLMHeadModel OpenAIGPTForSequenceClassification OpenAIGPTDoubleHeadsModel",
    "gpt_neo": "GPTNeoForCausalLM GPTNeoForSequenceClassification GPTNeoForTokenClassification GPTNeoForQuestionAnswering",
    "llama": "LlamaForCausalLM LlamaForSequenceClassification LlamaForTokenClassification LlamaForQuestionAnswering",
    "mistral": "MistralForCausalLM MistralForSequenceClassification MistralForTokenClassification MistralForQuestionAnswering",
    "qwen2": "Qwen2ForCausalLM Qwen2ForSequenceClassification Qwen2ForTokenClassification Qwen2ForQuestionAnswering",
    "qwen3": "Qwen3ForCausalLM Qwen3ForSequenceClassification Qwen3ForTokenClassification Qwen3ForQuestionAnswering",
    "bert": "BertForPreTraining BertForMaskedLM BertForNextSentencePrediction BertForSequenceClassification "
    "BertForTokenClassification BertForQuestionAnswering BertForMultipleChoice BertModel",
}


@dataclass(frozen=True)
class Case:
    """One row: a class of transformers, a shape of it, and a direction."""

    family: str
    architecture: str
    shape: int
    direction: str

    def __str__(self) -> str:
        return f"{self.architecture}-{self.shape}-{self.direction}"

    @property
    def paddings(self) -> tuple[str, ...]:
        """An encoder's positions do not follow the padding in transformers: on its left there is no same answer."""
        return ("none", "right") if self.family == "bert" else ("none", "right", "left")


def cases() -> Iterator[Case]:
    """All rows, generated from the tables above."""
    for family, names in CLASSES.items():
        for architecture, shape, direction in product(names.split(), range(len(SHAPES[family])), ("theirs", "ours")):
            yield Case(family, architecture, shape, direction)


def differences(case: Case, folder: Path) -> dict[str, float]:
    """For each padding the largest difference of any output at any kept token, after the weights went through a directory."""
    import transformers

    theirs = _random_theirs(case, transformers)
    theirs.save_pretrained(folder / "theirs")
    ours = load_any(folder / "theirs")
    if case.direction == "ours":
        (folder / "ours").mkdir()
        ours = _shaken(ours, seed=5)
        save_model(folder / "ours", ours, tokenizer=None)
        [name] = json.loads((folder / "ours" / "config.json").read_text())["architectures"]
        theirs = getattr(transformers, name).from_pretrained(folder / "ours", attn_implementation="eager").eval()
        theirs.config.pad_token_id = PAD  # usually the tokenizer's, of which there is none here
    found: dict[str, float] = {}
    for padding in case.paddings:
        tokens_BT, keep_BT = _tokens(padding)
        keep = None if padding == "none" else keep_BT
        with torch.no_grad():
            pairs = list(_outputs(case, ours, theirs, tokens_BT, keep_BT, keep))
        found[padding] = max(float((mine - other).abs().max()) for mine, other in pairs)
    return found


def _random_theirs(case: Case, transformers: Any) -> Any:
    words: dict[str, Any] = {**GPT, **SHAPES[case.family][case.shape], "attn_implementation": "eager"}
    if case.architecture.endswith(("SequenceClassification", "TokenClassification")):
        words["num_labels"] = 3
    config = transformers.AutoConfig.for_model(case.family, **words)
    torch.manual_seed(case.shape)
    return _shaken(getattr(transformers, case.architecture)(config).eval(), seed=4)


def _shaken(model: Any, seed: int) -> Any:
    """Zeros and ones would hide a wrong place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def _tokens(padding: str) -> tuple[Tensor, Tensor]:
    tokens_BT = torch.randint(2, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(7))
    keep_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
    for row, pad in enumerate((0, 5, 11) if padding != "none" else ()):
        places = slice(0, pad) if padding == "left" else slice(LENGTH - pad, LENGTH)
        keep_BT[row, places] = False
        tokens_BT[row, places] = PAD
    return tokens_BT, keep_BT


def _outputs(
    case: Case, ours: Any, theirs: Any, tokens_BT: Tensor, keep_BT: Tensor, keep: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of outputs, ours and theirs, where both say something."""
    mask, positions_BT = keep_BT.long(), (keep_BT.cumsum(1) - 1).clamp(min=0)
    if case.family == "bert":
        segments_BT = (torch.arange(LENGTH) > LENGTH // 3).long().expand_as(tokens_BT)
        more = {"attention_mask": mask, "token_type_ids": segments_BT}
        if case.architecture == "BertForMultipleChoice":
            more = {name: value[None] for name, value in more.items()}
            out = theirs(tokens_BT[None], **more)
        else:
            out = theirs(tokens_BT, **more)
        yield from _bert(ours, out, tokens_BT, segments_BT, keep, keep_BT)
        return
    last_B = (torch.arange(LENGTH) * keep_BT).argmax(1)
    if "DoubleHeads" in case.architecture:
        out = theirs(tokens_BT[None], attention_mask=mask, position_ids=positions_BT, mc_token_ids=last_B[None])
        yield ours(tokens_BT, keep_BT=keep)[:, 0], out.mc_logits[0]
        yield ours.body.logits(tokens_BT, keep_BS=keep)[keep_BT], out.logits[0][keep_BT]
        return
    out = theirs(tokens_BT, attention_mask=mask, position_ids=positions_BT)
    if isinstance(ours, TaskModel):
        mine = ours(tokens_BT, keep_BT=keep)
        yield from _task(ours, mine, out, keep_BT)
    else:
        yield ours.logits(tokens_BT, keep_BS=keep)[keep_BT], out.logits[keep_BT]


def _bert(
    ours: Any, out: Any, tokens_BT: Tensor, segments_BT: Tensor, keep: Tensor | None, keep_BT: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(ours, TaskModel):
        yield from _task(ours, ours(tokens_BT, segments_BT, keep), out, keep_BT)
        return
    hidden_BTD = ours(tokens_BT, segments_BT, keep)
    if "prediction_logits" in out:
        yield ours.masked_logits(hidden_BTD)[keep_BT], out.prediction_logits[keep_BT]
        yield ours.next_sentence_logits(hidden_BTD), out.seq_relationship_logits
    elif "last_hidden_state" in out:
        yield hidden_BTD[keep_BT], out.last_hidden_state[keep_BT]
        yield ours.pooled(hidden_BTD), out.pooler_output
    elif out.logits.ndim == 2:
        yield ours.next_sentence_logits(hidden_BTD), out.logits
    else:
        yield ours.masked_logits(hidden_BTD)[keep_BT], out.logits[keep_BT]


def _task(ours: TaskModel, mine: Tensor, out: Any, keep_BT: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    kind = ours.head_config.kind
    if kind == "spans":
        yield mine[..., 0][keep_BT], out.start_logits[keep_BT]
        yield mine[..., 1][keep_BT], out.end_logits[keep_BT]
    elif kind == "tokens":
        yield mine[keep_BT], out.logits[keep_BT]
    else:
        yield mine, out.logits if kind != "choice" else out.logits.view(-1, 1)


def main() -> None:
    """Print the table: the worst row of each class and direction."""
    import transformers

    print(f"transformers {transformers.__version__}, torch {torch.__version__}, fp32, limit {LIMIT:g}\n")
    print("| class | shapes | padding | transformers → Foretell | Foretell → transformers |\n|---|--:|---|--:|--:|")
    worst: dict[tuple[str, str], float] = {}
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            key = (case.architecture, case.direction)
            worst[key] = max(worst.get(key, 0.0), *differences(case, Path(folder)).values())
    for case in cases():
        if (case.shape, case.direction) == (0, "theirs"):
            values = " | ".join(f"{worst[case.architecture, direction]:.1e}" for direction in ("theirs", "ours"))
            print(f"| {case.architecture} | {len(SHAPES[case.family])} | {', '.join(case.paddings)} | {values} |")
    rows, failed = sum(len(case.paddings) for case in cases()), sum(value > LIMIT for value in worst.values())
    print(f"\n{rows} comparisons, {failed} above the limit, largest difference {max(worst.values()):.1e}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
