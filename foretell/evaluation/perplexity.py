"""Held-out loss, perplexity and bits per byte: one way of counting, used while training, at its end and by `evaluate`.

Every token is scored once, in disjoint windows of the model's context; end-of-text tokens stand for no text and are not
counted. Bits per byte compares models with different tokenizers: Σ nats / (ln 2 · bytes of the scored text).
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.data.batches import Batch
from foretell.models.gpt import GPT
from foretell.training.loss import nats_per_token


@dataclass(frozen=True)
class Score:
    """Sums over the scored tokens, window by window: (W, 3) of tokens, bytes, nats. The rates follow."""

    windows_W3: NDArray[np.float64]

    @property
    def tokens(self) -> int:
        """How many were scored."""
        return int(self.windows_W3[:, 0].sum())

    @property
    def bytes(self) -> int:
        """Of the text that they stand for."""
        return int(self.windows_W3[:, 1].sum())

    @property
    def nats(self) -> float:
        """Σ −ln p."""
        return float(self.windows_W3[:, 2].sum())

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(loss), as large as a float can be."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for one byte of text."""
        return self.nats / (math.log(2) * max(1, self.bytes))

    def half_width(self, per: int) -> float:
        """Half the 95 % interval of nats per token (per=0) or per byte (per=1): the ratio estimator, windows as clusters.

        Source: Cochran 1977, Sampling Techniques, section 6.4; Miller 2024 (arXiv 2411.00640) for scores.
        """
        base, nats = self.windows_W3[:, per], self.windows_W3[:, 2]
        count = len(nats)
        if count < 2 or not base.sum():
            return math.inf
        deviation = nats - nats.sum() / base.sum() * base
        return float(1.96 * math.sqrt(count / (count - 1) * (deviation**2).sum()) / base.sum())

    def to_json(self) -> dict[str, Any]:
        """The totals and rates as plain values."""
        rates = {"loss": self.loss, "perplexity": self.perplexity, "bits_per_byte": self.bits_per_byte}
        return {"tokens": self.tokens, "bytes": self.bytes, **rates}

    def to_metrics(self, protocol: str) -> dict[str, Any]:
        """evaluation.json's form: value, 95 % interval, n, protocol."""

        def metric(value: float, low: float, high: float) -> dict[str, Any]:
            bounds = (bound if math.isfinite(bound) else None for bound in (low, high))
            return {"value": value, **dict(zip(("low", "high"), bounds, strict=True)), "n": self.tokens, "protocol": protocol}

        nats, bits = self.half_width(0), self.half_width(1) / math.log(2)
        return {
            "held_out_loss": metric(self.loss, self.loss - nats, self.loss + nats),
            "held_out_perplexity": metric(
                self.perplexity, self.perplexity * math.exp(-nats), self.perplexity * math.exp(min(nats, 700.0))
            ),
            "held_out_bits_per_byte": metric(self.bits_per_byte, self.bits_per_byte - bits, self.bits_per_byte + bits),
        }


@torch.no_grad()
def score_batches(model: GPT, batches: Iterable[Batch], bytes_of_token: NDArray[np.int64]) -> Score:
    """Score every target with weight. bytes_of_token: (V,) bytes of text that each token stands for."""
    device, byte_table = model.head.weight.device, torch.from_numpy(bytes_of_token)
    was_training = model.training
    model.eval()
    rows: list[NDArray[np.float64]] = [np.empty((0, 3))]
    for batch in batches:
        nats_BT = nats_per_token(model(batch.tokens_BT.to(device)), model.head.weight, batch.targets_BT.to(device)).cpu()
        counted_BT = (batch.weight_BT > 0).double()
        bytes_BT = byte_table[batch.targets_BT] * counted_BT
        sums_B3 = torch.stack([counted_BT.sum(1), bytes_BT.sum(1), (nats_BT.double() * counted_BT).sum(1)], dim=1)
        rows.append(sums_B3.numpy())
    model.train(was_training)
    return Score(np.concatenate(rows))


def text_batches(tokens_N: NDArray[np.int64], start: int, context_length: int, micro_batch: int) -> Iterator[Batch]:
    """Disjoint windows over one text, every token once; the first is conditioned on `start`, the end-of-text token."""
    inputs_N = np.concatenate(([start], tokens_N[:-1]))
    for first in range(0, len(tokens_N), context_length * micro_batch):
        rows = range(first, min(first + context_length * micro_batch, len(tokens_N)), context_length)
        width = min(context_length, len(tokens_N) - first)
        tokens_BT = torch.full((len(rows), width), start, dtype=torch.int64)
        targets_BT, weight_BT = torch.zeros_like(tokens_BT), torch.zeros(tokens_BT.shape)
        for index, row in enumerate(rows):
            count = min(width, len(tokens_N) - row)
            tokens_BT[index, :count] = torch.from_numpy(inputs_N[row : row + count])
            targets_BT[index, :count] = torch.from_numpy(tokens_N[row : row + count])
            weight_BT[index, :count] = 1.0
        yield Batch(tokens_BT, targets_BT, weight_BT, torch.zeros_like(tokens_BT))


def protocol(context_length: int, precision: str) -> str:
    """What the numbers mean, in one line, printed beside them."""
    return f"disjoint windows of {context_length} tokens, every token scored once, end-of-text not counted, {precision}"
