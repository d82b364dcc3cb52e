"""GGUF, the file of llama.cpp: read into Hugging Face's words, and written from them."""

import errno
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretell.base.errors import ModelError, SettingError
from foretell.base.files import read_text
from foretell.interop.foreign import Foreign
from foretell.interop.gguf_header import WHOLE, Header, gguf_library, read_header
from foretell.interop.gguf_tokenizer import read_tokenizer, write_tokenizer

DTYPES = {"f32": ("F32", 0), "f16": ("F16", 1), "bf16": ("BF16", 32), "q8_0": ("Q8_0", 7)}  # GGML's type, llama.cpp's file_type
EPSILONS = ("rms_norm_eps", "layer_norm_epsilon")  # the words whose value is no whole number
LAYER = re.compile(r"\.(0|[1-9][0-9]{0,4})\.")
TURNED = re.compile(r"blk\.[0-9]+\.attn_[qk]\.")
# Words that change nothing here; any other that we do not read might, and is refused.
INERT = {"vocab_size", "attention.value_length", "tensor_data_layout", "pooling_type", "rope.scaling.original_context_length"}
ROPE = {"rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor"}
FREQUENCIES = "rope_freqs.weight"  # Llama 3's scaling: by how much each pair of coordinates turns more slowly
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # in all its releases


@dataclass(frozen=True)
class Written:
    """What an exporter tells: the size of what it wrote, and what the user should know."""

    size_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Tensors(Mapping[str, Tensor]):
    """A file's tensors under transformers' names, dequantised to fp32 one at a time, when asked for."""

    header: Header
    names: dict[str, str]
    head_dim: int

    def __getitem__(self, name: str) -> Tensor:
        own, architecture = self.names[name], self.header.required("general.architecture", str)
        return _turned(torch.from_numpy(self.header.values(own)), own, architecture, (self.head_dim // 2, 2))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def read_gguf(path: Path) -> Foreign:
    """Open a GGUF file; its tensors stay in it until they are asked for. Raises ModelError."""
    header = read_header(path)
    config, layout = _read_config(header)
    modules = {own: theirs for theirs, own in layout["modules"].items()}
    names = {_renamed(name, modules, header.where): name for name in header.entries if name != FREQUENCIES}
    return Foreign(
        config, _Tensors(header, names, config.get("head_dim", 2)), read_tokenizer(header, config["vocab_size"]), header.where
    )


def write_gguf(foreign: Foreign, path: Path, dtype: str = "f16") -> Written:
    """Write a model to a path that the caller renames, one tensor in memory at a time.

    dtype: f32, f16, bf16 or q8_0, of the matrices; vectors and positions are fp32. Raises ModelError for what GGUF cannot say.
    """
    if dtype not in DTYPES:
        raise SettingError(f"GGUF is not written as {dtype}", where="dtype", cure=f"choose one of: {', '.join(DTYPES)}")
    library, config, where = gguf_library(foreign.where), foreign.config, foreign.where
    if (kind := config.get("model_type")) not in (known := _tables()["families"]):
        cure = f"supported: {', '.join(known)}"
        raise ModelError(f"there is no GGUF layout here for the model type {kind}", where=where, cure=cure)
    cure = "export it to Hugging Face's layout (--to hf)"
    if (window := config.get("sliding_window")) and window < config["max_position_embeddings"] and kind == "mistral":
        what = f"llama.cpp attends to all tokens here, not only to the last {window} as this model does"
        raise ModelError(what, where=where, cure=cure)
    if kind == "qwen3" and config.get("attention_bias"):
        raise ModelError("llama.cpp has no place for the biases of this Qwen3 model", where=where, cure=cure)
    if foreign.tokenizer is None:
        raise ModelError("the model has no tokenizer, and llama.cpp needs one", where=where, cure="put tokenizer.json beside it")
    layout, writer = _tables()[known[kind][2]], library.GGUFWriter(None, known[kind][0])
    writer.add_name(Path(where).name.removesuffix(".gguf"))
    writer.add_file_type(DTYPES[dtype][1])
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    head_dim, factors = _write_config(writer, config, layout, where)
    names = {_renamed(name, layout["modules"], where): name for name in foreign.tensors}
    if config.get("tie_word_embeddings", kind == "gpt2"):
        names.pop("output.weight", None)
    sources: dict[str, Callable[[], Tensor]] = {
        name: partial(_source, foreign, theirs, name, writer.arch, head_dim) for name, theirs in names.items()
    }
    if factors is not None:
        sources[FREQUENCIES] = lambda: factors
    rows = len(sources["token_embd.weight"]())
    writer.add_vocab_size(rows)
    notes = write_tokenizer(writer, foreign.tokenizer, rows, where)
    if window and kind == "mistral":
        writer.add_sliding_window(window)
    notes += _write_tensors(writer, sources, path, dtype, where)
    return Written(path.stat().st_size, tuple(notes))


def _write_tensors(writer: Any, sources: dict[str, Callable[[], Tensor]], path: Path, dtype: str, where: str) -> list[str]:
    """Write the file, every tensor being asked for twice: for its shape, which stands in the header, and for its values."""
    library, kinds, plain = gguf_library(where), {}, 0
    for name, source in sources.items():
        shape = tuple(source().shape)
        chosen = "F32" if len(shape) == 1 or name == "position_embd.weight" else DTYPES[dtype][0]
        if chosen == "Q8_0" and shape[-1] % 32:
            chosen, plain = "F16", plain + 1
        kinds[name] = library.GGMLQuantizationType[chosen]
        block, size = library.GGML_QUANT_SIZES[kinds[name]]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * size, raw_dtype=kinds[name])
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, source in sources.items():
            with np.errstate(over="ignore"):
                values = library.quants.quantize(source().numpy(), kinds[name])
            if kinds[name].name == "F16" and not np.isfinite(values).all():
                raise ModelError(f"{name} has values beyond F16's 65504", where=where, cure="write bf16 or f32")
            writer.write_tensor_data(values)
    except OSError as error:
        if error.errno is None:  # numpy does not say that the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    finally:
        writer.close()
    return [f"{plain} tensors are F16: their rows are no multiples of 32"] if plain else []


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(read_text(Path(__file__).with_name("gguf.toml")))


def _renamed(name: str, modules: dict[str, str], where: str) -> str:
    """A tensor's name in the other layout. Raises ModelError."""
    module, _, kind = LAYER.sub(".#.", name, count=1).rpartition(".")
    if module not in modules or kind not in ("weight", "bias"):
        cure = f"supported are dense models of: {', '.join(_tables()['families'])}"
        raise ModelError(f"the tensor {name} has no place in this architecture", where=where, cure=cure)
    layer = LAYER.search(name)
    return f"{modules[module]}.{kind}".replace("#", layer[1] if layer else "#")


def _turned(tensor: Tensor, name: str, architecture: str, pairs: tuple[int, int]) -> Tensor:
    """GGUF has GPT-2's matrices as [out, in], and of Llama's queries and keys the two of a rotary pair side by side.

    pairs: how the rows of a head lie before they are turned: two halves, or pairs.
    """
    if architecture == "gpt2" and name.startswith("blk.") and tensor.dim() == 2:
        return tensor.t().contiguous()
    if architecture == "llama" and TURNED.match(name):
        return tensor.reshape(-1, *pairs, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    return tensor


def _source(foreign: Foreign, theirs: str, name: str, architecture: str, head_dim: int) -> Tensor:
    tensor = foreign.tensors[theirs].detach().float().cpu()
    if TURNED.match(name) and len(tensor) % head_dim:
        cure = "check that config.json belongs to these weights"
        raise ModelError(f"{theirs} has no whole heads of {head_dim} rows", where=foreign.where, cure=cure)
    return _turned(tensor, name, architecture, (2, head_dim // 2)).contiguous()


def _read_config(header: Header) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of config.json, and the layout. Raises ModelError for what it has no word for."""
    architecture, entries, families = header.required("general.architecture", str), header.entries, _tables()["families"]
    kinds = [kind for kind, (own, *_) in families.items() if own == architecture]
    if not kinds or (parts := header.metadata.get("split.count", 1)) != 1:
        what = f"this is one of {parts} parts of a model" if kinds else f"the architecture {architecture} is not known here"
        cure = "join them with llama-gguf-split --merge" if kinds else f"supported: {', '.join(families)}"
        raise ModelError(what, where=header.where, cure=cure)
    window = header.optional(f"{architecture}.attention.sliding_window", int)
    kind = "mistral" if window and window > 0 and "mistral" in kinds else kinds[0]
    layout = _tables()[families[kind][2]]
    config = {"model_type": kind, "architectures": [families[kind][1]], **layout["fixed"]}
    for word, key in layout["words"].items():
        value = header.optional(f"{architecture}.{key}", float if word in EPSILONS else int)
        if value is None and word == "num_key_value_heads":
            value = config["num_attention_heads"]
        elif value is None and word == "head_dim":
            value = config["hidden_size"] // config["num_attention_heads"]
        if value is None or not 0 < value < 2**31:
            raise ModelError(f"{architecture}.{key} is {value}", where=header.where, cure=WHOLE)
        config[word] = value
    known = {*layout["words"].values(), *INERT, *(ROPE if "head_dim" in config else ())}
    known |= {"attention.sliding_window"} if kind == "mistral" else set()
    for key, value in header.metadata.items():
        if key.startswith(f"{architecture}.") and key.partition(".")[2] not in known and not (np.isscalar(value) and not value):
            cure = "use a model of this architecture without it"
            raise ModelError(f"{key} = {value} is not supported", where=header.where, cure=cure)
    _hold_against_tensors(header, config, layout)
    if "head_dim" in config:
        config["rope_parameters"] = _read_rope(header, architecture, config["head_dim"])
    if kind in ("llama", "qwen3"):
        config["attention_bias"] = "blk.0.attn_q.bias" in entries
    if kind == "mistral":
        config["sliding_window"] = window
    for role in ("bos", "eos"):
        if (token := header.optional(f"tokenizer.ggml.{role}_token_id", int)) is not None:
            config[f"{role}_token_id"] = token
    config |= {"vocab_size": entries["token_embd.weight"].shape[0], "tie_word_embeddings": "output.weight" not in entries}
    return config, layout


def _hold_against_tensors(header: Header, config: dict[str, Any], layout: dict[str, Any]) -> None:
    """Every number that sizes a model must be that of a tensor, or a claim could cost any memory. Raises ModelError."""
    entries, names = header.entries, [*layout["rows"], "token_embd.weight"]
    wrong = [f"the tensor {name} is missing" for name in names if name not in entries]
    for name, words in layout["rows"].items() if not wrong else ():
        if (rows := entries[name].shape[0]) != (says := math.prod(config[word] for word in words)):
            wrong.append(f"the tensor {name} has {rows} rows, the metadata say {says}")
    layers = {int(layer[1]) for name in entries if (layer := LAYER.search(name))}
    if len(layers) != (count := config.get("num_hidden_layers") or config["n_layer"]) or layers != set(range(len(layers))):
        wrong.append(f"there are tensors of {len(layers)} layers, the metadata say {count}")
    head_dim = config.get("head_dim", 2)
    turned = [name for name in entries if TURNED.match(name) and entries[name].shape[0] % head_dim]
    wrong += [f"the tensor {name} has no whole heads of {head_dim} rows" for name in turned]
    if wrong:
        raise ModelError(wrong[0], where=header.where, cure=WHOLE)


def _read_rope(header: Header, architecture: str, head_dim: int) -> dict[str, Any]:
    """The content of rope_parameters. Llama 3's scaling is recognised by its frequencies, as no word of the metadata tells it."""
    key, theta = f"{architecture}.rope", header.optional(f"{architecture}.rope.freq_base", float) or 10_000.0
    kind, rope = header.optional(f"{key}.scaling.type", str) or "none", {"rope_type": "default", "rope_theta": theta}
    factor = header.required(f"{key}.scaling.factor", float) if kind == "linear" else 1.0
    fits = kind in ("none", "linear") and header.optional(f"{key}.dimension_count", int) in (None, head_dim)
    fits &= 0 < theta < math.inf and 0 < factor < math.inf
    if kind == "linear":
        rope |= {"rope_type": "linear", "factor": factor}
    if FREQUENCIES in header.entries:
        found = torch.from_numpy(header.values(FREQUENCIES))
        rope |= {"rope_type": "llama3", "factor": float(found.max()), **LLAMA3}
        fits &= kind == "none" and 2 * len(found) == head_dim and torch.allclose(found, _slower(rope, head_dim), rtol=1e-3)
    if not fits:
        cure = "supported: the whole head turned, unscaled, linear, or Llama 3's scaling as in its releases"
        raise ModelError("these rotary positions are not supported", where=header.where, cure=cure)
    return rope


def _slower(rope: dict[str, Any], head_dim: int) -> Tensor:
    """(K/2,) by how much Llama 3's scaling slows each rotary pair: the long waves by `factor`, the short ones not at all."""
    wave = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, head_dim, 2) / head_dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((rope["original_max_position_embeddings"] / wave - low) / (high - low)).clamp(0, 1)
    slower: Tensor = 1 / ((1 - kept) / rope["factor"] + kept)
    return slower


def _write_config(writer: Any, config: dict[str, Any], layout: dict[str, Any], where: str) -> tuple[int, Tensor | None]:
    """Put the metadata of the architecture; gives the width of a head (2 without rotary positions) and Llama 3's frequencies."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = {"rope_theta": config.get("rope_theta", 10_000.0), "rope_type": rope.get("type", "default"), **rope}
    for word, only in {**layout["fixed"], "partial_rotary_factor": 1}.items():
        if (value := {**rope, **config}.get(word)) not in (None, only):
            raise ModelError(f"{word} = {value} has no word in GGUF", where=where, cure=f"only {word} = {only} has")
    heads = config.get("num_attention_heads", config.get("n_head", 1))
    full = {"num_key_value_heads": heads, "head_dim": config.get("hidden_size", 0) // heads, "n_inner": 4 * config.get("n_embd", 0)}
    full |= {word: value for word, value in config.items() if value is not None}
    for word, key in layout["words"].items():
        if type(full.get(word)) not in (int, float):
            raise ModelError(f"config.json lacks {word}", where=where, cure="restore it from the model's source")
        (writer.add_float32 if word in EPSILONS else writer.add_uint32)(f"{writer.arch}.{key}", full[word])
    if "head_dim" not in layout["words"]:
        return 2, None
    kind, needs = rope["rope_type"], {"default": [], "linear": ["factor"], "llama3": ["factor", *LLAMA3]}
    if kind not in needs or not rope.keys() >= set(needs[kind]):
        what, cure = f"rope_type {kind} is not supported with {sorted(rope)}", f"supported: {needs}"
        raise ModelError(what, where=where, cure=cure)
    writer.add_value_length(full["head_dim"])
    writer.add_rope_dimension_count(full["head_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if kind == "linear":
        writer.add_string(f"{writer.arch}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(rope["factor"])
    return full["head_dim"], _slower(rope, full["head_dim"]) if kind == "llama3" else None
