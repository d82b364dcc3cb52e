"""How much memory a training run takes, by part (no torch)."""

from typing import NamedTuple

from foretell.base.errors import CapacityError
from foretell.base.units import size
from foretell.models.config import ModelConfig, TransformerConfig
from foretell.models.counts import parameter_count


class MemoryPlan(NamedTuple):
    """Bytes of a run, without the interpreter and its libraries."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self)


def training_memory(config: ModelConfig, *, micro_batch: int, precision: str) -> MemoryPlan:
    """fp32 masters, gradients and two moments; in bf16 also the working copies; what backward keeps of the activations.

    Source: activations per layer as counted in Korthikanti et al. 2022, section 4, for our blocks.
    """
    parameters, tokens = parameter_count(config), micro_batch * config.context_length
    value_bytes, copies = (2, 6) if precision == "bf16" else (4, 4)  # of an activation; of a weight with its copies
    if isinstance(config, TransformerConfig):
        per_token = 10 * config.d_model + 4 * config.d_ff + 5 * (config.n_head + config.n_kv_head) * config.d_head
        per_token += 3 * config.n_head * config.context_length  # attention scores
    else:
        per_token = 3 * config.d_model + 17 * getattr(
            config, "d_hidden", config.d_model
        )  # gates by input, by state, summed; states
    return MemoryPlan(
        weights=parameters * copies,
        gradients=parameters * copies,
        optimizer=parameters * 8,
        activations=tokens * config.n_layer * per_token * value_bytes,
        logits=4 * config.vocab_size * (config.d_model + min(tokens, max(64, 2**21 // config.vocab_size)) * 2),
    )


def require_memory(plan: MemoryPlan, available: int, config: ModelConfig, micro_batch: int) -> None:
    """Refuse a run that will not fit. Raises CapacityError naming the setting, its value and the value to try."""
    if plan.total <= available:
        return
    if plan.activations > plan.total / 2 and micro_batch > 1:
        cure = f"training.micro_batch={micro_batch // 2} (now {micro_batch}; set training.batch_tokens to keep the batch)"
    else:
        cure = f"a smaller model: model.n_layer={max(1, config.n_layer // 2)} (now {config.n_layer}), or a smaller vocabulary"
    what = f"not enough memory: about {size(plan.total)} needed, {size(available)} free"
    raise CapacityError(what, where="the model and its batch", cure=cure)
