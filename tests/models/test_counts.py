"""Counts from the config alone equal those of the built network, the published sizes, and torch's own count of FLOPs."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foretell.models.attention import attention_mask
from foretell.models.bert import BERT
from foretell.models.build import build, build_empty
from foretell.models.config import LSTMConfig, ModelConfig, TransformerConfig
from foretell.models.counts import cache_bytes_per_token, flops, flops_per_token, parameter_count, parameters
from foretell.models.network import LanguageModel
from foretell.models.settings import ModelSettings, presets, resolve

GPT_TOKENS = 50257
SMALL = {"n_layer": 2, "d_model": 64, "n_head": 4, "context_length": 32}
NETWORKS: dict[str, dict[str, Any]] = {
    "gpt1": {"preset": "gpt1", **SMALL},
    "gpt2": {"preset": "gpt2", **SMALL},
    "gpt2-untied": {"preset": "gpt2", **SMALL, "tied": False, "d_head": 8, "d_ff": 100},
    "gpt3": {"preset": "gpt3", **SMALL, "window": 8},
    "llama": {"preset": "llama", **SMALL},
    "qwen2": {"preset": "qwen2", **SMALL, "n_kv_head": 1},
    "modern": {"preset": "modern", **SMALL},
    "modern-mlp": {"preset": "modern", **SMALL, "activation": "relu2", "mlp_bias": True, "norm": "layernorm"},
    "swiglu-bias": {"preset": "llama", **SMALL, "mlp_bias": True, "out_bias": True, "norm_position": "post"},
    "bert": {"preset": "bert", **SMALL},
    "bert-untied": {"preset": "bert", **SMALL, "tied": False},
    "lstm": {"preset": "lstm", "d_model": 24, "d_hidden": 40, "n_layer": 2, "context_length": 32},
    "lstm-untied": {"preset": "lstm", "d_model": 24, "d_hidden": 40, "n_layer": 1, "context_length": 32, "tied": False},
}


def config_of(preset: str, vocab_size: int = 300, **settings: object) -> ModelConfig:
    return resolve(ModelSettings.model_validate({"preset": preset, **settings}), vocab_size)[0]


@pytest.fixture(params=NETWORKS)
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return config_of(**NETWORKS[request.param])


@pytest.mark.parametrize(
    ("preset", "vocab_size", "published"),
    [
        ("gpt1", 40478, 116_534_784),
        ("gpt2", GPT_TOKENS, 124_439_808),
        ("gpt2-medium", GPT_TOKENS, 354_823_168),
        ("gpt2-large", GPT_TOKENS, 774_030_080),
        ("gpt2-xl", GPT_TOKENS, 1_557_611_200),
        ("bert-base", 30522, 110_106_428),
        ("bert-large", 30522, 336_226_108),
    ],
)
def test_published_sizes(preset: str, vocab_size: int, published: int) -> None:
    assert parameter_count(config_of(preset, vocab_size)) == published


@pytest.mark.parametrize(
    ("preset", "n_layer", "width", "said"),
    [
        ("gpt3-small", 12, 768, 125e6),
        ("gpt3-medium", 24, 1024, 350e6),
        ("gpt3-large", 24, 1536, 760e6),
        ("gpt3-xl", 24, 2048, 1.3e9),
        ("gpt3-2.7b", 32, 2560, 2.7e9),
        ("gpt3-6.7b", 32, 4096, 6.7e9),
        ("gpt3-13b", 40, 5120, 13.0e9),
        ("gpt3-175b", 96, 12288, 175.0e9),
    ],
)
def test_the_sizes_of_gpt3(preset: str, n_layer: int, width: int, said: float) -> None:
    """Brown et al. 2020, table 2.1, is rounded; the formula of learned positions and a tied head is not."""
    found = parameter_count(config_of(preset, GPT_TOKENS))
    assert found == GPT_TOKENS * width + 2048 * width + n_layer * (12 * width**2 + 13 * width) + 2 * width
    assert found == pytest.approx(said, rel=0.02)


def test_bert_counts_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.BertForPreTraining(transformers.BertConfig())
    assert parameter_count(config_of("bert-base", 30522)) == sum(parameter.numel() for parameter in theirs.parameters())
    body = config_of("bert-base", 30522).replace(parts=("pooler",))
    assert parameter_count(body) == sum(parameter.numel() for parameter in theirs.bert.parameters()) == 109_482_240


def test_the_lstm_of_the_gpt1_paper() -> None:
    """One layer of 2,048 units over 768 wide embeddings; torch has two bias vectors for each gate."""
    expected = 40478 * 768 + 4 * 2048 * (768 + 2048) + 2 * 4 * 2048 + 2048 * 768 + 768
    assert parameter_count(config_of("lstm", 40478)) == expected == 55_745_792


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("tied", [True, False])
def test_every_preset_counts_as_it_is_built(preset: str, tied: bool) -> None:
    config = config_of(preset, 1000, tied=tied)
    assert parameter_count(config) == sum(parameter.numel() for parameter in build_empty(config).parameters())


def test_counts_equal_the_network(config: ModelConfig) -> None:
    network, found = build(config), parameters(config)
    assert found.total == parameter_count(config) == sum(parameter.numel() for parameter in network.parameters())
    tables = {"head.weight"} | {name for name, _ in network.named_parameters() if "_embedding.weight" in name}
    held = sum(parameter.numel() for name, parameter in network.named_parameters() if name in tables)
    assert (found.embedding, found.non_embedding) == (held, found.total - held)


def test_flops_equal_those_that_torch_counts(config: ModelConfig) -> None:
    """In bf16 on a CPU attention is plain products, all of which torch's counter sees; of the fused kernel it sees none.

    An LSTM's are seen in fp64. Its backward pass lacks the gradient of the zero state before the first token.
    """
    batch, time = 3, config.context_length
    network = build(config).to(torch.float64 if isinstance(config, LSTMConfig) else torch.bfloat16).train()
    tokens_BT = torch.zeros(batch, time, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        hidden_BTD = network(tokens_BT)
        logits_BTV = network.masked_logits(hidden_BTD) if isinstance(network, BERT) else network.head(hidden_BTD)
    with FlopCounterMode(display=False) as backward:
        logits_BTV.sum().backward()
    expected, first = flops(config, halved=False), 0
    if isinstance(config, LSTMConfig):
        first = config.n_layer * 2 * batch * config.d_hidden * 4 * config.d_hidden
    assert forward.get_total_flops() == batch * time * expected.forward
    assert backward.get_total_flops() == batch * time * expected.backward - first
    assert expected.training == 3 * expected.forward == flops_per_token(config)


@pytest.mark.parametrize("context", [1, 5, 32, 100])
@pytest.mark.parametrize("window", [None, 1, 8, 200])
def test_halved_attention_is_the_exact_average(context: int, window: int | None) -> None:
    """Every token is compared with itself and all before it, in a band with fewer: counted out of the masks themselves."""
    config = config_of("gpt3" if window else "gpt2", **SMALL, **({"window": window} if window else {}))
    assert isinstance(config, TransformerConfig)
    seen = 0.0
    for layer in range(config.n_layer):
        mask_TT = attention_mask(
            config, context, 0, torch.zeros(()), torch.ones(1, context, dtype=torch.bool), window=window if layer % 2 else None
        )
        assert mask_TT is not None
        seen += int((mask_TT == 0).sum()) / context
    whole, needed = flops(config, context, halved=False), flops(config, context)
    saved = 4 * config.n_head * config.d_head * (config.n_layer * context - seen)
    assert whole.forward - needed.forward == pytest.approx(saved, abs=1)
    if window is None:
        assert seen == config.n_layer * (context + 1) / 2


def test_an_encoder_has_no_half_to_leave_out() -> None:
    config = config_of("bert", **SMALL)
    assert flops(config).forward == flops(config, halved=False).forward


def test_the_rules_of_thumb() -> None:
    """6N leaves out attention's scores and the head; for a large model and a short context they hardly matter."""
    config = config_of("gpt3-175b", GPT_TOKENS)
    assert flops(config).rule_6n == 6 * parameters(config).non_embedding
    assert flops(config).training / flops(config).rule_6n == pytest.approx(1.0, abs=0.02)
    assert flops(config_of("lstm", GPT_TOKENS), 10) == flops(config_of("lstm", GPT_TOKENS), 1000)


def test_the_cache_takes_what_is_said(config: ModelConfig) -> None:
    network = build(config)
    if not isinstance(network, LanguageModel):
        assert cache_bytes_per_token(config) == 0
        return
    sizes = []
    for capacity in (10, 11):
        cache = network.new_cache(3, capacity)
        sizes.append(sum(value.nbytes for value in vars(cache).values() if isinstance(value, torch.Tensor)))
    assert sizes[1] - sizes[0] == 3 * cache_bytes_per_token(config, value_bytes=4)
    assert isinstance(config, LSTMConfig) or sizes[0] == 10 * 3 * cache_bytes_per_token(config, value_bytes=4) > 0
