"""The encoder: it sees both sides, never padding, and its heads are their equations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from foretell.models.bert import BERT
from foretell.models.layers import activate


@pytest.fixture
def model(make_network: Any) -> BERT:
    network = make_network("bert")
    assert isinstance(network, BERT)
    return network


@torch.no_grad()
def test_every_token_sees_every_other(model: BERT, tokens: Tensor) -> None:
    before_BTD = model(tokens)
    for place in range(24):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 60
        assert ((model(changed) - before_BTD).abs().amax(dim=2) > 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_nobody_sees_padding(model: BERT, tokens: Tensor, dtype: torch.dtype) -> None:
    model.to(dtype)
    keep = torch.arange(24) < torch.tensor([24, 17, 1])[:, None]
    segments = (torch.arange(24) > 9).long().expand(3, 24)
    hidden_BTD = model(tokens, segments, keep)
    other = tokens.where(keep, (tokens + 1) % 60)
    assert torch.equal(hidden_BTD[keep], model(other, segments, keep)[keep]) and bool(hidden_BTD.isfinite().all())
    if dtype == torch.float32:
        for row, length in enumerate((24, 17, 1)):
            alone = model(tokens[row : row + 1, :length], segments[:1, :length])[0]
            torch.testing.assert_close(hidden_BTD[row, :length], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_segments_have_embeddings(model: BERT, tokens: Tensor) -> None:
    assert torch.equal(model(tokens), model(tokens, torch.zeros_like(tokens)))
    assert not torch.allclose(model(tokens), model(tokens, torch.ones_like(tokens)), atol=1e-3)
    seen = list[Tensor]()
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    segments = (torch.arange(24) > 9).long().expand(3, 24)
    model(tokens, segments)
    x = model.token_embedding.weight[tokens] + model.position_embedding.weight + model.segment_embedding.weight[segments]
    norm = model.embedding_norm
    expected = torch.nn.functional.layer_norm(x, (32,), norm.weight, norm.bias, 1e-12)  # type: ignore[arg-type]
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_heads_are_their_equations(model: BERT, tokens: Tensor) -> None:
    assert model.pooler and model.transform and model.transform_norm and model.next_sentence
    hidden_BTD = model(tokens)
    pooled_BD = torch.tanh(hidden_BTD[:, 0] @ model.pooler.weight.T + model.pooler.bias)
    torch.testing.assert_close(model.next_sentence_logits(hidden_BTD), model.next_sentence(pooled_BD))
    transformed = model.transform_norm(activate(model.transform(hidden_BTD), "gelu"))
    expected = transformed @ model.token_embedding.weight.T + model.head.bias
    torch.testing.assert_close(model.masked_logits(hidden_BTD), expected, rtol=0, atol=1e-5)
    assert model.head_matrix is model.token_embedding.weight
    assert (model.next_sentence_logits(hidden_BTD).shape, expected.shape) == ((3, 2), (3, 24, 60))


def test_only_the_parts_that_are_named_are_there(model: BERT) -> None:
    body = BERT(model.config.replace(parts=()))
    assert not {name.split(".")[0] for name in body.state_dict()} & {"pooler", "head", "transform", "next_sentence"}
    with pytest.raises(AssertionError, match="no pooler"):
        body.pooled(torch.zeros(1, 2, 32))
