"""Logits equal transformers' on copied weights, both directions; cached equals uncached."""

from pathlib import Path
from typing import Any

import pytest
import torch

from foretell.base.errors import ModelError
from foretell.interop.huggingface import load_model, save_model
from foretell.models.cache import KVCache
from foretell.models.config import ModelConfig, ModelSettings, resolve
from foretell.models.counts import parameter_count
from foretell.models.gpt import GPT, initialise
from foretell.tokenizers.bpe import train_bpe
from foretell.tokenizers.config import TokenizerSettings
from foretell.tokenizers.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-square": {"preset": "gpt2", "n_layer": 2, "d_model": 64, "n_head": 4},
    "gpt2-odd": {"preset": "gpt2", "n_layer": 3, "d_model": 60, "n_head": 3, "d_ff": 100},
    "modern-tied": {"preset": "modern", "n_layer": 2, "d_model": 64, "n_head": 4, "n_kv_head": 2},
    "modern-untied": {"preset": "modern", "n_layer": 3, "d_model": 48, "n_head": 6, "n_kv_head": 1, "d_head": 16, "tied": False},
    "modern-mha": {"preset": "modern", "n_layer": 1, "d_model": 32, "n_head": 2, "n_kv_head": 2, "d_ff": 70},
}


def config_of(name: str, vocab_size: int) -> ModelConfig:
    return resolve(ModelSettings(**SHAPES[name], context_length=32), vocab_size)[0]


def random_model(config: ModelConfig) -> GPT:
    model = GPT(config)
    initialise(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # zeros and ones would hide a wrong place
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["the cat sat on the mat, and the dog sat on the log. " * 20], TokenizerSettings(vocab_size=270))


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_opens_our_directory(shape: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = random_model(config_of(shape, tokenizer.vocab_size))
    save_model(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens_BT = torch.randint(0, tokenizer.vocab_size, (3, 32), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        difference = (model.logits(tokens_BT) - theirs(tokens_BT).logits).abs().max().item()
    assert difference <= 1e-5
    assert (
        sum(p.numel() for p in theirs.parameters()) == parameter_count(model.config) == sum(p.numel() for p in model.parameters())
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_we_open_their_directory(shape: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_model(tmp_path / "a", random_model(config_of(shape, tokenizer.vocab_size)), tokenizer) if (
        tmp_path / "a"
    ).mkdir() is None else None
    config = transformers.AutoConfig.from_pretrained(tmp_path / "a")
    torch.manual_seed(4)
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path / "b")
    ours = load_model(tmp_path / "b")
    tokens_BT = torch.randint(0, tokenizer.vocab_size, (3, 32), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert (ours.logits(tokens_BT) - theirs(tokens_BT).logits).abs().max().item() <= 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_logits_equal_uncached(shape: str) -> None:
    model = random_model(config_of(shape, 97))
    tokens_BT = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(6))
    cache = KVCache.allocate(model.config, batch=2, capacity=32)
    pieces = []
    with torch.no_grad():
        whole = model.logits(tokens_BT)
        for piece in tokens_BT.split([7, 1, 1, 5, 1, 5], dim=1):  # prompts, single steps and chunks
            pieces.append(model.logits(piece, cache))
            cache.advance(piece.shape[1])
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=2e-5, rtol=1e-5)


def test_unknown_architecture_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ModelError, match="mamba") as caught:
        load_model(tmp_path)
    assert "gpt2, qwen3" in caught.value.cure
