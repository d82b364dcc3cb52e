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


def config_to_hugging_face(config: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """Our config in the words of GPT2Config or Qwen3Config."""
    common = {
        "vocab_size": config.vocab_size, "bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text,
        "tie_word_embeddings": config.tied, "dtype": "float32", "torch_dtype": "float32", "use_cache": True,
    }  # fmt: skip
    if config.preset == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": config.context_length, "n_ctx": config.context_length,
            "n_embd": config.d_model, "n_layer": config.n_layer, "n_head": config.n_head, "n_inner": config.d_ff,
            "activation_function": "gelu_new", "layer_norm_epsilon": config.norm_eps, "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout, "attn_pdrop": config.dropout, **common,
        }  # fmt: skip
    return {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model, "intermediate_size": config.d_ff, "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head, "num_key_value_heads": config.n_kv_head, "head_dim": config.d_head,
        "hidden_act": "silu", "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}, "attention_dropout": config.dropout,
        "use_sliding_window": False, **common,
    }  # fmt: skip


def config_from_hugging_face(raw: dict[str, Any], where: str) -> ModelConfig:
    """Their config in our words. Options that would change the result and that we do not have are refused by name."""
    kind = raw.get("model_type")
    if kind not in ("gpt2", "qwen3"):
        raise ModelError(f"the architecture {kind!r} is not known here", where=where, cure="supported: gpt2, qwen3")
    gpt2 = kind == "gpt2"
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    unsupported = {
        "scale_attn_by_inverse_layer_idx": bool(raw.get("scale_attn_by_inverse_layer_idx")),
        "activation_function": gpt2 and raw.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"),
        "hidden_act": not gpt2 and raw.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(raw.get("attention_bias")),
        "use_sliding_window": bool(raw.get("use_sliding_window")),
        "rope_type": rope.get("rope_type", rope.get("type", "default")) != "default",
    }
    for name in (name for name, present in unsupported.items() if present):
        raise ModelError(f"{name} = {raw.get(name, rope)} is not supported", where=where, cure="use a model without this option")
    try:
        return _gpt2_config(raw) if gpt2 else _qwen3_config(raw, rope)
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"config.json lacks or misstates a value: {error}", where=where, cure="restore it from the model's source"
        ) from error


def _gpt2_config(raw: dict[str, Any]) -> ModelConfig:
    heads, width = raw["n_head"], raw["n_embd"]
    values: dict[str, Any] = PRESETS["gpt2"] | {
        "context_length": raw["n_positions"], "norm_eps": raw.get("layer_norm_epsilon", 1e-5), "tied": raw.get("tie_word_embeddings", True),
    }  # fmt: skip
    return ModelConfig(
        preset="gpt2", vocab_size=raw["vocab_size"], n_layer=raw["n_layer"], n_head=heads, n_kv_head=heads, d_model=width,
        d_head=width // heads, d_ff=raw.get("n_inner") or 4 * width, **values,
    )  # fmt: skip


def _qwen3_config(raw: dict[str, Any], rope: dict[str, Any]) -> ModelConfig:
    heads, width = raw["num_attention_heads"], raw["hidden_size"]
    values: dict[str, Any] = PRESETS["modern"] | {
        "context_length": raw["max_position_embeddings"], "norm_eps": raw.get("rms_norm_eps", 1e-6),
        "tied": raw.get("tie_word_embeddings", False),
    }  # fmt: skip
    return ModelConfig(
        preset="modern", vocab_size=raw["vocab_size"], n_layer=raw["num_hidden_layers"], n_head=heads,
        n_kv_head=raw.get("num_key_value_heads", heads), d_model=width, d_head=raw.get("head_dim", width // heads),
        d_ff=raw["intermediate_size"], rope_theta=rope.get("rope_theta", raw.get("rope_theta", 10_000.0)), **values,
    )  # fmt: skip
