"""The parts of the decoder: bands, activations, positions, norms before and behind, dropout on the matrix."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from foretell.models.config import RopeScaling, TransformerConfig
from foretell.models.functions import rotate
from foretell.models.gpt import GPT
from foretell.models.layers import SwiGLU, activate, rotary_frequencies, rotation_table

MakeNetwork = Any


def banded(make_network: MakeNetwork, window: int) -> GPT:
    """One layer, and that one banded."""
    model: GPT = make_network("gpt2", n_layer=1)
    model.config = model.config.replace(window=window, windowed_layers=(0,))
    return model


@pytest.mark.parametrize("window", [1, 4, 23, 24, 100])
@torch.no_grad()
def test_a_band_ends_where_it_should(make_network: MakeNetwork, tokens: Tensor, window: int) -> None:
    model = banded(make_network, window)
    before_BTV = model.logits(tokens)
    for place in range(24):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 60
        moved_T = (model.logits(changed) - before_BTV).abs().amax(dim=(0, 2))
        assert (moved_T[place : place + window] > 1e-4).all()
        assert (moved_T[:place] < 1e-6).all() and (moved_T[place + window :] < 1e-6).all()


@torch.no_grad()
def test_bands_and_whole_layers_take_turns(make_network: MakeNetwork, tokens: Tensor) -> None:
    """A band in the second of two layers leaves the first one's far sight: only what it alone could see is gone."""
    whole, alternating = make_network("gpt2"), make_network("gpt3", window=4)
    assert alternating.config.windowed_layers == (1,)
    alternating.load_state_dict(whole.state_dict())
    left, right = whole.logits(tokens), alternating.logits(tokens)
    torch.testing.assert_close(left[:, :4], right[:, :4], rtol=0, atol=1e-5)
    assert ((left - right)[:, 4:].abs().amax(dim=2) > 1e-4).all()
    wide = make_network("gpt3", window=24)
    wide.load_state_dict(whole.state_dict())
    torch.testing.assert_close(wide.logits(tokens), left, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_window_counts_kept_tokens_only(make_network: MakeNetwork, tokens: Tensor) -> None:
    model, pads = banded(make_network, 4), torch.zeros(3, 7, dtype=torch.int64)
    keep = torch.cat([torch.zeros(3, 7), torch.ones(3, 17)], dim=1).bool()
    padded = model.logits(torch.cat([pads, tokens[:, :17]], dim=1), keep_BS=keep)
    torch.testing.assert_close(padded[:, 7:], model.logits(tokens[:, :17]), rtol=0, atol=1e-5)


FORMULAS = {
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(0.0, x),
    "relu2": lambda x: max(0.0, x) ** 2,
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_activations_are_their_formulas(kind: str) -> None:
    x_N = torch.linspace(-4, 4, 41, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[kind](x) for x in x_N.tolist()], dtype=torch.float64)
    torch.testing.assert_close(activate(x_N, kind), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_the_mlps_are_their_formulas(make_network: MakeNetwork) -> None:
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    for kind in FORMULAS:
        mlp = make_network("gpt2", activation=kind).blocks[0].mlp
        inner = activate(x @ mlp.up.weight.T + mlp.up.bias, kind)
        torch.testing.assert_close(mlp(x), inner @ mlp.down.weight.T + mlp.down.bias, rtol=0, atol=1e-5)
    gated = make_network("llama").blocks[0].mlp
    assert isinstance(gated, SwiGLU)
    gate, up = gated.gate_up.weight.chunk(2)
    expected = (activate(x @ gate.T, "silu") * (x @ up.T)) @ gated.down.weight.T
    torch.testing.assert_close(gated(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", ["gpt1", "gpt2"])
@torch.no_grad()
def test_norms_stand_before_or_behind(make_network: MakeNetwork, tokens: Tensor, preset: str) -> None:
    """The equations at the top of models/gpt.py, written out."""
    model = make_network(preset, n_layer=1)
    block, norm = model.blocks[0], torch.nn.functional.layer_norm

    def normed(x: Tensor, part: Any) -> Tensor:
        return norm(x, (32,), part.weight, part.bias, 1e-5)

    def attend(x: Tensor) -> Tensor:
        q, k, v = (part.view(3, 24, 2, 16).transpose(1, 2) for part in block.attention.qkv(x).chunk(3, dim=-1))
        scores = (q @ k.transpose(2, 3) / 4).masked_fill(torch.ones(24, 24).triu(1).bool(), float("-inf"))
        mixed: Tensor = block.attention.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(3, 24, 32))
        return mixed

    x = model.token_embedding.weight[tokens] + model.position_embedding.weight
    if preset == "gpt1":
        x = normed(x + attend(x), block.attention_norm)
        x = normed(x + block.mlp(x), block.mlp_norm)
    else:
        x = x + attend(normed(x, block.attention_norm))
        x = normed(x + block.mlp(normed(x, block.mlp_norm)), model.final_norm)
    torch.testing.assert_close(model.logits(tokens), x @ model.token_embedding.weight.T, rtol=0, atol=2e-5)


def rotary(context_length: int = 64, d_head: int = 16, **changes: Any) -> TransformerConfig:
    fixed: dict[str, Any] = {"norm": "rmsnorm", "norm_eps": 1e-6, "activation": "swiglu", "tied": True, "position": "rotary"}
    sizes = {"vocab_size": 9, "n_layer": 1, "d_model": 32, "n_head": 2, "n_kv_head": 2, "d_head": d_head, "d_ff": 8}
    biases = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), False)
    return TransformerConfig.model_validate({"context_length": context_length, **fixed, **sizes, **biases, **changes})


def test_rotation_turns_pairs_by_position() -> None:
    """⟨R(m)q, R(n)k⟩ depends on m − n alone, and lengths stay."""
    table, generator = rotation_table(rotary(), rotary().context_length), torch.Generator().manual_seed(1)
    q, k = (torch.randn(16, generator=generator) for _ in range(2))
    turned_q, turned_k = (rotate(x.expand(1, 64, 1, 16), table)[0, :, 0] for x in (q, k))
    products = turned_q @ turned_k.T
    for apart in (0, 1, 17):
        diagonal = products.diagonal(apart)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=2e-5)
    torch.testing.assert_close(turned_q.norm(dim=1), q.norm().expand(64))
    angle = 3 * 10_000 ** (-2 * 2 / 16)  # pair 2, position 3: coordinates 2 and 10
    assert float(turned_q[3, 2]) == pytest.approx(float(q[2]) * math.cos(angle) - float(q[10]) * math.sin(angle), abs=1e-5)


SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "factor": 4.0},
    "llama3": {"kind": "llama3", "factor": 8.0, "original_context_length": 128, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"kind": "yarn", "factor": 4.0, "original_context_length": 128},
    "yarn-told": {"kind": "yarn", "factor": 4.0, "original_context_length": 64, "beta_fast": 8.0, "attention_factor": 1.3},
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_frequencies_equal_those_of_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = dict(SCALINGS[name])
    config = rotary(512, d_head=32, rope_scaling=RopeScaling.model_validate(values))
    kind, original = values.pop("kind"), values.pop("original_context_length", None)
    rope = {"rope_type": kind, "rope_theta": 10_000.0, **values}
    rope |= {"original_max_position_embeddings": original} if original else {}
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, "max_position_embeddings": 512}
    theirs, factor = ROPE_INIT_FUNCTIONS[kind](transformers.LlamaConfig(**sizes, rope_parameters=rope), "cpu")
    ours, size = rotary_frequencies(config)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert size == pytest.approx(factor)


def test_faithful_drops_the_same_entries_from_input_and_head(make_network: MakeNetwork, tokens: Tensor) -> None:
    """Radford et al. 2018, as released: dropout on the matrix, once a step, not on the summed embeddings."""
    model, seen = make_network("gpt1", faithful=True, dropout=0.5), list[Tensor]()
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].detach()))
    with torch.no_grad():
        model.position_embedding.weight.zero_()
    torch.manual_seed(1)
    hidden_BTD = model.train()(tokens)
    dropped, weight = model.head_matrix, model.token_embedding.weight
    gone = dropped == 0
    assert 0.4 < gone.float().mean() < 0.6
    torch.testing.assert_close(dropped[~gone], 2 * weight[~gone])
    assert torch.equal(seen[0], dropped[tokens])
    (hidden_BTD.detach() @ dropped.T).sum().backward()
    assert weight.grad is not None and bool((weight.grad[gone] == 0).all()) and bool((weight.grad[~gone] != 0).any())
    model(tokens)
    assert not torch.equal(model.head_matrix == 0, gone)  # the next step draws anew
    plain = make_network("gpt1", faithful=False, dropout=0.5)
    with torch.no_grad():
        plain.position_embedding.weight.zero_()
        assert model.eval().head_matrix is not weight
        torch.testing.assert_close(model.logits(tokens), plain.logits(tokens), rtol=0, atol=0)
    assert model.head_matrix is model.head.weight


def test_dropout_is_for_training_only(make_network: MakeNetwork, tokens: Tensor) -> None:
    for preset in ("gpt1", "gpt2", "modern"):
        model = make_network(preset, dropout=0.3)
        assert torch.equal(model.logits(tokens), model.logits(tokens))
        torch.manual_seed(1)
        first = model.train().logits(tokens)
        assert not torch.allclose(first, model.logits(tokens), atol=1e-2)
        torch.manual_seed(1)
        assert torch.equal(first, model.logits(tokens))


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_checkpointed_activations_give_the_same_gradients_and_keep_less(
    make_network: MakeNetwork, tokens: Tensor, preset: str
) -> None:
    """With dropout too: the second time draws as the first."""
    model, results = make_network(preset, dropout=0.3).train(), list[tuple[int, list[Tensor]]]()
    for model.checkpoint_activations in (False, True):
        kept = [0]

        def keep(x: Tensor, kept: list[int] = kept) -> Tensor:
            kept[0] += x.nbytes
            return x

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = model(tokens).square().mean()
        results.append((kept[0], list(torch.autograd.grad(loss, [p for n, p in model.named_parameters() if "head" not in n]))))
    (whole, expected), (less, gradients) = results
    assert less < whole / 3
    for left, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert torch.equal(model.eval()(tokens), model(tokens))
