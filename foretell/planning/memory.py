"""How much memory a training run takes, by part, and what to change when it is too much (no torch)."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from foretell.base.errors import CapacityError
from foretell.base.units import size
from foretell.models.config import LSTMConfig, ModelConfig, TransformerConfig
from foretell.models.counts import matrix_parameters, parameter_count, parameters

EXPLICIT_UP_TO, BLOCK = 512, 128  # as in models/attention.py: on a CPU in bf16, shorter windows keep their attention weights
LOGITS_AT_ONCE = {"cpu": 2**25, "cuda": 2**27}  # as in training/loss.py
# interpreter, torch and what it makes at the first step (on a GPU: its context); what the allocator holds besides, as a share of
# activations and logits. Measured on a CPU (benchmarks/plan.py), guessed on a GPU.
LIBRARIES, SLACK = {"cpu": 310 * 2**20, "cuda": 600 * 2**20}, {"cpu": 0.25, "cuda": 0.1}
WEIGHT_BYTES = {"fp32": 4, "bf16": 6}  # fp32 masters; in bf16 also what the model computes with, unless it is gathered
GRADIENT_BYTES = 4  # fp32 sums, whatever the model computes in


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
    offload: bool = False
    """Split over GPUs: weights, gradients and moments lie in the memory of the host."""

    @property
    def can_offload(self) -> bool:
        """Whether there is something that the host could keep."""
        return self.shards > 1 and self.kind == "cuda"


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of a run on each device."""

    weights: int
    """fp32 masters, the average if one is kept, and in bf16 the working copies."""
    gradients: int
    optimizer: int
    activations: int
    gathered: int
    """Split over processes: what each has whole for a time, of weights and of gradients: two layers, tables and head."""
    logits: int
    """Of the loss: the gradient of the head, and some rows of logits."""
    staging: int
    """Where there is room for it; else checkpoints are written at once."""
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

    @property
    def needed(self) -> int:
        """What there must be room for: all but the staging."""
        return self.total - self.staging


def training_memory(config: ModelConfig, *, micro_batch: int, precision: str, **more: Any) -> MemoryPlan:
    """The peak of a training process; more: as in Workload. Compared with real runs in benchmarks/results/plan.md."""
    return plan_memory(Workload(config, micro_batch, precision, **more))


def plan_memory(work: Workload) -> MemoryPlan:
    """The same, of a workload."""
    config = work.config
    held, tokens = -(-parameter_count(config) // work.shards), work.micro_batch * config.context_length
    orthogonal = matrix_parameters(config) // work.shards if work.optimizer == "muon" else 0  # one moment; sums in an update
    moments = 4 * held if work.optimizer == "sgd" else 8 * held - 4 * orthogonal
    activations, gathered, logits = _activations(work, tokens), _gathered(work), _loss(work, tokens)
    slack = int(SLACK[work.kind] * (activations + gathered + logits)) + 12 * orthogonal
    if work.kind == "cpu":  # a checkpoint's moments and averages are turned into bytes before they are written
        slack += moments + 4 * held * work.ema
    staging = (held * (4 + 4 * work.ema) + moments) * work.staging
    weights = held * ((WEIGHT_BYTES[work.precision] if work.shards == 1 else 4) + 4 * work.ema)
    kept = (weights, GRADIENT_BYTES * held, moments) if not (work.offload and work.can_offload) else (0, 0, 0)
    return MemoryPlan(*kept, activations, gathered, logits, staging, slack, LIBRARIES[work.kind], work)


def _activations(work: Workload, tokens: int) -> int:
    """What backward needs of the layers."""
    config, value_bytes = work.config, _value_bytes(work)
    if isinstance(config, LSTMConfig):
        units = (24 if work.precision == "bf16" else 17) * config.d_hidden  # gates, their inputs, states
        return tokens * config.n_layer * (3 * config.d_model + units) * value_bytes
    assert isinstance(config, TransformerConfig)  # noqa: S101
    layer, stream = tokens * _layer_values(work, config) * value_bytes, tokens * config.d_model * value_bytes
    if work.checkpoint_activations and config.causal:
        return config.n_layer * stream + layer
    return config.n_layer * layer + stream


def _gathered(work: Workload) -> int:
    """What FSDP2 puts together in the compute dtype, and its gradients: two layers; tables and head throughout (the root)."""
    if work.shards == 1:
        return 0
    layer, root = matrix_parameters(work.config) // work.config.n_layer, parameters(work.config).embedding
    return _value_bytes(work) * (4 * layer + 2 * root)


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
    """Logits that are held at once, the gradient of the hidden states, and the head's own, unless it has a sum to be added to."""
    vocabulary, width, value_bytes = work.config.vocab_size, work.config.d_model, _value_bytes(work)
    rows = min(tokens, max(64, LOGITS_AT_ONCE[work.kind] // vocabulary))
    own = work.precision == "fp32" or work.shards > 1
    return (rows * vocabulary + tokens * width) * value_bytes + 4 * vocabulary * width * own


def _value_bytes(work: Workload) -> int:
    return 2 if work.precision == "bf16" else 4


def require_memory(plan: MemoryPlan, available: int, config: ModelConfig, micro_batch: int) -> None:
    """Refuse a run that will not fit. Raises CapacityError naming the setting, its value and the value that fits."""
    if plan.needed - plan.libraries > available:  # who asks has loaded the libraries already
        work = replace(plan.workload, config=config, micro_batch=micro_batch)
        raise too_much(replace(plan, workload=work), available + plan.libraries, "the model and its batch")


def too_much(plan: MemoryPlan, available: int, where: str, otherwise: str = "") -> CapacityError:
    """The error: needed, there, what to set. otherwise: what to say besides where only a smaller model fits."""
    what = f"not enough memory: about {size(plan.needed)} needed, {size(available)} free"
    told = cure(plan.workload, available)
    enough = told.startswith("training.") and "cpu_offload" not in told  # which is slow
    return CapacityError(what, where=where, cure=told if enough else told + otherwise)


def cure(work: Workload, available: int) -> str:
    """What to set so that it fits: a smaller micro-batch, activations computed twice, what the host can keep, a smaller model."""

    def fits(changed: Workload) -> bool:
        return plan_memory(changed).needed <= available

    steps, whole = [("", work)], plan_memory(work)
    if isinstance(work.config, TransformerConfig) and work.config.causal:
        steps.append(("training.checkpoint_activations=true", replace(work, checkpoint_activations=True)))
    if work.can_offload and not work.offload:
        steps += [(f"training.cpu_offload=true {told}".strip(), replace(start, offload=True)) for told, start in steps]
    told, lightest = steps[-1]
    for words, start in steps:
        for micro_batch in _halves(work.micro_batch):
            if fits(replace(start, micro_batch=micro_batch)):
                keep = f" (now {work.micro_batch}; set training.batch_tokens to keep the batch)"
                smaller = f"training.micro_batch={micro_batch}{keep}" if micro_batch < work.micro_batch else ""
                host = f"; {size(whole.weights + whole.gradients + whole.optimizer)} of the host's memory for each process"
                return f"{words} {smaller}".strip() + host * (start.offload > work.offload)
    for n_layer in _halves(work.config.n_layer - 1):
        if fits(replace(lightest, micro_batch=1, config=work.config.model_copy(update={"n_layer": n_layer}))):
            alone = f"with training.micro_batch=1 {told}".strip()
            return f"a smaller model: model.n_layer={n_layer} (now {work.config.n_layer}) {alone}"
    return f"a narrower model: model.d_model (now {work.config.d_model}), or a smaller vocabulary (now {work.config.vocab_size})"


def _halves(number: int) -> Iterator[int]:
    while number >= 1:
        yield number
        number //= 2
