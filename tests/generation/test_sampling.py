"""Samplers: distributions sum to 1 and are the ones that were asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretell.generation.config import GenerationSettings
from foretell.generation.sampling import distribution, draw, keep_top_k, keep_top_p

LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40).map(torch.tensor)


@given(LOGITS, st.floats(0.05, 5.0), st.integers(1, 50), st.floats(0.01, 1.0))
def test_every_distribution_sums_to_one(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> None:
    settings = GenerationSettings(temperature=temperature, top_k=top_k, top_p=top_p)
    probs = distribution(logits, settings)
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (probs >= 0).all() and (probs > 0).sum() <= top_k
    assert logits[probs.argmax()] >= logits.max() - 1e-4  # filters keep the likeliest; softmax cannot tell nearer ones apart


@given(LOGITS)
def test_greedy_is_the_argmax(logits: torch.Tensor) -> None:
    probs = distribution(logits, GenerationSettings(strategy="greedy"))
    assert draw(probs, torch.Generator().manual_seed(0)) == int(logits.argmax())


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    probs = torch.tensor([0.1, 0.5, 0.15, 0.25])
    torch.testing.assert_close(keep_top_p(probs, 0.7), torch.tensor([0.0, 2 / 3, 0.0, 1 / 3]))
    torch.testing.assert_close(keep_top_p(probs, 0.5), torch.tensor([0.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(keep_top_p(probs, 0.001), torch.tensor([0.0, 1.0, 0.0, 0.0]))


def test_top_k_keeps_exactly_k_even_among_equals() -> None:
    assert torch.isfinite(keep_top_k(torch.zeros(9), 4)).sum() == 4


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 20,000 draws, 3 degrees of freedom: 16.3 is the 0.1 % limit."""
    probs, generator = torch.tensor([0.5, 0.3, 0.0, 0.15, 0.05]), torch.Generator().manual_seed(11)
    counts = torch.bincount(torch.tensor([draw(probs, generator) for _ in range(20_000)]), minlength=5)
    assert counts[2] == 0
    expected = probs * 20_000
    kept = probs > 0
    assert (((counts - expected) ** 2)[kept] / expected[kept]).sum() < 16.3
