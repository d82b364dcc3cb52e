"""LoRA: nothing changes at the start, only pairs and head learn, and merged is adapted."""

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from foretell.base.errors import SettingError
from foretell.models.adapter_settings import LoRASettings
from foretell.models.adapters import LoRALinear, adapter_state, adapters, add_adapters, attach, merge, pairs_of, target_of
from foretell.models.build import initialise
from foretell.models.config import LSTMConfig, TransformerConfig
from foretell.models.gpt import GPT
from foretell.models.heads import HeadConfig, TaskModel, initialise_head
from foretell.models.lstm import LSTM

MODERN: dict[str, Any] = {
    **{"vocab_size": 61, "context_length": 16, "n_layer": 2, "d_model": 24, "n_head": 4, "n_kv_head": 2, "d_head": 6, "d_ff": 40},
    **{"norm": "rmsnorm", "norm_eps": 1e-6, "position": "rotary", "activation": "swiglu", "qk_norm": True, "tied": True},
    **{"qkv_bias": False, "out_bias": False, "mlp_bias": False},
}
PARTS = {
    f"blocks.{layer}.{name}": rows
    for layer in range(2)
    for name, rows in {
        "attention.qkv": (24, 12, 12),
        "attention.out": (24,),
        "mlp.gate_up": (40, 40),
        "mlp.down": (24,),
        "attention_norm": (24,),
    }.items()
} | {"token_embedding": (61,)}
TOKENS_BT = torch.randint(0, 61, (3, 12), generator=torch.Generator().manual_seed(1))


def network() -> GPT:
    model = GPT(TransformerConfig.model_validate(MODERN))
    initialise(model, seed=1)
    with torch.no_grad():  # projections that start at 0 would hide a wrong place
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.05)
    return model.eval()


def adapted(settings: LoRASettings, moved: bool = True) -> GPT:
    """A network with adapters that do something."""
    model = network()
    add_adapters(model, PARTS, settings, seed=3)
    if moved:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, value in adapter_state(model).items():
                if name.endswith("b_OR"):
                    value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return model


def logits(model: GPT) -> Tensor:
    with torch.no_grad():
        return model.logits(TOKENS_BT)


def test_the_start_is_unchanged_and_only_pairs_learn() -> None:
    model = adapted(LoRASettings(rank=3), moved=False)
    assert torch.equal(logits(model), logits(network()))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == adapter_state(model).keys() and len(trained) == 2 * 2 * (3 + 1 + 2 + 1)
    optimizer = torch.optim.SGD((parameter for parameter in model.parameters() if parameter.requires_grad), lr=1.0)
    model.logits(TOKENS_BT).logsumexp(-1).mean().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    before = logits(model)
    optimizer.step()
    assert (logits(model) - before).abs().max() > 1e-4
    frozen, plain = model.state_dict(), network().state_dict()
    assert all(
        torch.equal(frozen[name if name in frozen else name.replace(".weight", ".base.weight")], plain[name]) for name in plain
    )


def test_the_first_pairs_are_the_papers_and_the_seeds() -> None:
    for adapter in adapters(adapted(LoRASettings(rank=64), moved=False)).values():
        for pair in pairs_of(adapter).values():
            bound = adapter.base.in_features**-0.5
            assert 0.95 * bound < pair.a_RI.abs().max() <= bound and not pair.b_OR.any()
            assert pair.a_RI.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    twins = [adapter_state(adapted(LoRASettings(), moved=False)) for _ in range(2)]
    assert all(torch.equal(value, twins[1][name]) for name, value in twins[0].items())
    other = network()
    add_adapters(other, PARTS, LoRASettings(), seed=4)
    assert not torch.equal(
        adapter_state(other)["blocks.0.attention.out.pairs.0.a_RI"], twins[0]["blocks.0.attention.out.pairs.0.a_RI"]
    )


@pytest.mark.parametrize("settings", [LoRASettings(rank=2), LoRASettings(rank=5, alpha=3.5, rslora=True, targets=("qkv",))])
def test_merged_is_adapted(settings: LoRASettings) -> None:
    model = adapted(settings)
    expected, plain = logits(model), network()
    assert (expected - logits(plain)).abs().max() > 0.05
    merge(model)
    assert model.state_dict().keys() == plain.state_dict().keys() and not adapters(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.head.weight is model.token_embedding.weight
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)


def test_each_part_has_its_own_pair_and_scale() -> None:
    model = adapted(LoRASettings(rank=4, alpha=6.0, targets=("qkv",)))
    adapter = adapters(model)["blocks.1.attention.qkv"]
    x = torch.randn(2, 24, generator=torch.Generator().manual_seed(5))
    expected = x @ adapter.base.weight.T
    for first, stop in ((0, 24), (24, 36), (36, 48)):
        pair = pairs_of(adapter)[first]
        expected[:, first:stop] += x @ (1.5 * pair.b_OR @ pair.a_RI).T
    torch.testing.assert_close(adapter(x), expected, atol=1e-5, rtol=0)
    assert LoRASettings(rank=4, alpha=6.0, rslora=True).scale == 3.0


def test_rows_without_a_pair_stay() -> None:
    model = network()
    qkv = model.blocks[0].attention.qkv
    source = pairs_of(adapters(adapted(LoRASettings()))["blocks.0.attention.qkv"])
    attach(model, {"blocks.0.attention.qkv": {0: source[0], 36: source[36]}})
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(5))
    changed = (model.blocks[0].attention.qkv(x) - qkv(x)).abs().amax((0, 1)) > 0
    assert changed[:24].all() and not changed[24:36].any() and changed[36:].all()


def test_targets_choose_and_the_head_is_trained_too() -> None:
    body = network()
    model = TaskModel(body, HeadConfig(kind="classes", n_labels=3))
    initialise_head(model, seed=1)
    add_adapters(model, {f"body.{name}": rows for name, rows in PARTS.items()}, LoRASettings(targets=("out",)), seed=1)
    assert set(adapters(model)) == {"body.blocks.0.attention.out", "body.blocks.1.attention.out"}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == adapter_state(model).keys() and {"task_head.weight", "task_head.bias"} < trained


def test_dropout_is_for_training_only() -> None:
    model = adapted(LoRASettings(dropout=0.5))
    plain = adapted(LoRASettings())
    assert torch.equal(logits(model), logits(plain))
    model.train()
    torch.manual_seed(1)
    first = logits(model)
    assert not torch.equal(first, logits(model))


@pytest.mark.parametrize("pairs_in_bf16", [True, False])
def test_bf16_computes_whatever_the_pairs_are_in(pairs_in_bf16: bool) -> None:
    exact = adapted(LoRASettings())
    model = copy.deepcopy(exact).bfloat16()
    if not pairs_in_bf16:
        for adapter in adapters(model).values():
            adapter.pairs.float()
    difference = (logits(model) - logits(exact)).abs().max()
    assert difference < 0.1
    model.logits(TOKENS_BT).sum().backward()
    merge(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert (logits(model) - logits(exact)).abs().max() < 0.1


def test_settings_and_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError):
        LoRASettings(targets=())
    model = LSTM(LSTMConfig(vocab_size=20, context_length=8, n_layer=1, d_model=8, tied=True, d_hidden=8))
    with pytest.raises(SettingError, match=r"no matrices that lora\.targets = qkv names"):
        add_adapters(model, {"out": (8,), "head": (20,)}, LoRASettings(targets=("qkv",)), seed=1)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("blocks.10.mlp.up", "mlp"),
        ("body.blocks.0.attention.out", "out"),
        ("blocks.0.mlp_norm", None),
        ("out", None),
        ("pooler", None),
    ],
)
def test_modules_belong_to_targets(name: str, target: str | None) -> None:
    assert target_of(name) == target


def test_an_adapter_takes_over_its_matrixs_mode() -> None:
    base = nn.Linear(4, 4).eval()
    assert not LoRALinear(base, {}).training and LoRALinear(base.train(), {}).training
