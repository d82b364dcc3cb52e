"""The settings of training: optimizer, schedule, and the run itself."""

from typing import Literal

from pydantic import Field

from foretell.base.settings import Settings


class OptimizerSettings(Settings):
    """The [optimizer] section."""

    name: Literal["adamw", "adam", "muon", "sgd"] = "adamw"
    """adamw: decoupled weight decay (Loshchilov & Hutter 2019), on matrices only. adam: Kingma & Ba 2015, no decay.
    muon: orthogonalised momentum for the layers' matrices (Jordan et al. 2024), adamw for all else. sgd: with momentum."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """At its peak."""
    muon_learning_rate: float = Field(default=2e-2, gt=0)
    """muon: the peak for the layers' matrices; learning_rate is that of embeddings, head, gains and biases."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """muon, sgd: Nesterov's."""
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; absent: no clipping."""


class ScheduleSettings(Settings):
    """The [schedule] section."""

    warmup_steps: int = Field(default=100, ge=0)
    """The learning rate rises linearly over this many steps."""
    decay: Literal["cosine", "linear", "wsd", "constant", "inverse_sqrt"] = "cosine"
    """wsd: warm-up, stable, linear decay (Hu et al. 2024). inverse_sqrt: Vaswani et al. 2017, section 5.3."""
    decay_share: float = Field(default=0.5, gt=0, le=1)
    """wsd: the share of all steps over which the rate falls."""
    final_share: float = Field(default=0.0, ge=0, le=1)
    """The rate at the last step, as a share of the peak."""
    batch_ramp_steps: int = Field(default=0, ge=0)
    """The batch grows linearly over this many steps (Brown et al. 2020, section 2.3); 0: it is whole from the first."""
    batch_ramp_from: float = Field(default=0.25, gt=0, le=1)
    """The first batch, as a share of training.batch_tokens."""


class TrainingSettings(Settings):
    """The [training] section."""

    steps: int = Field(default=1000, gt=0)
    micro_batch: int = Field(default=8, gt=0)
    """Windows that go through the model at once."""
    batch_tokens: int | None = Field(default=None, gt=0)
    """Tokens of one optimizer step; more than micro_batch · context_length means accumulation. Absent: no accumulation."""
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """bf16 computes in bf16 and keeps fp32 master weights and fp32 sums. auto: measured on this machine."""
    compile: bool = False
    """Use torch.compile: a minute of preparation, worth it on GPUs and for long runs."""
    checkpoint_activations: bool = False
    """Compute each layer again in the backward pass instead of keeping what it computed: less memory, a quarter more time."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of log²Z, which keeps the logits' sum near 1 (Chowdhery et al. 2022, section 5)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016)."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep an exponential moving average of the weights; it is what is evaluated, sampled from and kept."""
    spike_sigma: float | None = Field(default=6.0, gt=0)
    """Skip a step whose loss or gradient norm is this many deviations above the mean of the last 128. NaN is always skipped."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, gt=0)
    """CPU threads. Recorded: a run repeats bit for bit only with as many."""
    seed: int = Field(default=1, ge=0, lt=2**63)
    log_every: int = Field(default=10, gt=0)
    evaluate_every: int = Field(default=200, gt=0)
    checkpoint_every: int = Field(default=500, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    sample_every: int = Field(default=500, gt=0)
    """Steps between two generated sentences."""
    patience: int | None = Field(default=None, gt=0)
    """Early stopping: end after this many evaluations without a better held-out loss, and keep the best model."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun. ddp: every process holds the whole model. fsdp: each holds a share of it. auto: ddp where it fits."""
    cpu_offload: bool = False
    """fsdp: keep weights, gradients and moments in the memory of the host."""
    collective_timeout_seconds: int = Field(default=60, gt=0)
    """How long processes wait for one another before the run ends and names the one that is missing."""
    async_checkpoint: bool = True
    """Write checkpoints in the background; the step waits only while the tensors are copied."""
    tensorboard: bool = True
    trackers: tuple[Literal["wandb", "trackio", "mlflow"], ...] = ()
    """Where figures are sent besides metrics.jsonl and TensorBoard."""
