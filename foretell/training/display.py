"""What a person sees of a run: one live line on a terminal, a plain line every so often elsewhere."""

import time
from typing import Any

from foretell.base.console import QUIET_INTERVAL_SECONDS, Terminal
from foretell.base.units import count, duration, size
from foretell.compute.device import used_bytes
from foretell.training.state import Progress


class Display:
    """Turns metrics records into lines. flops_per_token over peak_flops (measured at the start) is the share of the peak."""

    def __init__(self, terminal: Terminal, progress: Progress, flops_per_token: float, peak_flops: float) -> None:
        self._terminal, self._progress = terminal, progress
        self._share_of_one_token = flops_per_token / peak_flops
        self._first_step, self._started_at_seconds = progress.step, time.monotonic()
        self._said_at_seconds, self._held_out = float("-inf"), ""
        self._live: Any = None
        if terminal.interactive:
            from rich.live import Live

            self._live = Live(console=terminal.console, auto_refresh=False, transient=False)
            self._live.start()

    def __call__(self, record: dict[str, Any]) -> None:
        if "held_out_loss" in record:
            bits = f", {record['held_out_bits_per_byte']:.3f} bits/byte" if "held_out_bits_per_byte" in record else ""
            self._held_out = f" (held-out {record['held_out_loss']:.3f}{bits})"
        line = self._line(record)
        if self._live is not None:
            self._live.update(line, refresh=True)
            return
        now = time.monotonic()
        if now - self._said_at_seconds >= QUIET_INTERVAL_SECONDS or "held_out_loss" in record:
            self._said_at_seconds = now
            self._terminal.say(line)

    def sample(self, step: int, text: str) -> None:
        """A generated sentence, above the live line."""
        self._terminal.say(f"  ┆ at step {count(step)} it writes: {' '.join(text.split())}", style="dim italic")

    def close(self) -> None:
        """Leave the last line as it stands."""
        if self._live is not None:
            self._live.stop()

    def _line(self, record: dict[str, Any]) -> str:
        step, steps, rate = record["step"], self._progress.steps, record["tokens_per_second"]
        seconds_left = (steps - step) * (time.monotonic() - self._started_at_seconds) / max(1, step - self._first_step)
        done = f"step {step:,}/{steps:,}  {100 * step / steps:.0f} %  loss {record['loss']:.3f}{self._held_out}"
        speed = f"{count(rate)} tok/s  {100 * rate * self._share_of_one_token:.0f} % of peak"
        return f"{done}  {speed}  {size(used_bytes())}  left {duration(seconds_left)}"
