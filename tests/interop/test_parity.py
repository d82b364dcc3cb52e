"""Logits equal transformers' on copied weights: every class, shape, direction and padding of benchmarks/parity.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from foretell.interop.huggingface import load_model, save_model
from foretell.models.build import build, initialise
from foretell.models.counts import parameter_count
from foretell.models.settings import ModelSettings, resolve
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings

transformers = pytest.importorskip("transformers")


def _table() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "parity.py"
    spec = importlib.util.spec_from_file_location("parity", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["parity"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parity = _table()


def test_the_table_has_every_class_the_guide_promises() -> None:
    names = {case.architecture for case in parity.cases()}
    bert = {f"BertFor{name}" for name in ("MaskedLM", "NextSentencePrediction", "SequenceClassification", "TokenClassification")}
    assert {"GPT2LMHeadModel", "OpenAIGPTLMHeadModel", "GPTNeoForCausalLM", "LlamaForCausalLM"} <= names
    assert {"Qwen2ForCausalLM", "Qwen3ForCausalLM", "BertForQuestionAnswering", "BertForMultipleChoice", *bert} <= names
    assert all(len(shapes) >= 3 for shapes in parity.SHAPES.values())


@pytest.mark.parametrize("case", list(parity.cases()), ids=str)
def test_parity(case: object, tmp_path: Path) -> None:
    found = parity.differences(case, tmp_path)
    assert max(found.values()) <= parity.LIMIT, found


@pytest.mark.parametrize("preset", ["gpt1", "gpt2", "llama", "qwen2", "modern"])
def test_transformers_counts_the_parameters_as_we_do(preset: str, tmp_path: Path) -> None:
    tokenizer = train_bpe(["the cat sat on the mat, and the dog sat on the log. " * 20], TokenizerSettings(vocab_size=270))
    settings = ModelSettings(preset=preset, n_layer=2, d_model=64, n_head=4, context_length=32)
    config, _ = resolve(settings, tokenizer.vocab_size)
    model = build(config)
    initialise(model, seed=1)
    save_model(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == parameter_count(config)
    again = load_model(tmp_path)
    assert again.config == config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
