"""One optimizer step: forward and backward over the micro-batches, clip, update."""

import math
import time

from foretell.base.errors import ForetellError
from foretell.data.batches import Batch
from foretell.models.cache import LSTMState
from foretell.training.config import OptimizerSettings, ScheduleSettings
from foretell.training.objective import Forward, Totals, objective
from foretell.training.schedules import learning_rate_share
from foretell.training.state import StepReport, TrainState


class NonFiniteLoss(ForetellError):
    """Loss or gradient is NaN or infinite. The weights are those before the step."""


def train_step(
    state: TrainState,
    micro_batches: list[Batch],
    optimizer: OptimizerSettings,
    schedule: ScheduleSettings,
    forward: Forward | None = None,
) -> StepReport:
    """Learn from one batch, given in pieces; return what happened.

    The loss is summed over all pieces and divided once by the weight of the whole batch, so that accumulation changes
    nothing. forward: the compiled model, where there is one. Raises NonFiniteLoss and leaves the weights alone.
    """
    started, progress = time.perf_counter(), state.progress
    state.model.train()
    loss, memory = _accumulate(state, micro_batches, state.model if forward is None else forward)
    norm = state.parameters.gradient_norm()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        state.parameters.zero()
        what = f"the loss is not a finite number any more (loss {loss}, gradient norm {norm})"
        cure = f"resume with a lower rate, e.g. optimizer.learning_rate={optimizer.learning_rate / 4:g}, or a longer warm-up"
        raise NonFiniteLoss(what, where=f"step {progress.step + 1}", cure=cure)
    state.parameters.clip(norm, optimizer.clip)
    rate = optimizer.learning_rate * learning_rate_share(progress.step, progress.steps, schedule)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.parameters.publish()
    state.parameters.zero()
    state.memory = memory  # what the next batch's rows read on from
    tokens = sum(batch.tokens_BT.numel() for batch in micro_batches)
    progress.step, progress.tokens = progress.step + 1, progress.tokens + tokens
    return StepReport(progress.step, progress.tokens, loss, rate, norm, time.perf_counter() - started, tokens)


def _accumulate(state: TrainState, micro_batches: list[Batch], forward: Forward) -> tuple[float, LSTMState | None]:
    totals, loss_sum, read, rows = Totals.of(micro_batches), 0.0, list[LSTMState](), 0
    for batch in micro_batches:
        memory = state.memory.rows(rows, len(batch.tokens_BT)) if state.memory else None
        loss = objective(state.model, batch, totals, forward, memory)
        loss.backward()  # type: ignore[no-untyped-call]
        state.parameters.accumulate()
        loss_sum, rows, read = loss_sum + float(loss.detach()), rows + len(batch.tokens_BT), read + ([memory] if memory else [])
    return loss_sum, LSTMState.joined(read) if read else None
