"""What all networks answer to. B batch, T time, S tokens seen, D d_model, V vocabulary."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from foretell.models.cache import Cache
from foretell.models.config import ModelConfig


class Network(nn.Module):
    """Hidden states out of tokens, and a head that gives words for them."""

    config: ModelConfig
    token_embedding: nn.Embedding
    head: nn.Linear

    @property
    def head_matrix(self) -> Tensor:
        """(V, D) what the training loss projects with; usually the head's weight."""
        return self.head.weight


class LanguageModel(Network, ABC):
    """A network that reads from left to right. `forward` gives hidden states; the training loss fuses the projection."""

    @abstractmethod
    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty memory for `batch` sequences of up to `capacity` tokens."""

    @abstractmethod
    def forward(self, tokens_BT: Tensor, cache: Cache | None = None, keep_BS: Tensor | None = None) -> Tensor:
        """Token ids (B, T) → hidden states (B, T, D). With a cache, T new tokens behind `cache.length` old ones.

        keep_BS: False for padding on either side, old tokens included; positions count kept tokens only.
        """

    def logits(self, tokens_BT: Tensor, cache: Cache | None = None, keep_BS: Tensor | None = None) -> Tensor:
        """Token ids (B, T) → next-token logits (B, T, V), fp32."""
        out: Tensor = self.head(self(tokens_BT, cache, keep_BS)).float()
        return out
