"""A model is a Hugging Face directory: written so that transformers opens it, read whether it is ours or theirs."""

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foretell.base.errors import ModelError
from foretell.base.files import damaged_files
from foretell.base.records import dump, read_json
from foretell.interop.names import from_hugging_face, to_hugging_face
from foretell.models.config import PRESETS, ModelConfig
from foretell.models.gpt import GPT
from foretell.tokenizers.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"


def save_model(folder: Path, model: GPT, tokenizer: Tokenizer, weights: dict[str, Tensor] | None = None) -> None:
    """Write config, weights (fp32), tokenizer and generation config into an existing folder.

    weights: our state dict, when it is not what the model holds (the fp32 masters of a bf16 run).
    """
    config = model.config
    tensors = to_hugging_face(weights if weights is not None else dict(model.state_dict()), config)
    save_file({name: tensor.float().cpu() for name, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes 0600
    end = tokenizer.end_of_text
    (folder / "config.json").write_text(dump(config_to_hugging_face(config, end), indent=2), encoding="utf-8")
    generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "do_sample": False}
    (folder / "generation_config.json").write_text(dump(generation, indent=2), encoding="utf-8")
    tokenizer.save(folder, context_length=config.context_length)


def write_provenance(folder: Path, facts: dict[str, Any]) -> None:
    """foretell.json: what Hugging Face's files have no word for."""
    version = importlib.metadata.version("foretell")
    (folder / "foretell.json").write_text(dump({"format": 1, "foretell": version, **facts}, indent=2), encoding="utf-8")


def load_config(folder: Path) -> ModelConfig:
    """Read config.json. Raises ModelError for an unknown architecture or an option that we do not have."""
    if not folder.is_dir():
        raise ModelError("there is no model directory here", where=str(folder), cure="give the folder that holds config.json")
    return config_from_hugging_face(read_json(folder / "config.json"), str(folder / "config.json"))


def load_model(folder: Path) -> GPT:
    """Read a model directory, ours or theirs, in fp32. Digests are verified where the directory has them."""
    config = load_config(folder)
    for damage in damaged_files(folder)[:1]:
        raise ModelError(
            f"the model is not what was saved: {damage}", where=str(folder), cure="restore the folder from a copy or its run"
        )
    model = GPT(config)
    load_weights(model, from_hugging_face(read_tensors(folder), config, str(folder)), str(folder))
    return model.eval()


def load_weights(model: GPT, weights: dict[str, Tensor], where: str) -> None:
    """Put a state dict of ours into a model. Raises ModelError naming the first tensor of another shape."""
    own = model.state_dict()
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, the config says {list(own[name].shape)}"
            raise ModelError(
                f"the tensor {name} has shape {shapes}", where=where, cure="check that config.json belongs to these weights"
            )
    model.load_state_dict(weights, strict=not model.config.tied)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a directory: one safetensors file, or several with an index. Never a pickle."""
    index = folder / f"{WEIGHTS}.index.json"
    names: Iterable[str] = sorted(set(read_json(index)["weight_map"].values())) if index.exists() else [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        path = folder / Path(name).name
        if not path.is_file():
            raise ModelError(
                "the weights are missing", where=str(path), cure="put the safetensors file there; pickles are not read"
            )
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"the weights cannot be read: {error}", where=str(path), cure="restore the file from a copy"
            ) from error
    return tensors


COMMON = {"vocab_size": "vocab_size", "tied": "tie_word_embeddings"}
WORDS: dict[str, dict[str, str]] = {  # model_type → our word → theirs; read in both directions
    "gpt2": COMMON | {
        "context_length": "n_positions", "d_model": "n_embd", "n_layer": "n_layer", "n_head": "n_head", "d_ff": "n_inner",
        "norm_eps": "layer_norm_epsilon",
    },
    "qwen3": COMMON | {
        "context_length": "max_position_embeddings", "d_model": "hidden_size", "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads", "d_head": "head_dim", "d_ff": "intermediate_size",
        "norm_eps": "rms_norm_eps", "rope_theta": "rope_theta",
    },
}  # fmt: skip
PRESET_OF = {"gpt2": "gpt2", "qwen3": "modern"}
FIXED: dict[str, dict[str, Any]] = {  # what these layouts always are here; another value would change the result
    "gpt2": {"activation_function": "gelu_new", "scale_attn_by_inverse_layer_idx": False},
    "qwen3": {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
}


def config_to_hugging_face(config: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """Our config in the words of GPT2Config or Qwen3Config."""
    kind = "gpt2" if config.preset == "gpt2" else "qwen3"
    raw = {theirs: getattr(config, ours) for ours, theirs in WORDS[kind].items()} | FIXED[kind]
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end_of_text)
    if kind == "gpt2":
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
        own = {"architectures": ["GPT2LMHeadModel"], "n_ctx": config.context_length, **dropouts}
    else:
        rope = {"rope_type": "default", "rope_theta": config.rope_theta}
        own = {"architectures": ["Qwen3ForCausalLM"], "rope_parameters": rope, "attention_dropout": config.dropout}
    return {"model_type": kind, **own, **raw, **ids, "dtype": "float32", "torch_dtype": "float32", "use_cache": True}


def config_from_hugging_face(raw: dict[str, Any], where: str) -> ModelConfig:
    """Their config in our words. Options that would change the result and that we do not have are refused by name."""
    kind = raw.get("model_type")
    if kind not in WORDS:
        raise ModelError(f"the architecture {kind!r} is not known here", where=where, cure=f"supported: {', '.join(WORDS)}")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    fixed = FIXED[kind] | {"rope_type": "default"}
    for name, value in (raw | {"rope_type": rope.get("rope_type", rope.get("type", "default"))}).items():
        if fixed.get(name, value) not in (value, value or False):
            raise ModelError(f"{name} = {value!r} is not supported", where=where, cure=f"only {name} = {fixed[name]!r} is")
    raw = raw | {"rope_theta": rope.get("rope_theta", raw.get("rope_theta", 10_000.0))}
    given = {ours: raw[theirs] for ours, theirs in WORDS[kind].items() if raw.get(theirs) is not None}
    preset = PRESETS[PRESET_OF[kind]] | {"tied": kind == "gpt2"}  # what transformers takes where config.json is silent
    try:
        width, heads = given["d_model"], given["n_head"]
        derived = {"n_kv_head": heads, "d_head": width // heads, "d_ff": 4 * width}
        return ModelConfig.model_validate({"preset": PRESET_OF[kind], **preset, **derived, **given})
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"config.json lacks or misstates a value: {error}", where=where, cure="restore it from the model's source"
        ) from error
