"""What a language model remembers of the tokens read so far. Layers write into it; whoever owns it advances it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from foretell.models.config import LSTMConfig, TransformerConfig


class Cache(Protocol):
    """`length` tokens have been read."""

    length: int

    def advance(self, count: int) -> None:
        """Count `count` more tokens as read, after all layers have written them."""


@dataclass
class KVCache:
    """keys, values: (L, B, G, S, K) for up to S tokens; `length` of them are filled."""

    keys_LBGSK: Tensor
    values_LBGSK: Tensor
    length: int = 0

    @classmethod
    def allocate(
        cls,
        config: TransformerConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> "KVCache":
        """An empty cache for `batch` sequences of up to `capacity` tokens."""
        shape = (config.n_layer, batch, config.n_kv_head, capacity, config.d_head)
        return cls(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))

    def extend(self, layer: int, keys_BGTK: Tensor, values_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values behind the old ones; return all of that layer's, (B, G, length + T, K)."""
        end = self.length + keys_BGTK.shape[2]
        self.keys_LBGSK[layer, :, :, self.length : end] = keys_BGTK
        self.values_LBGSK[layer, :, :, self.length : end] = values_BGTK
        return self.keys_LBGSK[layer, :, :, :end], self.values_LBGSK[layer, :, :, :end]

    def advance(self, count: int) -> None:
        """Count `count` more tokens as read, after all layers have written them."""
        self.length += count


@dataclass
class LSTMState:
    """hidden, cell: (L, B, U), of the last token read. It has no end: an LSTM reads on for ever."""

    hidden_LBU: Tensor
    cell_LBU: Tensor
    length: int = 0

    @classmethod
    def allocate(cls, config: LSTMConfig, batch: int, dtype: torch.dtype, device: torch.device | None) -> "LSTMState":
        """The state before the first token: zeros."""
        shape = (config.n_layer, batch, config.d_hidden)
        return cls(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))

    def rows(self, start: int, count: int) -> "LSTMState":
        """Some sequences' state, cut from the graph that made it: gradients do not reach back into the batch before."""
        hidden_LBU, cell_LBU = (part[:, start : start + count].detach().contiguous() for part in (self.hidden_LBU, self.cell_LBU))
        return LSTMState(hidden_LBU, cell_LBU, self.length)

    @classmethod
    def joined(cls, states: "list[LSTMState]") -> "LSTMState":
        """The states of pieces of a batch, side by side, without their graphs."""
        hidden = torch.cat([state.hidden_LBU.detach() for state in states], dim=1)
        return cls(hidden, torch.cat([state.cell_LBU.detach() for state in states], dim=1), states[0].length)

    def advance(self, count: int) -> None:
        """Count `count` more tokens as read."""
        self.length += count
