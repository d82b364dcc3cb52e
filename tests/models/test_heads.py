"""Heads: what each kind gives, and which place of the text it reads, however the text is padded."""

from typing import Any

import pytest
import torch
from torch import Tensor

from foretell.models.build import assign, build_empty
from foretell.models.heads import HeadConfig, HeadKind, TaskModel, initialise_head

BODIES = ["gpt1", "gpt2", "gpt3", "modern", "lstm", "bert"]
SHAPES: dict[HeadKind, tuple[int, ...]] = {
    "classes": (3, 5),
    "regression": (3, 1),
    "reward": (3, 1),
    "choice": (3, 1),
    "tokens": (3, 24, 5),
    "spans": (3, 24, 2),
}


def task_model(make_network: Any, body: str, kind: HeadKind = "classes") -> TaskModel:
    sizes = {"d_model": 32, "d_hidden": 24} if body == "lstm" else {}
    model = TaskModel(make_network(body, **sizes), HeadConfig(kind=kind, n_labels=5)).eval()
    initialise_head(model, seed=1)
    return model


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("body", BODIES)
@torch.no_grad()
def test_every_kind_gives_what_it_says(make_network: Any, tokens: Tensor, body: str, kind: HeadKind) -> None:
    model = task_model(make_network, body, kind)
    assert tuple(model(tokens).shape) == SHAPES[kind]
    assert model.bfloat16()(tokens).dtype == torch.float32


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("body", BODIES)
@torch.no_grad()
def test_the_last_kept_token_is_read_under_padding_on_either_side(make_network: Any, tokens: Tensor, body: str, side: str) -> None:
    if (body, side) == ("bert", "left"):
        pytest.skip("an encoder reads its first token, so its text begins a row")
    model, lengths = task_model(make_network, body), torch.tensor([24, 17, 1])
    keep = torch.arange(24) < lengths[:, None]
    mixed = tokens.clone()
    if side == "left":
        keep = keep.flip(1)
        for row, length in enumerate(lengths.tolist()):
            mixed[row, 24 - length :] = tokens[row, :length]
    expected = torch.cat([model(tokens[row : row + 1, :length]) for row, length in enumerate(lengths.tolist())])
    torch.testing.assert_close(model(mixed, None, keep), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("body", ["gpt1", "lstm"])
@torch.no_grad()
def test_a_decoder_is_read_where_it_is_told(make_network: Any, tokens: Tensor, body: str) -> None:
    model, at_B = task_model(make_network, body), torch.tensor([3, 0, 23])
    expected = torch.stack([model.task_head(model.body(tokens)[row, place]) for row, place in enumerate((3, 0, 23))])
    torch.testing.assert_close(model(tokens, at_B=at_B), expected)
    torch.testing.assert_close(model(tokens)[2], expected[2])


@torch.no_grad()
def test_an_encoder_is_read_at_its_pooled_first_token(make_network: Any, tokens: Tensor) -> None:
    model, segments = task_model(make_network, "bert"), (torch.arange(24) > 9).long().expand(3, 24)
    expected = model.task_head(model.body.pooled(model.body(tokens, segments)))  # type: ignore[operator]
    torch.testing.assert_close(model(tokens, segments), expected)
    assert not torch.allclose(model(tokens), expected)


def test_a_seed_gives_the_same_head_whatever_the_random_state(make_network: Any) -> None:
    def bytes_of(seed: int, ambient: int) -> list[Tensor]:
        model = TaskModel(make_network("gpt2", d_model=256), HeadConfig(kind="classes", n_labels=64))
        torch.manual_seed(ambient)
        before = torch.get_rng_state()
        initialise_head(model, seed)
        assert torch.equal(before, torch.get_rng_state())
        return [parameter.detach() for parameter in model.task_head.parameters()]

    first, again, other = bytes_of(1, 1), bytes_of(1, 2), bytes_of(2, 1)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert float(first[0].std()) == pytest.approx(0.02, rel=0.05) and not first[1].any()


def test_the_whole_model_learns(make_network: Any, tokens: Tensor) -> None:
    for body in BODIES:
        model = task_model(make_network, body).train()
        model(tokens).sum().backward()
        assert model.task_head.weight.grad is not None and model.body.token_embedding.weight.grad is not None
        assert bool(model.body.token_embedding.weight.grad.any())


@pytest.mark.parametrize("body", BODIES)
@torch.no_grad()
def test_an_empty_model_takes_weights_without_a_copy(make_network: Any, tokens: Tensor, body: str) -> None:
    full = task_model(make_network, body)
    empty = build_empty(full.body.config, full.head_config)
    assert isinstance(empty, TaskModel) and all(parameter.is_meta for parameter in empty.parameters())
    assign(empty, full.state_dict())
    assert torch.equal(empty.eval()(tokens), full(tokens))
    for ours, theirs in zip(empty.parameters(), full.parameters(), strict=True):
        assert ours.data_ptr() == theirs.data_ptr()
