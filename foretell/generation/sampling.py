"""From next-token logits to a token. V vocabulary."""

import torch
from torch import Tensor

from foretell.generation.config import GenerationSettings


def distribution(logits_V: Tensor, settings: GenerationSettings) -> Tensor:
    """The probabilities (V,) that the settings leave: temperature, then top_k, then top_p; they sum to 1.

    greedy puts everything on the likeliest token (the lowest id among equals).
    """
    if settings.strategy == "greedy":
        return torch.zeros_like(logits_V).index_fill_(0, logits_V.argmax(), 1.0)
    scaled_V = logits_V / settings.temperature
    if settings.top_k is not None and settings.top_k < len(scaled_V):
        scaled_V = keep_top_k(scaled_V, settings.top_k)
    probs_V = scaled_V.softmax(dim=-1)
    return keep_top_p(probs_V, settings.top_p) if settings.top_p is not None and settings.top_p < 1 else probs_V


def keep_top_k(logits_V: Tensor, k: int) -> Tensor:
    """−∞ for all but the k likeliest; exactly k stay, whatever ties there are (Fan et al. 2018)."""
    kept = logits_V.topk(k).indices
    return torch.full_like(logits_V, float("-inf")).scatter_(0, kept, logits_V[kept])


def keep_top_p(probs_V: Tensor, p: float) -> Tensor:
    """The smallest set of likeliest tokens that holds at least probability p, rescaled to 1 (Holtzman et al. 2020)."""
    sorted_V, order_V = probs_V.sort(descending=True, stable=True)
    before_V = sorted_V.cumsum(0) - sorted_V  # what the likelier ones hold without this one
    kept_V = torch.where(before_V < p, sorted_V, 0.0)
    return torch.zeros_like(probs_V).scatter_(0, order_V, kept_V / kept_V.sum())


def draw(probs_V: Tensor, generator: torch.Generator) -> int:
    """One token, by inverting the cumulative distribution at one uniform number."""
    cumulative_V = probs_V.double().cumsum(0)
    point = torch.rand((), generator=generator, dtype=torch.float64) * cumulative_V[-1]
    index = int(torch.searchsorted(cumulative_V, point.to(cumulative_V.device), right=True))
    return index if index < len(probs_V) and probs_V[index] > 0 else int(probs_V.argmax())
