"""The decoder: GPT-1, GPT-2, GPT-3, Llama, Qwen and the modern layout are settings of this one page.

    x₀ = E[tokens] (+ P[positions])
    x  = x + Attention(Norm(x))          pre-norm (Radford et al. 2019):  x = x + MLP(Norm(x))
    x  = Norm(x + Attention(x))          post-norm (Radford et al. 2018): x = Norm(x + MLP(x))
    logits = Norm(x) · headᵀ             pre-norm; x · headᵀ post-norm; head = E when tied

B batch, T time, S tokens seen, D d_model, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foretell.models.attention import Attention, attention_mask
from foretell.models.cache import Cache, KVCache
from foretell.models.config import TransformerConfig
from foretell.models.functions import look_up
from foretell.models.layers import make_embedding, make_mlp, make_norm, rotation_table
from foretell.models.network import LanguageModel


class Block(nn.Module):
    """Attention and MLP, each with a norm before it or behind it, added to the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.dropout, self.pre = layer, config.dropout, config.norm_position == "pre"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = make_mlp(config)

    def forward(self, x_BTD: Tensor, rotation_2TK: Tensor | None, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        if self.pre:
            attended_BTD = self.attention(self.attention_norm(x_BTD), rotation_2TK, mask, cache, self.layer)
            x_BTD = x_BTD + F.dropout(attended_BTD, self.dropout, self.training)
            return x_BTD + F.dropout(self.mlp(self.mlp_norm(x_BTD)), self.dropout, self.training)
        attended_BTD = self.attention(x_BTD, rotation_2TK, mask, cache, self.layer)
        x_BTD = self.attention_norm(x_BTD + F.dropout(attended_BTD, self.dropout, self.training))
        out: Tensor = self.mlp_norm(x_BTD + F.dropout(self.mlp(x_BTD), self.dropout, self.training))
        return out


class GPT(LanguageModel):
    """A decoder-only transformer."""

    config: TransformerConfig
    rotation_2TK: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = make_embedding(config.vocab_size, config.d_model)
        self.position_embedding = make_embedding(config.context_length, config.d_model) if config.position == "learned" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.token_embedding.weight
        self.register_buffer("rotation_2TK", torch.empty(2, 0, config.d_head, device="cpu"), persistent=False)
        self.checkpoint_activations = False
        """In training, keep each block's input alone and compute the block again in the backward pass (Chen et al. 2016)."""
        self._dropped_VD: Tensor | None = None  # faithful: this step's embedding matrix, for the head

    @property
    def head_matrix(self) -> Tensor:
        """(V, D) what the training loss projects with: the head's weight, or (faithful) the matrix dropped out in this step."""
        return self.head.weight if self._dropped_VD is None else self._dropped_VD

    def prepare(self, length: int) -> None:
        """Have the angles of the first `length` positions at hand: they grow with what is read, not with what a config claims."""
        if self.config.position == "rotary" and self.rotation_2TK.shape[1] < length:
            room = min(self.config.context_length, max(length, 2 * self.rotation_2TK.shape[1]))
            self.rotation_2TK = rotation_table(self.config, max(length, room)).to(self.head.weight.device)

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty KV cache for `batch` sequences of up to `capacity` tokens."""
        return KVCache.allocate(self.config, batch, capacity, self.head.weight.dtype, self.head.weight.device)

    def forward(
        self, tokens_BT: Tensor, cache: Cache | None = None, keep_BS: Tensor | None = None, documents_BT: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T) → hidden states (B, T, D), normalised where the config has a final norm.

        documents_BT: tokens see only tokens of the same number, and count their positions from its first.
        """
        past, time, kv = (cache.length if cache else 0), tokens_BT.shape[1], cache if isinstance(cache, KVCache) else None
        # positions as a slice where they are the same in all rows: looking up a row for each token would cost a copy
        positions = slice(past, past + time) if keep_BS is None else (keep_BS.cumsum(1) - 1).clamp(min=0)[:, past:]
        if documents_BT is not None and self.config.position == "learned":  # rotary positions tell distances alone
            positions = positions_within(documents_BT)
        x_BTD = self._embed(tokens_BT, positions)
        self.prepare(past + time)
        rotation_2TK = self.rotation_2TK[:, positions].to(x_BTD.dtype) if self.config.position == "rotary" else None
        window, seen = self.config.window, (keep_BS, documents_BT)
        dense = attention_mask(self.config, time, past, x_BTD, *seen)
        banded = attention_mask(self.config, time, past, x_BTD, *seen, window) if window else None
        for layer, block in enumerate(self.blocks):
            inputs = (x_BTD, rotation_2TK, banded if layer in self.config.windowed_layers else dense, kv)
            again = self.checkpoint_activations and self.training and kv is None
            x_BTD = checkpoint(block, *inputs, use_reentrant=False) if again else block(*inputs)
        out: Tensor = self.final_norm(x_BTD)
        return out

    def _embed(self, tokens_BT: Tensor, positions: slice | Tensor) -> Tensor:
        tokens_VD, dropout = self.token_embedding.weight, self.config.dropout if self.training else 0.0
        places_TD = self.position_embedding.weight if self.position_embedding is not None else None
        self._dropped_VD = None
        if self.config.faithful and dropout:  # on the matrices, once a step: the same entries are gone from input and head
            tokens_VD = self._dropped_VD = F.dropout(tokens_VD, dropout)
            places_TD = None if places_TD is None else F.dropout(places_TD, dropout)
        x_BTD = look_up(tokens_BT, tokens_VD)
        if places_TD is not None:
            x_BTD = x_BTD + places_TD[positions]
        return x_BTD if self.config.faithful else F.dropout(x_BTD, dropout)


def positions_within(documents_BT: Tensor) -> Tensor:
    """The place of each token in its document, from 0: (B, T)."""
    place_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    begins_BT = F.pad(documents_BT[:, 1:] != documents_BT[:, :-1], (1, 0))
    first_BT = (place_T * begins_BT).cummax(dim=1).values
    return place_T - first_BT
