"""Scores are what torch's cross-entropy says, count every token once, and come with honest intervals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from foretell.data.batches import Batch
from foretell.evaluation.perplexity import Score, TextDigest, each_window, score_batches, text_batches
from foretell.models.build import initialise
from foretell.models.gpt import GPT
from foretell.models.settings import ModelSettings, resolve

VOCABULARY, CONTEXT = 50, 16
BYTES = np.arange(VOCABULARY, dtype=np.int64) % 4  # token 0 is the end of text: no bytes


def model_of(uniform: bool = False) -> GPT:
    model = GPT(resolve(ModelSettings(n_layer=1, d_model=32, n_head=2, context_length=CONTEXT), VOCABULARY)[0])
    initialise(model, seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.0 if uniform else 3.0)
    return model


def tokens_of(length: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, VOCABULARY, length)


def windows_of(nats: list[float], tokens: float = 10.0) -> np.ndarray:
    return np.array([[tokens, 2 * tokens, value] for value in nats])


@pytest.mark.parametrize("length", [1, CONTEXT, 5 * CONTEXT + 3])
def test_the_score_is_the_cross_entropy_of_every_window(length: int) -> None:
    model, tokens = model_of(), torch.from_numpy(tokens_of(length))
    inputs, nats = torch.cat((torch.tensor([0]), tokens)), 0.0  # the token before each: the end of text before the first
    for first in range(0, length, CONTEXT):
        targets = tokens[first : first + CONTEXT]
        logits = model.logits(inputs[None, first : first + len(targets)])[0].detach()
        nats += F.cross_entropy(logits, targets, reduction="sum").item()
    score = score_batches(model, text_batches(tokens.numpy(), 0, CONTEXT, 2), BYTES)
    assert (score.tokens, score.bytes) == (length, int(BYTES[tokens].sum()))
    assert score.loss == pytest.approx(nats / length, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(nats / length), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / max(1, score.bytes), rel=1e-5)


@given(st.integers(0, 100), st.integers(1, 40), st.integers(1, 9))
def test_every_token_is_a_target_once_and_follows_the_one_before(length: int, context: int, micro_batch: int) -> None:
    tokens = tokens_of(length)
    batches = list(text_batches(tokens, 0, context, micro_batch))
    counted = [batch.weight_BT > 0 for batch in batches]
    targets = [int(t) for batch, mask in zip(batches, counted, strict=True) for t in batch.targets_BT[mask]]
    inputs = [int(t) for batch, mask in zip(batches, counted, strict=True) for t in batch.tokens_BT[mask]]
    assert targets == tokens.tolist()
    assert inputs == [0, *tokens.tolist()][:length]
    assert all(batch.tokens_BT.shape[0] <= micro_batch and batch.tokens_BT.shape[1] <= context for batch in batches)


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_the_micro_batch_changes_nothing(micro_batch: int) -> None:
    model, tokens = model_of(), tokens_of(100)
    whole = score_batches(model, text_batches(tokens, 0, CONTEXT, 7), BYTES)
    assert score_batches(model, text_batches(tokens, 0, CONTEXT, micro_batch), BYTES).loss == pytest.approx(whole.loss, rel=1e-6)


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary() -> None:
    tokens = tokens_of(77)
    score = score_batches(model_of(uniform=True), text_batches(tokens, 0, CONTEXT, 4), BYTES)
    assert score.perplexity == pytest.approx(VOCABULARY, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(math.log2(VOCABULARY) * len(tokens) / BYTES[tokens].sum(), rel=1e-6)
    assert score.loss_margin == pytest.approx(0.0, abs=1e-6)


def test_what_has_no_weight_is_not_counted() -> None:
    """As end-of-text tokens in held-out text: neither their nats nor their number."""
    model, tokens = model_of(), torch.from_numpy(tokens_of(8))[None]
    weight = torch.ones(1, 8)
    weight[0, 3] = 0.0
    score = score_batches(model, [Batch(tokens, tokens, weight)], BYTES)
    nats = F.cross_entropy(model.logits(tokens)[0], tokens[0], reduction="none")
    assert score.tokens == 7
    assert score.loss == pytest.approx((nats.sum() - nats[3]).item() / 7, rel=1e-5)


def test_scoring_leaves_the_mode_of_the_model_as_it_was() -> None:
    model = model_of().train()
    score_batches(model, text_batches(tokens_of(5), 0, CONTEXT, 1), BYTES)
    assert model.training


def test_the_interval_shrinks_with_the_root_of_the_windows() -> None:
    nats = (20 + np.random.default_rng(3).normal(size=1600)).tolist()
    few, many = Score.of(windows_of(nats[:100])), Score.of(windows_of(nats))
    assert few.loss_margin is not None and many.loss_margin is not None and few.bits_margin is not None
    assert many.loss_margin == pytest.approx(few.loss_margin / 4, rel=0.2)
    assert few.loss_margin == pytest.approx(1.96 * 0.1 / math.sqrt(100), rel=0.2)  # a window's mean loss spreads by 1/10
    assert few.bits_margin == pytest.approx(few.loss_margin / 2 / math.log(2))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random, held = np.random.default_rng(4), 0
    for _ in range(500):
        sizes = random.integers(5, 15, 60).astype(float)
        nats = sizes * 3 + random.normal(size=60)
        score = Score.of(np.stack([sizes, sizes, nats], axis=1))
        assert score.loss_margin is not None
        held += abs(score.loss - 3) <= score.loss_margin
    assert 0.91 <= held / 500 <= 0.98


def test_metrics_have_a_value_within_its_interval_and_the_protocol() -> None:
    metrics = Score.of(windows_of([19.0, 21.0, 20.5])).to_metrics("as agreed")
    assert metrics.keys() == {"held_out_loss", "held_out_perplexity", "held_out_bits_per_byte"}
    for metric in metrics.values():
        assert metric["low"] < metric["value"] < metric["high"] and metric["n"] == 30 and metric["protocol"] == "as agreed"
    loss, perplexity = metrics["held_out_loss"], metrics["held_out_perplexity"]
    assert all(perplexity[key] == pytest.approx(math.exp(loss[key])) for key in ("low", "value", "high"))


def test_one_window_has_no_interval_and_a_hopeless_model_a_finite_perplexity() -> None:
    metrics = Score.of(windows_of([1e5])).to_metrics("")
    assert {metric[bound] for metric in metrics.values() for bound in ("low", "high")} == {None}
    assert math.isfinite(metrics["held_out_perplexity"]["value"])
    assert Score.of(np.empty((0, 3))).to_json() == {"tokens": 0, "bytes": 0, "loss": 0.0, "perplexity": 1.0, "bits_per_byte": 0.0}


def test_the_loss_of_each_window_is_written_down_with_what_it_is_of() -> None:
    windows = np.array([[10.0, 20.0, 19.0], [0.0, 0.0, 0.0], [3.0, 6.0, 1.0]])
    metrics = Score.of(windows, "a digest").to_metrics("")
    assert (metrics["held_out_loss"]["items"], metrics["held_out_loss"]["items_of"]) == ([1.9, 0.33333], "a digest")
    assert "items" not in metrics["held_out_bits_per_byte"] and "items" not in Score.of(windows).to_json()
    many = each_window(np.arange(25_000.0), np.ones(25_000))
    assert len(many) == 10_000 and many[:3] == [0.0, 2.0, 5.0] and many[-1] == 24_997.0


def test_a_text_is_told_from_another_however_it_is_cut_into_batches() -> None:
    def digest_of(tokens: list[int], micro_batch: int, weight: float = 1.0) -> str:
        digest = TextDigest()
        for batch in text_batches(np.array(tokens), 0, 4, micro_batch):
            digest.add(replace(batch, weight_BT=batch.weight_BT * weight))
        return str(digest)

    text = list(range(1, 15))
    assert digest_of(text, 1) == digest_of(text, 3)
    assert len({digest_of(text, 1), digest_of(text[:-1], 1), digest_of([9, *text[1:]], 1), digest_of(text, 1, weight=0.0)}) == 4
