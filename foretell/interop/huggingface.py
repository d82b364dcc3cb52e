"""A model is a Hugging Face directory: written so that transformers opens it, read whether it is ours or theirs."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foretell import __version__
from foretell.base.errors import ModelError
from foretell.base.files import damaged_files
from foretell.base.records import dump, read_json
from foretell.compute.device import default_device
from foretell.interop.names import from_hugging_face, layouts, to_hugging_face
from foretell.models.config import ModelConfig, presets
from foretell.models.gpt import GPT
from foretell.tokenizers.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"


def save_model(folder: Path, model: GPT, tokenizer: Tokenizer, weights: dict[str, Tensor] | None = None) -> None:
    """Write config, weights (fp32), tokenizer and generation config into an existing folder.

    weights: our state dict, when it is not what the model holds (the fp32 masters of a bf16 run).
    """
    config, ids = model.config, dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.end_of_text)
    tensors = to_hugging_face(weights if weights is not None else model.state_dict(), config)
    save_file({name: tensor.float().cpu() for name, tensor in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes 0600
    for name, content in (("config", config_to_hugging_face(config)), ("generation_config", {"do_sample": False})):
        (folder / f"{name}.json").write_text(dump(content | ids, indent=2), encoding="utf-8")
    tokenizer.save(folder, context_length=config.context_length)


def write_provenance(folder: Path, facts: dict[str, Any]) -> None:
    """foretell.json: what Hugging Face's files have no word for."""
    (folder / "foretell.json").write_text(dump({"format": 1, "foretell": __version__, **facts}, indent=2), encoding="utf-8")


def load_config(folder: Path) -> ModelConfig:
    """Read config.json. Raises ModelError for an unknown architecture or an option that we do not have."""
    if not folder.is_dir():
        raise ModelError("there is no model directory here", where=str(folder), cure="give the folder that holds config.json")
    return config_from_hugging_face(read_json(folder / "config.json"), str(folder / "config.json"))


def load_model(folder: Path) -> GPT:
    """Read a model directory, ours or theirs, in fp32. Digests are verified where the directory has them."""
    config = load_config(folder)
    if damaged := damaged_files(folder):
        what, cure = f"the model is not what was saved: {damaged[0]}", "restore the folder from a copy or its run"
        raise ModelError(what, where=str(folder), cure=cure)
    model = GPT(config)
    load_weights(model, from_hugging_face(read_tensors(folder), config, str(folder)), str(folder))
    return model.eval()


def open_model(folder: Path) -> tuple[GPT, Tokenizer]:
    """A directory's model, on the best device, and its tokenizer."""
    return load_model(folder).to(default_device()), Tokenizer.load(folder)


def load_weights(model: GPT, weights: dict[str, Tensor], where: str) -> None:
    """Put a state dict of ours into a model. Raises ModelError naming the first tensor of another shape."""
    own = model.state_dict()
    for name, tensor in weights.items():
        if own[name].shape != tensor.shape:
            what = f"the tensor {name} has shape {list(tensor.shape)}, the config says {list(own[name].shape)}"
            raise ModelError(what, where=where, cure="check that config.json belongs to these weights")
    model.load_state_dict(weights, strict=not model.config.tied)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a directory: one safetensors file, or several with an index. Never a pickle."""
    index, tensors = folder / f"{WEIGHTS}.index.json", dict[str, Tensor]()
    for name in sorted(set(read_json(index)["weight_map"].values())) if index.exists() else [WEIGHTS]:
        path = folder / Path(name).name  # an index from a stranger may not lead out of the folder
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError) as error:
            what = "the weights are missing" if isinstance(error, FileNotFoundError) else f"the weights cannot be read: {error}"
            raise ModelError(what, where=str(path), cure="put the whole safetensors file there; pickles are not read") from error
    return tensors


def config_to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """Our config in the words of GPT2Config or Qwen3Config."""
    layout = layouts()[config.preset]
    raw = {"model_type": layout["model_type"], "architectures": [layout["architecture"]], "use_cache": True, **layout["fixed"]}
    raw |= {theirs: getattr(config, ours) for ours, theirs in layout["words"].items()}
    raw |= dict.fromkeys(("dtype", "torch_dtype"), "float32")
    if config.preset == "gpt2":
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout)
        return raw | {"n_ctx": config.context_length} | dropouts
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    return raw | {"rope_parameters": rope, "attention_dropout": config.dropout}


def config_from_hugging_face(raw: dict[str, Any], where: str) -> ModelConfig:
    """Their config in our words. Options that would change the result and that we do not have are refused by name."""
    known, kind = {layout["model_type"]: preset for preset, layout in layouts().items()}, raw.get("model_type")
    if kind not in known:
        raise ModelError(f"the architecture {kind!r} is not known here", where=where, cure=f"supported: {', '.join(known)}")
    preset, rope = known[kind], raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    raw = {"rope_theta": 10_000.0, **raw, "rope_type": rope.get("type"), **rope}
    for name, only in (layouts()[preset]["fixed"] | {"rope_type": "default"}).items():
        if raw.get(name) not in (None, only):
            raise ModelError(f"{name} = {raw[name]!r} is not supported", where=where, cure=f"only {name} = {only!r} is")
    given = {ours: raw[theirs] for ours, theirs in layouts()[preset]["words"].items() if raw.get(theirs) is not None}
    try:
        width, heads = given["d_model"], given["n_head"]
        silent = {"tied": preset == "gpt2", "n_kv_head": heads, "d_head": width // heads, "d_ff": 4 * width}  # their defaults
        return ModelConfig.model_validate({"preset": preset, **presets()[preset], **silent, **given})
    except (KeyError, ValueError) as error:
        what, cure = f"config.json lacks or misstates a value: {error}", "restore it from the model's source"
        raise ModelError(what, where=where, cure=cure) from error
