"""What happens once in a while during training: evaluate, stop early, log, sample, save. Each is one small observer."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foretell.base.runs import append_record
from foretell.compute.device import peak_bytes
from foretell.models.network import Network
from foretell.training.state import StepReport, TrainState


def due(step: int, every: int, state: TrainState) -> bool:
    """It is time: every so many steps, and after the last one."""
    return step % every == 0 or step >= state.progress.steps


class Evaluate:
    """Held-out loss and bits per byte every so often; with patience, asks to stop when they get no better (Prechelt 1998)."""

    def __init__(self, score: Callable[[Network], tuple[float, float | None]], every: int, patience: int | None) -> None:
        self._score, self._every, self._patience = score, every, patience

    def __call__(self, state: TrainState, report: StepReport) -> None:
        if not due(report.step, self._every, state):
            return
        (loss, bits_per_byte), progress = self._score(state.model), state.progress
        report.held_out_loss, report.held_out_bits_per_byte = loss, bits_per_byte
        if progress.best_held_out_loss is None or loss < progress.best_held_out_loss:
            progress.best_held_out_loss, progress.best_step, progress.evaluations_without_gain = loss, report.step, 0
        else:
            progress.evaluations_without_gain += 1
        if self._patience is not None and progress.evaluations_without_gain >= self._patience:
            progress.stop_reason = progress.stop_reason or "early_stop"


class WriteMetrics:
    """metrics.jsonl, the truth about the run; its readers (TensorBoard, display) are called with each line."""

    def __init__(self, path: Path, every: int, readers: Sequence[Callable[[dict[str, Any]], None]]) -> None:
        self._path, self._every, self._readers = path, every, readers
        self._tokens, self._seconds = 0, 0.0  # since the last line: pure training time
        self._clock_seconds = time.perf_counter()

    def __call__(self, state: TrainState, report: StepReport) -> None:
        self._tokens, self._seconds = self._tokens + report.step_tokens, self._seconds + report.seconds
        passed_seconds = time.perf_counter() - self._clock_seconds  # evaluations, samples and checkpoints included
        state.progress.elapsed_seconds, self._clock_seconds = state.progress.elapsed_seconds + passed_seconds, time.perf_counter()
        if not (due(report.step, self._every, state) or report.step == 1 or report.held_out_loss is not None):
            return
        state.progress.peak_bytes = max(state.progress.peak_bytes, peak_bytes())
        record: dict[str, Any] = {name: getattr(report, name) for name in ("step", "tokens", "loss", "learning_rate", "grad_norm")}
        record |= {"tokens_per_second": self._tokens / self._seconds, "elapsed_seconds": state.progress.elapsed_seconds}
        if report.held_out_loss is not None:
            record["held_out_loss"] = report.held_out_loss
        if report.held_out_bits_per_byte is not None:
            record["held_out_bits_per_byte"] = report.held_out_bits_per_byte
        append_record(self._path, record)
        for reader in self._readers:
            reader(record)
        self._tokens, self._seconds = 0, 0.0


class TensorBoard:
    """Writes the same figures as event files."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self.close = self._writer.close

    def __call__(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()


class Now:
    """Does something every so often (a sample, a checkpoint), after the last step, and where `also` says so."""

    def __init__(
        self, action: Callable[[TrainState], object], every: int, also: Callable[[TrainState], bool] = lambda state: False
    ) -> None:
        self._action, self._every, self._also = action, every, also

    def __call__(self, state: TrainState, report: StepReport) -> None:
        if due(report.step, self._every, state) or self._also(state):
            self._action(state)
