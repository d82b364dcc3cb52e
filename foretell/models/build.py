"""From a config to a network: built, filled from a seed, or left empty for weights that are read from somewhere."""

import math

import torch
from torch import Tensor, nn

from foretell.models.bert import BERT
from foretell.models.config import LSTMConfig, ModelConfig, TransformerConfig
from foretell.models.gpt import GPT
from foretell.models.heads import HeadConfig, TaskModel
from foretell.models.lstm import LSTM
from foretell.models.network import Network


def build(config: ModelConfig) -> Network:
    """The network that a config describes."""
    if isinstance(config, LSTMConfig):
        return LSTM(config)
    assert isinstance(config, TransformerConfig)  # noqa: S101
    return GPT(config) if config.causal else BERT(config)


def build_empty(config: ModelConfig, head: HeadConfig | None = None) -> Network | TaskModel:
    """The same, with a task head if one is given, without memory for weights: to be given some by `assign`."""
    with torch.device("meta"):
        body = build(config)
        return TaskModel(body, head) if head else body


def assign(model: Network | TaskModel, weights: dict[str, Tensor]) -> None:
    """Let an empty model use these tensors as they are, without copying; a tied head is tied again."""
    model.load_state_dict(weights, strict=False, assign=True)
    body = model.body if isinstance(model, TaskModel) else model
    if body.config.tied and hasattr(body, "head"):
        body.head.weight = body.token_embedding.weight


@torch.no_grad()
def initialise(network: Network, seed: int) -> None:
    """Fill a new network's weights from a seed, independently of any other random state.

    GPT-1, BERT: N(0, 0.02) (Radford et al. 2018; Devlin et al. 2018, there cut off at two deviations), biases 0.
    GPT-2, GPT-3: the same, positions N(0, 0.01), projections into the residual stream divided by √(2L) (Radford et al. 2019).
    RMSNorm layouts: N(0, 1/√D) for matrices; projections into the residual stream start at 0, so that every block starts as
    the identity (Zhang et al. 2019, Fixup); N(0, 0.02) for embeddings, N(0, 0.3) where the head has a matrix of its own: a
    token's vector is not drowned at once by what the blocks add to it (docs/recipe-choices.md).
    LSTM: N(0, 1/√U) for matrices, N(0, 0.02) for embeddings, forget gates open by 1 (Jozefowicz et al. 2015).
    """
    generator, config = torch.Generator().manual_seed(seed), network.config
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if "bias" in name else 1.0)
            continue
        std, values = _deviation(name, config), torch.empty(parameter.shape)
        if isinstance(network, BERT):
            nn.init.trunc_normal_(values, 0.0, 1.0, -2.0, 2.0, generator=generator)
        else:
            values.normal_(0.0, 1.0, generator=generator)
        parameter.copy_(values * std)
    if isinstance(network, LSTM):
        for name, parameter in network.lstm.named_parameters():
            if name.startswith("bias_ih"):  # gates stand in the order input, forget, cell, output
                parameter[network.config.d_hidden : 2 * network.config.d_hidden] = 1.0


def _deviation(name: str, config: ModelConfig) -> float:
    if isinstance(config, LSTMConfig):
        return 0.02 if "embedding" in name or name.startswith("head") else config.d_hidden**-0.5
    assert isinstance(config, TransformerConfig)  # noqa: S101
    residual = name.endswith((".out.weight", ".down.weight"))
    if config.norm == "rmsnorm" and "embedding" not in name and not name.startswith("head"):
        return 0.0 if residual else config.d_model**-0.5
    if config.norm == "rmsnorm" and not config.tied and name.startswith("token_embedding"):
        return 0.3
    if config.norm_position == "post" or config.norm == "rmsnorm":
        return 0.02
    if name.startswith("position_embedding"):
        return 0.01
    return 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02
