"""config.json: our config and head in Hugging Face's words and back. What layouts.toml cannot say stands here."""

import tomllib
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from foretell.base.errors import ModelError
from foretell.base.files import read_text
from foretell.models.config import LSTMConfig, ModelConfig, RopeScaling, TransformerConfig
from foretell.models.heads import HeadConfig

NATIVE = "foretell"  # the model_type of what no class of transformers can compute: the LSTM, GPT-3's banded layers
CLASSIC = {"norm_position": "pre", "causal": True, "qk_norm": False, "attention_scale": None}  # unless a layout says otherwise
PARTS = {
    "language": ("pooler", "masked", "next_sentence"),
    "masked": ("masked",),
    "next_sentence": ("pooler", "next_sentence"),
    "body": ("pooler",),
    "classes": ("pooler",),
    "choice": ("pooler",),
    "tokens": (),
    "spans": (),
}
ROPE_WORDS = {  # RopeScaling's field → theirs
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}
ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": ("factor", "original_context_length", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_context_length", "beta_fast", "beta_slow", "attention_factor"),
}
Raw = dict[str, Any]


@cache
def layouts() -> dict[str, dict[str, Any]]:
    """layouts.toml, each layout with what it takes over from the one that it is `like`."""
    raw = tomllib.loads(read_text(Path(__file__).with_name("layouts.toml")))
    return {name: {**raw.get(values.get("like", ""), {}), **values} for name, values in raw.items()}


def layout_of(raw: Raw, where: str) -> dict[str, Any]:
    """The layout that a config.json names. Raises ModelError."""
    kind = raw.get("model_type")
    if kind not in layouts():
        cure = f"supported: {', '.join(layouts())}, and Foretell's own"
        raise ModelError(f"the architecture {kind!r} is not known here", where=where, cure=cure)
    return layouts()[str(kind)]


def to_hugging_face(config: ModelConfig, head: HeadConfig | None = None) -> Raw:
    """The content of config.json in the words of the first layout that says the whole config, or in ours if none does."""
    if isinstance(config, TransformerConfig):
        for layout in layouts().values():
            raw = _say(config, layout, head)
            if raw is not None and _hear(raw, layout, "").replace(parts=config.parts) == config:  # parts show in the tensors
                return raw
    network = "lstm" if isinstance(config, LSTMConfig) else "transformer"
    own = {"network": network, **config.model_dump(mode="json", exclude_none=True)}
    told = {"head": head.model_dump()} if head else {}
    return {"model_type": NATIVE, "architectures": ["Foretell"], "foretell": own, **told}


def from_hugging_face(raw: Raw, where: str) -> tuple[ModelConfig, HeadConfig | None]:
    """Config and task head of a config.json. What would change the result and is not known here is refused by name."""
    if not isinstance(raw, dict):
        raise ModelError("config.json is no JSON object", where=where, cure="restore it from the model's source")
    if raw.get("quantization_config"):
        method = dict(raw["quantization_config"]).get("quant_method", "an unknown method")
        cure = "import the model's unquantised weights, or a GGUF file of it"
        raise ModelError(f"the weights are quantised by {method}, which is not read", where=where, cure=cure)
    if "auto_map" in raw:
        warnings.warn(f"{where} asks for program code of its own (auto_map): it is ignored and never run", stacklevel=2)
    try:
        if raw.get("model_type") == NATIVE:
            values = dict(raw["foretell"])
            kind = LSTMConfig if values.pop("network") == "lstm" else TransformerConfig
            return kind.model_validate(values), HeadConfig.model_validate(raw["head"]) if "head" in raw else None
        layout = layout_of(raw, where)
        return _hear(raw, layout, where), head_of(raw, layout)
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            what = (
                f"{'.'.join(map(str, problem['loc']))} {problem['msg'].removeprefix('Value error, ').partition(' | ')[0]}".strip()
            )
        cure = "restore it from the model's source"
        raise ModelError(f"config.json lacks or misstates a value: {what}", where=where, cure=cure) from error


def head_of(raw: Raw, layout: dict[str, Any]) -> HeadConfig | None:
    """The task head that a config.json's architecture names; none for a language model or a bare body."""
    kinds = {name: kind for kind, name in layout["architecture"].items() if kind in layout["heads"]}
    kind: Any = kinds.get(next(iter(raw.get("architectures") or ()), ""))
    if kind is None:
        return None
    named = dict(raw.get("id2label") or {})
    n_labels = len(named) or int(raw.get("num_labels") or 2)
    labels = tuple(str(named[key]) for key in sorted(named, key=int))
    bias = kind in layout["heads"]["biased"]
    if kind == "classes" and n_labels == 1:  # a reward model is a one-label classifier that names no problem
        kind = "regression" if raw.get("problem_type") == "regression" else "reward"
    return HeadConfig(kind=kind, n_labels=n_labels, bias=bias, labels=labels)


def _say(config: TransformerConfig, layout: dict[str, Any], head: HeadConfig | None) -> Raw | None:
    """Our config in a layout's words; None if it has no word for something. (Whether it lost something, the caller checks.)"""
    kind = _architecture_key(config, head)
    activation = layout["activations"].get(config.activation)
    if activation is None or kind not in layout["architecture"]:
        return None
    raw: Raw = {"model_type": layout["model_type"], "architectures": [layout["architecture"][kind]], **layout["fixed"]}
    for ours, theirs in layout["words"].items():
        value = activation if ours == "activation" else getattr(config, ours)
        if raw.get(theirs, value) != value:
            return None  # two of ours are one of theirs, as with Llama's attention_bias
        raw[theirs] = value
    raw |= dict.fromkeys(layout["dropouts"], config.dropout)
    raw |= {"use_cache": True, "dtype": "float32", "torch_dtype": "float32"}
    if config.position == "rotary":
        raw["rope_parameters"] = _say_rope(config)
    if layout["model_type"] == "gpt2":
        raw["n_ctx"] = config.context_length
    if head is not None:
        labels = head.labels if len(head.labels) == head.width else [f"LABEL_{n}" for n in range(head.width)]
        raw |= {"id2label": {str(n): label for n, label in enumerate(labels)}}
        raw |= {"label2id": {label: n for n, label in enumerate(labels)}, "num_labels": head.width}
        raw |= {"problem_type": "regression"} if head.kind == "regression" else {}
        if head.kind == "choice" and layout["heads"]["choice"].endswith("summary"):
            raw |= {"summary_type": "cls_index", "summary_use_proj": True, "summary_proj_to_labels": True}
    return raw | _say_windows(config, layout.get("windows"))


def _architecture_key(config: TransformerConfig, head: HeadConfig | None) -> str:
    if head is not None:
        return "classes" if head.kind in ("regression", "reward") else head.kind
    if config.causal:
        return "language"
    return next((kind for kind in ("language", "masked", "next_sentence") if PARTS[kind] == config.parts), "body")


def _hear(raw: Raw, layout: dict[str, Any], where: str) -> TransformerConfig:
    absent = {"sliding_window": None} if "sliding_window" in raw else {}  # here a null means none, not the default
    raw = {**layout["silent"], **absent, **{key: value for key, value in raw.items() if value is not None}}
    for name, only in layout["fixed"].items():
        if raw.get(name, only) != only:
            raise ModelError(f"{name} = {raw[name]!r} is not supported", where=where, cure=f"only {name} = {only!r} is")
    values = {**CLASSIC, **layout["is"], **{ours: raw[theirs] for ours, theirs in layout["words"].items() if theirs in raw}}
    ours_of = {theirs: ours for ours, theirs in layout["activations"].items()}
    ours_of |= {"gelu_pytorch_tanh": "gelu_tanh"} if "gelu_tanh" in layout["activations"] else {}
    if values["activation"] not in ours_of:
        word, cure = layout["words"]["activation"], f"supported: {', '.join(layout['activations'].values())}"
        raise ModelError(f"{word} = {values['activation']!r} is not supported", where=where, cure=cure)
    width, heads = int(values["d_model"]), int(values["n_head"])
    if "d_head" not in values and width % heads:
        cure = "restore config.json: the heads share the width equally"
        raise ModelError(f"n_head = {heads} does not divide d_model = {width}", where=where, cure=cure)
    values |= {"activation": ours_of[values["activation"]], "dropout": float(raw.get(layout["dropouts"][0], 0.0))}
    values = {"n_kv_head": heads, "d_head": width // heads, "d_ff": 4 * width, **values}
    values |= _hear_rope(raw, where) if values["position"] == "rotary" else {}
    values |= _hear_windows(raw, layout.get("windows"), int(values["n_layer"]), where)
    if values["causal"] is False:
        kinds = {name: kind for kind, name in layout["architecture"].items()}
        values["parts"] = PARTS[kinds.get(next(iter(raw.get("architectures") or ()), ""), "body")]
    return TransformerConfig.model_validate(values)


def _say_rope(config: TransformerConfig) -> Raw:
    scaling, raw = config.rope_scaling, {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is None:
        return raw
    values = {ROPE_WORDS[field]: getattr(scaling, field) for field in ROPE_FIELDS[scaling.kind]}
    return raw | {"rope_type": scaling.kind} | {key: value for key, value in values.items() if value is not None}


def _hear_rope(raw: Raw, where: str) -> Raw:
    """transformers 5 writes rope_parameters, its ancestors rope_theta and rope_scaling, with `type` for `rope_type`."""
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0)
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0 or rope.get("truncate", True) is not True:
        what, cure = (
            "rotary positions turn only a part of each head, or are cut otherwise",
            "only partial_rotary_factor = 1 is supported",
        )
        raise ModelError(what, where=where, cure=cure)
    if kind in ("default", "dynamic"):  # dynamic changes nothing before the context's end, and here nothing goes beyond it
        return {"rope_theta": theta}
    if kind not in ROPE_FIELDS or rope.get("mscale") or rope.get("mscale_all_dim"):
        cure = f"supported: default, dynamic, {', '.join(ROPE_FIELDS)}"
        raise ModelError(f"the rotary scaling {kind!r} is not known here", where=where, cure=cure)
    given = {field: rope[ROPE_WORDS[field]] for field in ROPE_FIELDS[kind] if rope.get(ROPE_WORDS[field]) is not None}
    if kind != "linear":
        original = raw.get("original_max_position_embeddings") or raw.get("max_position_embeddings")
        given.setdefault("original_context_length", original)
    return {"rope_theta": theta, "rope_scaling": RopeScaling(kind=kind, **given)}


def _say_windows(config: TransformerConfig, how: str | None) -> Raw:
    banded = [layer in config.windowed_layers for layer in range(config.n_layer)]
    if how == "attention_types":
        types = [[["local" if is_banded else "global"], 1] for is_banded in banded]
        return {"attention_types": types, "window_size": config.window or 256}
    if how == "sliding_window":
        return {"sliding_window": config.window} if all(banded) else {}
    if how == "layer_types":
        names = ["sliding_attention" if is_banded else "full_attention" for is_banded in banded]
        return {"use_sliding_window": any(banded), "sliding_window": config.window, "layer_types": names}
    return {}


def _hear_windows(raw: Raw, how: str | None, n_layer: int, where: str) -> Raw:
    banded: list[bool] = []
    if how == "attention_types":
        types = raw.get("attention_types") or [[["global", "local"], n_layer // 2]]
        banded = [name == "local" for names, times in types for name in names * min(int(times), n_layer)]
        window = raw.get("window_size")
    elif how == "sliding_window":
        window = raw.get("sliding_window")
        banded = [True] * n_layer if window else []
    elif how == "layer_types":
        window, first = raw.get("sliding_window"), int(raw.get("max_window_layers", 28))
        if raw.get("use_sliding_window"):
            names = raw.get("layer_types") or [
                "sliding_attention" if layer >= first else "full_attention" for layer in range(n_layer)
            ]
            banded = [name == "sliding_attention" for name in names]
    if banded and len(banded) != n_layer:
        what = f"attention is described for {len(banded)} layers, the model has {n_layer}"
        raise ModelError(what, where=where, cure="restore config.json from the model's source")
    layers = tuple(layer for layer, is_banded in enumerate(banded) if is_banded)
    return {"window": window, "windowed_layers": layers} if layers else {}
