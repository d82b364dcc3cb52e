"""One optimizer step: forward and backward over the micro-batches, judge, clip, update."""

import time
from collections.abc import Sequence

from torch.profiler import record_function

from foretell.data.batches import Batch
from foretell.models.cache import LSTMState
from foretell.training.config import OptimizerSettings, ScheduleSettings, TrainingSettings
from foretell.training.guard import verdict
from foretell.training.objective import DEFAULTS, Forward, Totals, objective
from foretell.training.schedules import learning_rate_share
from foretell.training.state import StepReport, TrainState


def train_step(
    state: TrainState,
    micro_batches: Sequence[Batch],
    optimizer: OptimizerSettings,
    schedule: ScheduleSettings,
    training: TrainingSettings = DEFAULTS,
    forward: Forward | None = None,
    totals: Totals | None = None,
) -> StepReport:
    """Learn from one batch, given in pieces; return what happened.

    The loss is summed over all pieces and divided once by the weight of the whole batch, so that accumulation changes
    nothing. A batch that `guard.verdict` refuses leaves the weights alone. forward: the compiled model, where there is one.
    totals: of the whole batch where this rank has only a share; gradients and loss are summed over the ranks once, at the end.
    """
    started, progress, parameters = time.perf_counter(), state.progress, state.parameters
    totals = totals or Totals.of(micro_batches)
    state.model.train()
    loss, memory = _accumulate(state, micro_batches, totals, training, state.model if forward is None else forward)
    loss = state.ranks.sums([loss])[0]  # before the gradients: over gloo, where a rank that is gone is noticed on any device
    parameters.reduce(state.ranks)
    norm = state.ranks.first([parameters.gradient_norm()])[0]  # all judge and clip by one number, or they would drift apart
    share = learning_rate_share(progress.step, progress.steps, schedule)
    skipped = verdict(progress, loss, norm, training.spike_sigma)
    parts: dict[str, float] = {}
    if skipped is None:
        parts = parameters.gradient_norms() if (progress.step + 1) % training.log_every == 0 else {}
        with record_function("step: update"):
            parameters.clip(norm, optimizer.clip)
            _update(state, optimizer, share, training.ema_decay)
        state.memory = memory  # what the next batch's rows read on from
    parameters.zero()
    progress.step, progress.tokens = progress.step + 1, progress.tokens + totals.tokens
    rate, seconds = optimizer.learning_rate * share, time.perf_counter() - started
    return StepReport(progress.step, progress.tokens, loss, rate, norm, seconds, totals.tokens, skipped=skipped, grad_norms=parts)


def _update(state: TrainState, settings: OptimizerSettings, share: float, ema_decay: float | None) -> None:
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = getattr(settings, group["rate"]) * share
        optimizer.step()
    state.parameters.publish()
    if ema_decay is not None:
        state.parameters.follow(ema_decay)


def _accumulate(
    state: TrainState, micro_batches: Sequence[Batch], totals: Totals, training: TrainingSettings, forward: Forward
) -> tuple[float, LSTMState | None]:
    loss_sum, read, rows = 0.0, list[LSTMState](), 0
    for batch in micro_batches:
        memory = state.memory.rows(rows, len(batch.tokens_BT)) if state.memory else None
        with record_function("step: forward and loss"):
            loss = objective(state.model, batch, totals, forward, memory, training)
        with record_function("step: backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        loss_sum, rows, read = loss_sum + float(loss.detach()), rows + len(batch.tokens_BT), read + ([memory] if memory else [])
    return loss_sum, LSTMState.joined(read) if read else None
