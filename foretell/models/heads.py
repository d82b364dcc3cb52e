"""Heads: what a network's hidden states are read as. A task model is a body and one linear head.

kind            reads                         gives
classes         one vector of the sequence    (B, n) logits            sentiment, entailment, similarity classes
regression      one vector of the sequence    (B, 1) a number          similarity from 0 to 5
reward          one vector of the sequence    (B, 1) a number          how good an answer is
choice          one vector of the sequence    (B, 1) a score           softmax over a question's answers
tokens          every position                (B, T, n) logits         named entities
spans           every position                (B, T, 2) logits         where an answer begins and ends

The one vector: an encoder's pooled first token; of a decoder the last kept token, or the one at `at_B` (GPT-1's extract token).
B batch, T time, D d_model, n labels. Source: Radford et al. 2018, section 3.3; Devlin et al. 2018, figure 4.
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.base.settings import Settings
from foretell.models.bert import BERT
from foretell.models.network import LanguageModel, Network

HeadKind = Literal["classes", "regression", "reward", "choice", "tokens", "spans"]
WHOLE_SEQUENCE = ("classes", "regression", "reward", "choice")


class HeadConfig(Settings):
    """Which head, and how many labels it tells apart."""

    kind: HeadKind
    n_labels: PositiveInt = 2
    bias: bool = True
    labels: tuple[str, ...] = ()
    """What the labels are called, in order; none: they are not."""

    @property
    def width(self) -> int:
        """Numbers that it gives for each vector."""
        return {"regression": 1, "reward": 1, "choice": 1, "spans": 2}.get(self.kind, self.n_labels)


class TaskModel(nn.Module):
    """A body and a head."""

    def __init__(self, body: Network, head: HeadConfig) -> None:
        super().__init__()
        self.body, self.head_config = body, head
        self.task_head = nn.Linear(body.config.d_model, head.width, bias=head.bias)

    def forward(
        self, tokens_BT: Tensor, segments_BT: Tensor | None = None, keep_BT: Tensor | None = None, at_B: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T) → what the kind gives, fp32. segments_BT: encoders only. at_B: decoders, the place that is read."""
        if isinstance(self.body, LanguageModel):
            hidden_BTD = self.body(tokens_BT, None, keep_BT)
        else:
            hidden_BTD = self.body(tokens_BT, segments_BT, keep_BT)
        read = hidden_BTD if self.head_config.kind not in WHOLE_SEQUENCE else self._one_vector(hidden_BTD, keep_BT, at_B)
        out: Tensor = self.task_head(F.dropout(read, self.body.config.dropout, self.training)).float()
        return out

    def _one_vector(self, hidden_BTD: Tensor, keep_BT: Tensor | None, at_B: Tensor | None) -> Tensor:
        if isinstance(self.body, BERT):
            return self.body.pooled(hidden_BTD)
        batch, time, _ = hidden_BTD.shape
        if at_B is None:
            places_T = torch.arange(time, device=hidden_BTD.device)
            at_B = hidden_BTD.new_full((batch,), time - 1, dtype=torch.long) if keep_BT is None else (places_T * keep_BT).argmax(1)
        return hidden_BTD[torch.arange(batch, device=hidden_BTD.device), at_B]


def initialise_head(model: TaskModel, seed: int) -> None:
    """N(0, 0.02) for the new head's matrix, 0 for its bias (Radford et al. 2018; Devlin et al. 2018)."""
    with torch.no_grad():
        weight = model.task_head.weight
        weight.copy_(torch.empty(weight.shape).normal_(0.0, 0.02, generator=torch.Generator().manual_seed(seed)))
        if model.task_head.bias is not None:
            model.task_head.bias.zero_()
