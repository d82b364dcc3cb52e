"""The KV cache: keys and values of the tokens read so far. Layers write into it; whoever owns it advances it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foretell.models.config import ModelConfig


@dataclass
class KVCache:
    """keys, values: (L, B, G, S, K) for up to S tokens; `length` of them are filled."""

    keys_LBGSK: Tensor
    values_LBGSK: Tensor
    length: int = 0

    @classmethod
    def allocate(
        cls, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
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
