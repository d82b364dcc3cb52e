"""Where a step's time goes: a few steps under torch's profiler, summed up by phase and by kind of work."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from foretell.base.console import Terminal
from foretell.base.files import atomic_path, write_text
from foretell.base.records import dump
from foretell.training.state import StepReport, TrainState

WARM_UP, STEPS = 3, 5  # steps before the profiled ones, and those
PHASE = "step: "  # ranges with this prefix, set in step.py and around the reading, are phases
KINDS = (  # the first that is found in an operation's name says what kind of work it is
    ("matrix products", ("aten::mm", "addmm", "bmm", "aten::matmul", "aten::linear", "gemm", "mkldnn", "onednn")),
    ("attention", ("attention", "flash", "softmax")),
    ("optimizer", ("adam", "sgd", "lerp", "vector_norm", "_foreach")),
    ("communication", ("allreduce", "all_reduce", "allgather", "all_gather", "reduce_scatter", "gloo", "nccl", "c10d")),
    ("copies and casts", ("copy", "clone", "aten::to", "cat", "contiguous", "fill_", "zero_", "index", "embedding")),
)


class Profile:
    """Wraps the step; after the profiled ones it says what it found, and the run goes on."""

    def __init__(self, step: Callable[[TrainState], StepReport], folder: Path, terminal: Terminal) -> None:
        """folder: where profile.json and trace.json (for chrome://tracing or Perfetto) are written."""
        self._step, self._folder, self._terminal, self._done = step, folder, terminal, 0
        self._profiler: torch.profiler.profile | None = None

    def __call__(self, state: TrainState) -> StepReport:
        if self._done == WARM_UP:
            gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU, *gpu])
            with _quietly():
                self._profiler.start()
        report, self._done = self._step(state), self._done + 1
        if state.finished and self._done <= WARM_UP:
            self._terminal.warn(f"the run has ended too early for a profile: it needs more than {WARM_UP} steps")
        if self._profiler is not None and (self._done == WARM_UP + STEPS or state.finished):
            with _quietly():
                self._profiler.stop()
            self._tell(self._profiler, self._done - WARM_UP)
            self._profiler = None
        return report

    def _tell(self, profiler: torch.profiler.profile, steps: int) -> None:
        found = summary(profiler.key_averages(), steps)
        with atomic_path(self._folder / "trace.json") as partial:
            profiler.export_chrome_trace(str(partial))
        write_text(self._folder / "profile.json", dump(found, indent=1))
        self._terminal.say(f"where the time of a step goes (mean of {steps}):", style="bold", result=True)
        for title, part in (("phase", found["phases"]), ("kind of work", found["kinds"])):
            whole = sum(part.values()) or 1.0
            rows = [[name, f"{1000 * seconds:.1f} ms", f"{100 * seconds / whole:.0f} %"] for name, seconds in part.items()]
            self._terminal.table([title, "a step", "share"], rows, result=True)
        self._terminal.say(f"all operations: {self._folder / 'trace.json'} (open it in ui.perfetto.dev)")


def summary(events: Any, steps: int) -> dict[str, Any]:
    """Seconds a step: phases by the wall clock, kinds of work by the processor's (or the GPU's) own time, largest first."""
    phases, kinds = dict[str, float](), dict[str, float]()
    on_gpu = any(event.self_device_time_total for event in events)
    for event in events:
        if event.key.startswith(PHASE):
            phases[event.key.removeprefix(PHASE)] = event.cpu_time_total / 1e6 / steps
        elif not event.key.startswith(("ProfilerStep", "cuda")):
            own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            kinds[kind_of(event.key)] = kinds.get(kind_of(event.key), 0.0) + own / 1e6 / steps
    return {"steps": steps, "phases": _falling(phases), "kinds": _falling(kinds)}


def kind_of(operation: str) -> str:
    """matrix products, attention, …: what an operation's name tells."""
    name = operation.lower()
    return next((kind for kind, words in KINDS if any(word in name for word in words)), "element by element, and the rest")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the profiler's native code prints about itself on standard error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _falling(parts: dict[str, float]) -> dict[str, float]:
    return dict(sorted(parts.items(), key=lambda part: -part[1]))
