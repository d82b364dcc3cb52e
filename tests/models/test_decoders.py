"""Every network that reads from left to right: what is cached, what is padding, and what comes later change nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from foretell.models.network import LanguageModel

NEAR: dict[str, Any] = {"rtol": 0, "atol": 2e-5}
LENGTHS = (24, 17, 5)


def padded(tokens_BT: Tensor, side: str, seed: int) -> tuple[Tensor, Tensor]:
    """The first LENGTHS tokens of each row, with random padding before or behind them; and which are kept."""
    noise = torch.randint(0, 60, tokens_BT.shape, generator=torch.Generator().manual_seed(seed))
    keep = torch.zeros(tokens_BT.shape, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        keep[row, -length if side == "left" else 0 : None if side == "left" else length] = True
        noise[row, keep[row]] = tokens_BT[row, :length]
    return noise, keep


@pytest.mark.parametrize("pieces", [[1] * 24, [7, 1, 1, 15], [23, 1], [2, 22]])
@torch.no_grad()
def test_cached_equals_uncached(decoder: LanguageModel, tokens: Tensor, pieces: list[int]) -> None:
    whole_BTV, cache, read = decoder.logits(tokens), decoder.new_cache(3, 24), list[Tensor]()
    for piece in torch.split(tokens, pieces, dim=1):
        read.append(decoder.logits(piece, cache))
        cache.advance(piece.shape[1])
    assert cache.length == 24 and whole_BTV.dtype == torch.float32
    torch.testing.assert_close(torch.cat(read, dim=1), whole_BTV, **NEAR)


@torch.no_grad()
def test_what_comes_later_changes_nothing_before(decoder: LanguageModel, tokens: Tensor) -> None:
    before_BTV = decoder.logits(tokens)
    for place in range(24):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 60
        after_BTV = decoder.logits(changed)
        torch.testing.assert_close(after_BTV[:, :place], before_BTV[:, :place], rtol=0, atol=1e-6)
        assert ((after_BTV[:, place] - before_BTV[:, place]).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_nothing(decoder: LanguageModel, tokens: Tensor, side: str) -> None:
    (first, keep), (second, _) = (padded(tokens, side, seed) for seed in (5, 6))
    logits_BTV = decoder.logits(first, keep_BS=keep)
    assert not torch.equal(first, second) and bool(logits_BTV.isfinite().all())
    assert torch.equal(logits_BTV[keep], decoder.logits(second, keep_BS=keep)[keep])  # nobody sees which padding it is
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(logits_BTV[row, keep[row]], decoder.logits(tokens[row : row + 1, :length])[0], **NEAR)


@pytest.mark.parametrize("pieces", [[21, 1, 1, 1], [6, 5, 13], [1] * 24])
@torch.no_grad()
def test_prompts_of_unequal_lengths_are_read_together(decoder: LanguageModel, tokens: Tensor, pieces: list[int]) -> None:
    """Padded on the left and cached, as a batch of prompts is; the first pieces of a short prompt are padding and nothing else."""
    mixed, keep = padded(tokens, "left", seed=5)
    cache, read, seen = decoder.new_cache(3, 24), list[Tensor](), 0
    for piece in torch.split(mixed, pieces, dim=1):
        seen += piece.shape[1]
        read.append(decoder.logits(piece, cache, keep[:, :seen]))
        cache.advance(piece.shape[1])
    for row, length in enumerate(LENGTHS):
        expected = decoder.logits(tokens[row : row + 1, :length])[0]
        torch.testing.assert_close(torch.cat(read, dim=1)[row, keep[row]], expected, **NEAR)


@torch.no_grad()
def test_a_mask_that_keeps_all_is_no_mask(decoder: LanguageModel, tokens: Tensor) -> None:
    everything = torch.ones_like(tokens, dtype=torch.bool)
    torch.testing.assert_close(decoder.logits(tokens, keep_BS=everything), decoder.logits(tokens), **NEAR)


@torch.no_grad()
def test_in_bf16_the_plain_attention_is_near_the_fused_one(decoder: LanguageModel, tokens: Tensor) -> None:
    mixed, keep = padded(tokens, "left", seed=5)
    exact_BTD = decoder(mixed, None, keep)
    rounded_BTD = decoder.bfloat16()(mixed, None, keep).float()
    assert (rounded_BTD - exact_BTD)[keep].norm() / exact_BTD[keep].norm() < 0.03
