"""Held-out loss, perplexity and bits per byte: one way of counting, used while training, at its end and by `evaluate`.

Every token is scored once, in disjoint windows of the model's context; end-of-text tokens stand for no text and are not
counted. Bits per byte compares models with different tokenizers: Σ nats / (ln 2 · bytes of the scored text).
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.batches import Batch
from foretell.models.network import LanguageModel
from foretell.training.loss import nats_per_token

MOST_ITEMS = 10_000  # windows whose scores are written down


@dataclass(frozen=True)
class Score:
    """What a model makes of a text. loss: mean nats per token. *_margin: half the 95 % interval; absent for one window.

    items: as `each_window` gives them; items_of: the digest of the text that they are of.
    """

    tokens: int
    bytes: int
    loss: float
    loss_margin: float | None
    bits_per_byte: float
    bits_margin: float | None
    items: list[float] = field(default_factory=list, repr=False)
    items_of: str = ""

    @classmethod
    def of(cls, windows_W3: NDArray[np.float64], items_of: str = "") -> "Score":
        """From the scored tokens, their bytes and their nats, window by window."""
        tokens_W, bytes_W, nats_W = windows_W3.T
        bits_W, items = nats_W / math.log(2), each_window(nats_W, tokens_W)
        sums = int(tokens_W.sum()), int(bytes_W.sum())
        return cls(*sums, *ratio(nats_W, tokens_W), *ratio(bits_W, bytes_W), items, items_of)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return exponential(self.loss)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {name: getattr(self, name) for name in ("tokens", "bytes", "loss", "perplexity", "bits_per_byte")}

    def to_metrics(self, protocol: str) -> dict[str, Any]:
        """evaluation.json's form: value, 95 % interval, n, protocol; of the loss also the items."""

        def metric(value: float, margin: float | None, scale: Callable[[float], float] = float) -> dict[str, Any]:
            low, high = (None, None) if margin is None else (scale(value - margin), scale(value + margin))
            return {"value": scale(value), "low": low, "high": high, "n": self.tokens, "protocol": protocol}

        return {
            "held_out_loss": metric(self.loss, self.loss_margin) | {"items": self.items, "items_of": self.items_of},
            "held_out_perplexity": metric(self.loss, self.loss_margin, exponential),
            "held_out_bits_per_byte": metric(self.bits_per_byte, self.bits_margin),
        }


def ratio(sums_W: NDArray[np.float64], base_W: NDArray[np.float64]) -> tuple[float, float | None]:
    """Σ sums / Σ base and half its 95 % interval: the ratio estimator, with windows as clusters.

    Source: Cochran 1977, Sampling Techniques, section 6.4; Miller 2024 (arXiv 2411.00640) for scores of models.
    """
    total, count = max(1.0, float(base_W.sum())), len(base_W)
    ratio = float(sums_W.sum()) / total
    if count < 2:
        return ratio, None
    variance = count / (count - 1) * float(((sums_W - ratio * base_W) ** 2).sum())
    return ratio, 1.96 * math.sqrt(variance) / total


def each_window(nats_W: NDArray[np.float64], tokens_W: NDArray[np.float64]) -> list[float]:
    """Nats per token of the windows that have tokens to score, in order; of more than MOST_ITEMS evenly spaced ones."""
    counted = np.flatnonzero(tokens_W)
    number = min(len(counted), MOST_ITEMS)
    counted = counted[np.arange(number) * len(counted) // max(1, number)]
    return [round(value, 5) for value in (nats_W[counted] / tokens_W[counted]).tolist()]


class TextDigest:
    """SHA-256 of which tokens were scored, and where in their windows: only scores of the same ones can be paired."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    def add(self, batch: Batch) -> None:
        """The next windows, in any number at a time."""
        self._sum.update(torch.where(batch.weight_BT > 0, batch.targets_BT, -1).numpy().tobytes())

    def __str__(self) -> str:
        return self._sum.hexdigest()


def exponential(value: float) -> float:
    """exp, held within what a float can be."""
    return math.exp(min(value, 700.0))  # the largest that a float holds is e^709


@torch.no_grad()
def window_nats(model: LanguageModel, batch: Batch) -> Tensor:
    """−log p of every target, (B, T), fp32 on the CPU."""
    head_VD = model.head.weight
    return nats_per_token(model(batch.tokens_BT.to(head_VD.device)), head_VD, batch.targets_BT.to(head_VD.device)).cpu()


def score_batches(model: LanguageModel, batches: Iterable[Batch], bytes_of_token: NDArray[np.int64]) -> Score:
    """Score every target with weight. bytes_of_token: (V,) bytes of text that each token stands for."""
    was_training, bytes_V, rows, text = model.training, torch.from_numpy(bytes_of_token), [np.empty((0, 3))], TextDigest()
    model.eval()
    for batch in batches:
        text.add(batch)
        counted_BT = (batch.weight_BT > 0).double()
        parts = (counted_BT, counted_BT * bytes_V[batch.targets_BT], counted_BT * window_nats(model, batch))
        rows.append(torch.stack([part_BT.sum(1) for part_BT in parts], dim=1).numpy())
    model.train(was_training)
    return Score.of(np.concatenate(rows), str(text))


def text_batches(tokens_N: NDArray[np.int64], start: int, context_length: int, micro_batch: int) -> Iterator[Batch]:
    """Disjoint windows over one text, every token once; the first is conditioned on `start`, the end-of-text token."""
    width = max(1, min(context_length, len(tokens_N)))
    windows = -(-len(tokens_N) // width)
    stream_N = np.pad(tokens_N, (1, windows * width - len(tokens_N)), constant_values=start)
    tokens_WT, targets_WT = (torch.from_numpy(part).view(windows, width) for part in (stream_N[:-1], stream_N[1:]))
    weight_WT = (torch.arange(windows * width) < len(tokens_N)).float().view(windows, width)
    for first in range(0, windows, micro_batch):
        rows = slice(first, first + micro_batch)
        yield Batch(tokens_WT[rows], targets_WT[rows], weight_WT[rows])


def protocol(context_length: int, precision: str) -> str:
    """What the numbers mean, in one line, printed beside them."""
    return f"disjoint windows of {context_length} tokens, every token scored once, end-of-text not counted, {precision}"
