"""How well an encoder finds hidden tokens and tells true pairs of segments: what held-out loss means for BERT."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.batches import Batch
from foretell.evaluation.perplexity import TextDigest, each_window, exponential, ratio
from foretell.models.bert import BERT
from foretell.training.objective import masked_results


@dataclass(frozen=True)
class MaskedScore:
    """tokens: hidden ones. loss: their mean nats. The accuracies are shares, of tokens and of pairs of segments.

    *_margin: half the 95 % interval, absent for one window. items, items_of: as of Score.
    """

    tokens: int
    loss: float
    loss_margin: float | None
    accuracy: float
    accuracy_margin: float | None
    next_sentence: float | None = None
    next_sentence_margin: float | None = None
    pairs: int = 0
    items: list[float] = field(default_factory=list, repr=False)
    items_of: str = ""

    @classmethod
    def of(cls, sequences_S4: NDArray[np.float64], paired: bool, items_of: str = "") -> "MaskedScore":
        """From the rows of training.objective.masked_results."""
        hidden_S, nats_S, found_S, told_S = sequences_S4.T
        told = (*ratio(told_S, np.ones_like(told_S)), len(told_S)) if paired else ()
        items: dict[str, Any] = {"items": each_window(nats_S, hidden_S), "items_of": items_of}
        return cls(int(hidden_S.sum()), *ratio(nats_S, hidden_S), *ratio(found_S, hidden_S), *told, **items)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        told = {"next_sentence_accuracy": self.next_sentence} if self.next_sentence is not None else {}
        loss = {"loss": self.loss, "perplexity": exponential(self.loss)}
        return {"masked_tokens": self.tokens, **loss, "masked_accuracy": self.accuracy, **told}

    def to_metrics(self, protocol: str) -> dict[str, Any]:
        """evaluation.json's form: value, 95 % interval, n, protocol; of the loss also the items."""
        rows = {"held_out_loss": (self.loss, self.loss_margin, self.tokens)}
        rows["held_out_masked_accuracy"] = (self.accuracy, self.accuracy_margin, self.tokens)
        if self.next_sentence is not None:
            rows["held_out_next_sentence_accuracy"] = (self.next_sentence, self.next_sentence_margin, self.pairs)
        metrics: dict[str, Any] = {
            name: {
                "value": value,
                "low": None if margin is None else value - margin,
                "high": None if margin is None else value + margin,
                "n": number,
                "protocol": protocol,
            }
            for name, (value, margin, number) in rows.items()
        }
        metrics["held_out_loss"] |= {"items": self.items, "items_of": self.items_of}
        return metrics


def score_masked(model: BERT, batches: Iterable[Batch]) -> MaskedScore:
    """Score every hidden token of the batches."""
    was_training, rows, paired, text = model.training, [np.empty((0, 4))], False, TextDigest()
    model.eval()
    for batch in batches:
        text.add(batch)
        rows.append(masked_results(model, batch).numpy())
        paired |= batch.next_B is not None and model.next_sentence is not None
    model.train(was_training)
    return MaskedScore.of(np.concatenate(rows), paired, str(text))


def masked_protocol(context_length: int, share: float, precision: str) -> str:
    """What the numbers mean, in one line."""
    return f"{share:.0%} of the tokens hidden, the same ones every time, in windows of {context_length} tokens, {precision}"
