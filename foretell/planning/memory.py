"""How much memory a training run takes, by part, and what to change when it is too much (no torch)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from foretell.base.errors import CapacityError
from foretell.base.units import size
from foretell.models.config import LSTMConfig, ModelConfig, TransformerConfig
from foretell.models.counts import matrix_parameters, parameter_count

EXPLICIT_UP_TO, BLOCK = 512, 128  # as in models/attention.py: on a CPU in bf16, shorter windows keep their attention weights
LOGITS_AT_ONCE = {"cpu": 2**25, "cuda": 2**27}  # as in training/loss.py
# interpreter, torch and what it makes at the first step (on a GPU: its context); what the allocator holds besides, as a share of
# activations and logits. Measured on a CPU (benchmarks/plan.py), guessed on a GPU.
LIBRARIES, SLACK = {"cpu": 310 * 2**20, "cuda": 600 * 2**20}, {"cpu": 0.25, "cuda": 0.1}
WEIGHT_BYTES = {"fp32": 4, "bf16": 6}  # fp32 masters; in bf16 also what the model computes with
GRADIENT_BYTES = {"fp32": 4, "bf16": 4}  # fp32 sums, whatever the model computes in


@dataclass(frozen=True)
class Workload:
    """What decides how much memory a run takes. shards: processes that weights, gradients and moments are split over."""

    config: ModelConfig
    micro_batch: int
    precision: str
    optimizer: str = "adamw"
    checkpoint_activations: bool = False
    ema: bool = False
    staging: bool = False
    """Checkpoints are copied in memory before they are written in the background."""
    kind: Literal["cpu", "cuda"] = "cpu"
    shards: int = 1


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run on each device."""

    weights: int
    """fp32 masters, the average if one is kept, and in bf16 the working copies."""
    gradients: int
    optimizer: int
    activations: int
    logits: int
    """Of the loss: the gradient of the head, and some rows of logits."""
    staging: int
    slack: int
    libraries: int
    workload: Workload

    @property
    def parts(self) -> dict[str, int]:
        """The bytes by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "workload"}

    @property
    def total(self) -> int:
        """All parts together: what the process has at its peak."""
        return sum(self.parts.values())


def training_memory(config: ModelConfig, *, micro_batch: int, precision: str, **more: Any) -> MemoryPlan:
    """The peak of a training process; more: as in Workload. Compared with real runs in benchmarks/results/plan.md."""
    return plan_memory(Workload(config, micro_batch, precision, **more))


def plan_memory(work: Workload) -> MemoryPlan:
    """The same, of a workload."""
    config = work.config
    held, tokens = -(-parameter_count(config) // work.shards), work.micro_batch * config.context_length
    orthogonal = matrix_parameters(config) // work.shards if work.optimizer == "muon" else 0  # one moment; sums in an update
    moments = 4 * held if work.optimizer == "sgd" else 8 * held - 4 * orthogonal
    activations, logits = _activations(work, tokens), _loss(work, tokens)
    slack = int(SLACK[work.kind] * (activations + logits)) + 12 * orthogonal
    staging = (held * (4 + 4 * work.ema) + moments) * work.staging
    weights, gradients = held * (WEIGHT_BYTES[work.precision] + 4 * work.ema), held * GRADIENT_BYTES[work.precision]
    return MemoryPlan(weights, gradients, moments, activations, logits, staging, slack, LIBRARIES[work.kind], work)


def _activations(work: Workload, tokens: int) -> int:
    """What backward needs of the layers; split over processes, also two layers' whole weights and gradients."""
    config, value_bytes = work.config, 2 if work.precision == "bf16" else 4
    if isinstance(config, LSTMConfig):
        units = (24 if work.precision == "bf16" else 17) * config.d_hidden  # gates, their inputs, states
        return tokens * config.n_layer * (3 * config.d_model + units) * value_bytes
    assert isinstance(config, TransformerConfig)  # noqa: S101
    layer, stream = tokens * _layer_values(work, config) * value_bytes, tokens * config.d_model * value_bytes
    gathered = 4 * value_bytes * matrix_parameters(config) // config.n_layer if work.shards > 1 else 0
    if work.checkpoint_activations and config.causal:
        return config.n_layer * stream + layer + gathered
    return config.n_layer * layer + stream + gathered


def _layer_values(work: Workload, config: TransformerConfig) -> int:
    """Numbers that one layer keeps of each token: inputs of products and norms, of attention and of the activation function."""
    heads, keys, width = config.n_head * config.d_head, config.n_kv_head * config.d_head, config.d_model
    values = 4 * width + heads + config.d_ff * (4 if config.activation == "swiglu" else 2)
    joined, turned, scores = heads + 2 * keys, heads + keys, config.n_head * config.context_length
    if config.dropout:
        values += 2 * width
    if work.kind == "cpu" and config.dropout:  # models/attention.py: weights, those that dropout left, and which
        return values + joined * (1 + config.qk_norm) + 3 * scores
    if work.kind == "cpu" and work.precision == "bf16" and config.context_length <= EXPLICIT_UP_TO:
        seen = (scores + config.n_head * min(config.context_length, BLOCK)) // 2 if config.causal else scores
        return values + 3 * heads + joined * config.qk_norm + seen
    return values + joined + turned * (config.position == "rotary")


def _loss(work: Workload, tokens: int) -> int:
    """Logits that are held at once, the gradient of the hidden states, and where weights have only fp32 the head's own gradient."""
    vocabulary, width, value_bytes = work.config.vocab_size, work.config.d_model, 2 if work.precision == "bf16" else 4
    rows = min(tokens, max(64, LOGITS_AT_ONCE[work.kind] // vocabulary))
    return (rows * vocabulary + tokens * width) * value_bytes + (4 * vocabulary * width if value_bytes == 4 else 0)


def require_memory(plan: MemoryPlan, available: int, config: ModelConfig, micro_batch: int) -> None:
    """Refuse a run that will not fit. Raises CapacityError naming the setting, its value and the value that fits."""
    if plan.total - plan.libraries > available:  # who asks has loaded the libraries already
        work = replace(plan.workload, config=config, micro_batch=micro_batch)
        raise too_much(replace(plan, workload=work), available + plan.libraries, "the model and its batch")


def too_much(plan: MemoryPlan, available: int, where: str, otherwise: str = "") -> CapacityError:
    """The error: needed, there, what to set. otherwise: what to say besides where only a smaller model fits."""
    what = f"not enough memory: about {size(plan.total)} needed, {size(available)} free"
    told = cure(plan.workload, available)
    return CapacityError(what, where=where, cure=told if told.startswith("training.") else told + otherwise)


def cure(work: Workload, available: int) -> str:
    """What to set so that it fits: a smaller micro-batch, activations computed twice, a smaller model; in this order."""

    def fits(changed: Workload) -> bool:
        return plan_memory(changed).total <= available

    decoder = isinstance(work.config, TransformerConfig) and work.config.causal
    lighter = replace(work, checkpoint_activations=decoder)
    for told, start in (("", work), ("training.checkpoint_activations=true", lighter)):
        for micro_batch in _halves(work.micro_batch):
            if fits(replace(start, micro_batch=micro_batch)):
                keep = f" (now {work.micro_batch}; set training.batch_tokens to keep the batch)"
                smaller = f"training.micro_batch={micro_batch}{keep}" if micro_batch < work.micro_batch else ""
                return f"{told} {smaller}".strip()
    for n_layer in _halves(work.config.n_layer - 1):
        if fits(replace(lighter, micro_batch=1, config=work.config.model_copy(update={"n_layer": n_layer}))):
            alone = " with training.micro_batch=1" + " training.checkpoint_activations=true" * decoder
            return f"a smaller model: model.n_layer={n_layer} (now {work.config.n_layer}){alone}"
    return f"a narrower model: model.d_model (now {work.config.d_model}), or a smaller vocabulary (now {work.config.vocab_size})"


def _halves(number: int) -> Iterator[int]:
    while number >= 1:
        yield number
        number //= 2
