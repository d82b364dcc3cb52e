"""The decoder: GPT-2 and the modern layout are settings of this one page.

    x₀ = E[tokens] (+ P[positions])
    x  = x + Attention(Norm(x))          pre-norm residual block (Radford et al. 2019)
    x  = x + MLP(Norm(x))
    logits = Norm(x) · headᵀ             head = E when tied

B batch, T time, D d_model, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.models.attention import Attention
from foretell.models.cache import KVCache
from foretell.models.config import ModelConfig
from foretell.models.layers import GeluMLP, SwiGLU, make_norm, rotation_table


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout = layer, config.dropout
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = SwiGLU(config) if config.activation == "swiglu" else GeluMLP(config)

    def forward(self, x_BTD: Tensor, rotation_2TK: Tensor | None, cache: KVCache | None) -> Tensor:
        attended_BTD = self.attention(self.attention_norm(x_BTD), rotation_2TK, cache, self.layer)
        x_BTD = x_BTD + F.dropout(attended_BTD, self.dropout, self.training)
        return x_BTD + F.dropout(self.mlp(self.mlp_norm(x_BTD)), self.dropout, self.training)


class GPT(nn.Module):
    """A decoder-only transformer. `forward` gives hidden states; `logits` projects them; the training loss fuses both."""

    rotation_2TK: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embedding = nn.Embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = make_norm(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.token_embedding.weight
        self.register_buffer("rotation_2TK", rotation_table(config) if config.position == "rotary" else None, persistent=False)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Token ids (B, T) → normalised hidden states (B, T, D). With a cache, T new tokens behind `cache.length` old ones."""
        past, time = (cache.length if cache else 0), tokens_BT.shape[1]
        x_BTD = self.token_embedding(tokens_BT)
        if self.position_embedding is not None:
            x_BTD = x_BTD + self.position_embedding.weight[past : past + time]
        x_BTD = F.dropout(x_BTD, self.config.dropout, self.training)
        rotation_2TK = None if self.rotation_2TK is None else self.rotation_2TK[:, past : past + time].to(x_BTD.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotation_2TK, cache)
        out: Tensor = self.final_norm(x_BTD)
        return out

    def logits(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Token ids (B, T) → next-token logits (B, T, V), fp32."""
        out: Tensor = self.head(self(tokens_BT, cache)).float()
        return out


@torch.no_grad()
def initialise(model: GPT, seed: int) -> None:
    """Fill a new model's weights from a seed, independently of any other random state.

    gpt2: N(0, 0.02), projections into the residual stream divided by √(2L), biases 0 (Radford et al. 2019, §2.3).
    modern: N(0, 1/√D) for matrices; projections into the residual stream start at 0, so that every block starts as the
    identity (Zhang et al. 2019, Fixup); N(0, 0.02) for embeddings.
    """
    generator = torch.Generator().manual_seed(seed)
    modern, width, depth = model.config.preset == "modern", model.config.d_model, model.config.n_layer
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        std = width**-0.5 if modern and "embedding" not in name and not name.startswith("head") else 0.02
        if name.endswith((".out.weight", ".down.weight")):
            std = 0.0 if modern else 0.02 / math.sqrt(2 * depth)
        parameter.copy_(torch.empty(parameter.shape).normal_(0.0, 1.0, generator=generator) * std)
