"""The settings of training: optimizer, schedule, and the run itself."""

from typing import Literal

from pydantic import Field

from foretell.base.settings import Settings


class OptimizerSettings(Settings):
    """The [optimizer] section."""

    name: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay (Loshchilov & Hutter 2019), on matrices only. adam: Kingma & Ba 2015, no decay."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """At its peak."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; absent: no clipping."""


class ScheduleSettings(Settings):
    """The [schedule] section."""

    warmup_steps: int = Field(default=100, ge=0)
    """The learning rate rises linearly over this many steps."""
    decay: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """wsd: warm-up, stable, linear decay (Hu et al. 2024)."""
    decay_share: float = Field(default=0.5, gt=0, le=1)
    """wsd: the share of all steps over which the rate falls."""
    final_share: float = Field(default=0.0, ge=0, le=1)
    """The rate at the last step, as a share of the peak."""


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
    tensorboard: bool = True
