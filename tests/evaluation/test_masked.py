"""BERT's held-out scores: sums over all hidden tokens, with intervals over windows, the same however the text is cut."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from foretell.data.batches import Batch
from foretell.evaluation.masked import MaskedScore, masked_protocol, score_masked
from foretell.models.bert import BERT
from foretell.models.build import build, initialise
from foretell.models.settings import ModelSettings, resolve

ROWS = 12


@pytest.fixture
def model() -> BERT:
    sizes = {"preset": "bert", "n_layer": 1, "d_model": 32, "n_head": 2, "context_length": 16}
    network = build(resolve(ModelSettings.model_validate(sizes), 20)[0])
    initialise(network, seed=1)
    assert isinstance(network, BERT)
    with torch.no_grad():
        network.head.bias[2] = 9.0  # so that some are found
    return network


def batches(micro_batch: int, paired: bool = True) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 4, (ROWS, 16), generator=generator)
    weight = (torch.rand(ROWS, 16, generator=generator) < 0.3).float()
    labels = torch.randint(0, 2, (ROWS,), generator=generator)
    for first in range(0, ROWS, micro_batch):
        rows = slice(first, first + micro_batch)
        batch = Batch(tokens[rows], tokens[rows], weight[rows], torch.zeros_like(tokens[rows]))
        yield replace(batch, next_B=labels[rows]) if paired else batch


@pytest.mark.parametrize("micro_batch", [1, 5, ROWS])
def test_scores_are_those_of_all_hidden_tokens(model: BERT, micro_batch: int) -> None:
    (whole,) = batches(ROWS)
    with torch.no_grad():
        hidden = model.eval()(whole.tokens_BT, whole.segments_BT)
        chosen = whole.weight_BT > 0
        logits, targets = model.masked_logits(hidden)[chosen], whole.targets_BT[chosen]
        told = torch.eq(model.next_sentence_logits(hidden).argmax(1), whole.next_B)  # type: ignore[arg-type]
    score = score_masked(model.train(), batches(micro_batch))
    assert model.training
    assert score.tokens == int(chosen.sum())
    assert score.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-5)
    assert score.accuracy == pytest.approx(float((logits.argmax(1) == targets).float().mean())) and 0.1 < score.accuracy < 0.5
    assert score.next_sentence == pytest.approx(float(told.float().mean()))
    assert score.next_sentence_margin == pytest.approx(1.96 * math.sqrt(told.float().var(unbiased=True).item() / ROWS), rel=1e-5)


def test_without_pairs_nothing_is_said_of_them(model: BERT) -> None:
    unpaired = score_masked(model, batches(5, paired=False))
    single = BERT(model.config.replace(parts=("masked",)))
    single.load_state_dict(model.state_dict(), strict=False)
    for score in (unpaired, score_masked(single, batches(5))):
        assert score.next_sentence is None and score.next_sentence_margin is None
        assert score.loss == pytest.approx(score_masked(model, batches(5)).loss)
        assert set(score.to_metrics("how")) == {"held_out_loss", "held_out_masked_accuracy"}
        assert set(score.to_json()) == {"masked_tokens", "loss", "perplexity", "masked_accuracy"}


def test_intervals_are_over_windows() -> None:
    """Cochran 1977, section 6.4, written out for windows with unequally many hidden tokens."""
    rows = np.array([[4, 8.0, 2, 1], [2, 6.0, 1, 0], [6, 9.0, 6, 1], [4, 4.0, 1, 1]])
    score = MaskedScore.of(rows, paired=True)
    assert (score.tokens, score.loss, score.accuracy, score.next_sentence) == (16, 27 / 16, 10 / 16, 0.75)
    spread = sum((nats - 27 / 16 * hidden) ** 2 for hidden, nats in rows[:, :2].tolist())
    assert score.loss_margin == pytest.approx(1.96 * math.sqrt(4 / 3 * spread) / 16)
    metrics: dict[str, Any] = score.to_metrics("how")
    loss = metrics["held_out_loss"]
    assert (loss["value"], loss["n"], loss["protocol"]) == (27 / 16, 16, "how")
    assert loss["high"] - loss["value"] == pytest.approx(loss["value"] - loss["low"]) == pytest.approx(score.loss_margin)
    assert metrics["held_out_next_sentence_accuracy"]["n"] == 4
    assert score.to_json()["perplexity"] == pytest.approx(math.exp(27 / 16))
    assert score.to_json()["next_sentence_accuracy"] == 0.75


def test_one_window_has_no_interval() -> None:
    score = MaskedScore.of(np.array([[4, 8.0, 2, 1]]), paired=True)
    assert (score.loss_margin, score.accuracy_margin, score.next_sentence_margin) == (None, None, None)
    assert {(row["low"], row["high"]) for row in score.to_metrics("how").values()} == {(None, None)}


def test_the_protocol_says_what_was_measured() -> None:
    told = masked_protocol(128, 0.15, "fp32")
    assert "15%" in told and "windows of 128 tokens" in told and "fp32" in told


def test_the_loss_of_each_window_is_written_down(model: BERT) -> None:
    metrics = MaskedScore.of(np.array([[4, 8.0, 2, 1], [0, 0.0, 0, 1], [2, 5.0, 1, 0]]), True, "a digest").to_metrics("how")
    assert (metrics["held_out_loss"]["items"], metrics["held_out_loss"]["items_of"]) == ([2.0, 2.5], "a digest")
    first, second = (score_masked(model, batches(micro_batch)) for micro_batch in (1, 5))
    assert first.items_of == second.items_of and first.items == pytest.approx(second.items, abs=2e-5) and len(first.items) == ROWS
