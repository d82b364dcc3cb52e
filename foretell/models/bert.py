"""The encoder: BERT (Devlin et al. 2018), over the same blocks as the decoder.

    x₀ = Norm(E[tokens] + P[positions] + S[segments])
    x  = Norm(x + Attention(x)),  x = Norm(x + MLP(x))       every token sees every other
    pooled = tanh(W·x[first])                                what sentence heads read
    masked logits = Norm(gelu(W·x)) · Eᵀ + b                 Devlin et al. 2018, section 3.1, task 1
    next-sentence logits = W·pooled                          task 2

B batch, T time, D d_model, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.attention import attention_mask
from foretell.models.config import TransformerConfig
from foretell.models.gpt import Block
from foretell.models.layers import activate, make_embedding, make_norm
from foretell.models.network import Network


class BERT(Network):
    """A bidirectional encoder, with the parts that its config names."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config, width = config, config.d_model
        self.token_embedding = make_embedding(config.vocab_size, width)
        self.position_embedding = make_embedding(config.context_length, width)
        self.segment_embedding = make_embedding(config.n_segments or 1, width)
        self.embedding_norm = make_norm(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.pooler = nn.Linear(width, width) if "pooler" in config.parts else None
        self.next_sentence = nn.Linear(width, 2) if "next_sentence" in config.parts else None
        self.transform = nn.Linear(width, width) if "masked" in config.parts else None
        self.transform_norm = make_norm(config) if "masked" in config.parts else None
        if "masked" in config.parts:
            self.head = nn.Linear(width, config.vocab_size)
            if config.tied:
                self.head.weight = self.token_embedding.weight

    def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None, keep_BT: Tensor | None = None) -> Tensor:
        """Token ids (B, T) → hidden states (B, T, D). segments_BT: 0 or 1, absent: all 0. keep_BT: False for padding."""
        segments_BT = torch.zeros_like(tokens_BT) if segments_BT is None else segments_BT
        time = tokens_BT.shape[1]
        x_BTD = self.token_embedding(tokens_BT) + self.segment_embedding(segments_BT) + self.position_embedding.weight[:time]
        x_BTD = F.dropout(self.embedding_norm(x_BTD), self.config.dropout, self.training)
        mask = attention_mask(self.config, time, 0, x_BTD, keep_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, None, mask, None)
        out: Tensor = x_BTD
        return out

    def pooled(self, hidden_BTD: Tensor) -> Tensor:
        """(B, D) what sentence heads read: tanh of a projection of the first token."""
        assert self.pooler is not None, "this model has no pooler"  # noqa: S101 — a mistake of ours, never of the user
        return torch.tanh(self.pooler(hidden_BTD[:, 0]))

    def transformed(self, hidden_ND: Tensor) -> Tensor:
        """What the masked language model's head projects: Norm(gelu(W·x)), any leading shape."""
        assert self.transform is not None and self.transform_norm is not None, "this model has no masked head"  # noqa: S101
        out: Tensor = self.transform_norm(activate(self.transform(hidden_ND), self.config.activation))
        return out

    def masked_logits(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, V) logits of what stands at each place, fp32."""
        out: Tensor = self.head(self.transformed(hidden_BTD)).float()
        return out

    def next_sentence_logits(self, hidden_BTD: Tensor) -> Tensor:
        """(B, 2): the second segment follows the first, or is from elsewhere; fp32."""
        assert self.next_sentence is not None, "this model has no next-sentence head"  # noqa: S101
        out: Tensor = self.next_sentence(self.pooled(hidden_BTD)).float()
        return out
