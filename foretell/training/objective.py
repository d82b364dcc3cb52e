"""What is minimised, by kind of network: next tokens for decoders and LSTMs, hidden tokens and next sentences for BERT.

Each part is a sum over the micro-batch, divided once by the whole batch's count, so that accumulation changes nothing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foretell.data.batches import Batch
from foretell.models.bert import BERT
from foretell.models.cache import Cache
from foretell.models.network import Network
from foretell.training.config import TrainingSettings
from foretell.training.loss import cross_entropy_sum

Forward = Callable[..., Tensor]
DEFAULTS = TrainingSettings()


class Totals(NamedTuple):
    """Of a whole batch: the weight of its targets, the sequences with a next-sentence label, its tokens."""

    weight: float
    sequences: int
    tokens: int

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> "Totals":
        """The sums over the pieces of a batch."""
        labelled = sum(len(batch.tokens_BT) for batch in batches if batch.next_B is not None)
        tokens = sum(batch.tokens_BT.numel() for batch in batches)
        return cls(sum(float(batch.weight_BT.sum()) for batch in batches), labelled, tokens)


def objective(
    model: Network,
    batch: Batch,
    totals: Totals,
    forward: Forward,
    memory: Cache | None = None,
    training: TrainingSettings = DEFAULTS,
) -> Tensor:
    """Nats, a scalar with gradients: this micro-batch's share of the batch's mean. forward: the model, or it compiled.

    training: its z_loss and label_smoothing.
    """
    batch = batch.to(model.token_embedding.weight.device)
    terms = {name: value for name in ("z_loss", "label_smoothing") if (value := getattr(training, name))}
    if isinstance(model, BERT):
        return _masked(model, batch, totals, terms, forward)
    if batch.documents_BT is not None:
        hidden_BTD = forward(batch.tokens_BT, None, None, batch.documents_BT)
    else:
        hidden_BTD = forward(batch.tokens_BT) if memory is None else forward(batch.tokens_BT, memory)
    batch = batch.to(hidden_BTD.device)  # where the weights rest on the host, layers are computed elsewhere
    return cross_entropy_sum(hidden_BTD, model.head_matrix, batch.targets_BT, batch.weight_BT / totals.weight, **terms)


def _masked(model: BERT, batch: Batch, totals: Totals, terms: dict[str, float], forward: Forward) -> Tensor:
    """Devlin et al. 2018, section 3.1: the mean over hidden tokens plus the mean over sentence pairs."""
    hidden_BTD = forward(batch.tokens_BT, batch.segments_BT, batch.keep_BT)
    batch = batch.to(hidden_BTD.device)
    chosen_BT = batch.weight_BT > 0
    transformed_ND = model.transformed(hidden_BTD[chosen_BT])[None]
    targets, weight = batch.targets_BT[chosen_BT][None], batch.weight_BT[chosen_BT][None] / max(totals.weight, 1.0)
    loss = cross_entropy_sum(transformed_ND, model.head_matrix, targets, weight, model.head.bias, **terms)
    if batch.next_B is not None and model.next_sentence is not None:
        pairs = F.cross_entropy(model.next_sentence_logits(hidden_BTD), batch.next_B, reduction="sum")
        loss = loss + pairs / totals.sequences
    return loss


@torch.no_grad()
def masked_results(model: BERT, batch: Batch) -> Tensor:
    """(B, 4), float64 on the CPU, per sequence: hidden tokens, their nats, those found, whether the pair was told right (or 0)."""
    batch = batch.to(model.token_embedding.weight.device)
    hidden_BTD = model(batch.tokens_BT, batch.segments_BT, batch.keep_BT)
    chosen_BT = batch.weight_BT > 0
    logits_NV, targets_N = model.masked_logits(hidden_BTD[chosen_BT]), batch.targets_BT[chosen_BT]
    nats_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
    found_N = (logits_NV.argmax(1) == targets_N).float()
    sums = torch.zeros(len(chosen_BT), 4, dtype=torch.float64)
    for column, values_N in enumerate((torch.ones_like(nats_N), nats_N, found_N)):
        sums[:, column].index_add_(0, chosen_BT.nonzero()[:, 0].cpu(), values_N.double().cpu())
    if batch.next_B is not None and model.next_sentence is not None:
        sums[:, 3] = (model.next_sentence_logits(hidden_BTD).argmax(1) == batch.next_B).double().cpu()
    return sums
