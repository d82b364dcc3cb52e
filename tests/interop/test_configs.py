"""What config.json says, heard as transformers hears it; each case compared with transformers on random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foretell.base.errors import ModelError
from foretell.interop.configs import from_hugging_face, layouts, to_hugging_face
from foretell.interop.huggingface import load_any
from foretell.models.config import TransformerConfig
from foretell.models.heads import HeadConfig
from foretell.models.network import LanguageModel
from foretell.models.settings import ModelSettings, presets, resolve

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
SMALL |= {"vocab_size": 50, "max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
CASES: dict[str, dict[str, Any]] = {
    "a null window is none": {"model_type": "mistral", "sliding_window": None},
    "an absent window is the default": {"model_type": "mistral", "max_position_embeddings": 64},
    "the original context beside the rope": {"model_type": "llama", "rope_scaling": YARN, "original_max_position_embeddings": 16},
    "llama3's too": {"model_type": "llama", "rope_parameters": LLAMA3, "original_max_position_embeddings": 16},
    "older words": {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "windows from layer 28": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "num_hidden_layers": 30},
    "few words": {"model_type": "qwen3", "head_dim": 16},
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_odd_but_legal_configs(name: str, tmp_path: Path) -> None:
    words = {**SMALL, **CASES[name]}
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(words)))
    torch.manual_seed(3)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    theirs.save_pretrained(tmp_path)
    architecture = theirs.config.architectures or [type(theirs).__name__]
    (tmp_path / "config.json").write_text(
        json.dumps({**words, "architectures": architecture})
    )  # as somebody wrote it, not as it was saved
    ours, tokens_BT = load_any(tmp_path), torch.randint(0, 50, (2, 60), generator=torch.Generator().manual_seed(5))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert isinstance(ours, LanguageModel)
    assert (ours.logits(tokens_BT) - again(tokens_BT).logits).abs().max() <= 1e-5


@pytest.mark.parametrize("preset", [name for name in presets() if name != "lstm"])
def test_every_preset_is_said_and_heard(preset: str) -> None:
    config, _ = resolve(ModelSettings(preset=preset), 1000)
    raw = to_hugging_face(config)
    assert from_hugging_face(json.loads(json.dumps(raw)), "here")[0] == config
    assert (raw["model_type"] == "foretell") == preset.startswith("gpt3")


def test_heads_keep_their_labels() -> None:
    config, _ = resolve(ModelSettings(preset="bert-tiny"), 1000)
    assert isinstance(config, TransformerConfig)
    head = HeadConfig(kind="classes", n_labels=2, labels=("bad", "good"))
    raw = to_hugging_face(config.replace(parts=["pooler"]), head)
    assert raw["id2label"] == {"0": "bad", "1": "good"} and raw["label2id"] == {"bad": 0, "good": 1}
    assert from_hugging_face(raw, "here")[1] == head


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_layer": 0}, "n_layer"),
        ({"n_embd": "wide"}, "config.json"),
        ({"layer_norm_epsilon": -1.0}, "norm_eps"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised by gptq"),
        ({"n_embd": None}, "d_model"),
    ],
)
def test_what_a_config_gets_wrong_is_said_in_one_line(change: dict[str, Any], told: str) -> None:
    raw = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, **change}
    with pytest.raises(ModelError, match=told) as caught:
        from_hugging_face(raw, "config.json")
    assert len(str(caught.value).splitlines()) == 3


def test_every_layout_names_its_parts() -> None:
    for layout in layouts().values():
        assert {"model_type", "prefix", "architecture", "words", "is", "silent", "activations", "modules", "heads"} <= layout.keys()
