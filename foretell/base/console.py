"""What a person sees: one Terminal, made by the command line and handed down; jobs never print by themselves."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from foretell.base.units import count

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

QUIET_INTERVAL_SECONDS = 10.0  # without a terminal: one line per interval, so that log files are not flooded


class Terminal:
    """Human output. With `json` it goes to standard error, so that standard output holds only results.

    quiet: say nothing but warnings and results.
    """

    def __init__(self, *, quiet: bool = False, json: bool = False, stream: TextIO | None = None) -> None:
        self.quiet, self.json = quiet, json
        self._stream = stream if stream is not None else (sys.stderr if json else sys.stdout)
        self._console: Console | None = None

    @property
    def console(self) -> "Console":
        """The rich console, made on first use (importing rich costs more than most commands)."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
        return self._console

    @property
    def interactive(self) -> bool:
        """A person watches: a live display makes sense."""
        return self.console.is_terminal and not self.quiet

    def say(self, text: str = "", style: str | None = None) -> None:
        """One line of plain text (never read as markup: it may hold anybody's data)."""
        if not self.quiet:
            self.console.print(text, style=style, markup=False, emoji=False)

    def write(self, text: str, style: str | None = None) -> None:
        """Text without a line's end, at once: for streams."""
        if not self.quiet:
            self.console.print(text, style=style, end="", markup=False, emoji=False)
            self._stream.flush()

    def warn(self, text: str) -> None:
        """One line that is said even when quiet."""
        self.console.print(f"note: {text}", style="yellow", markup=False, emoji=False)

    def show(self, renderable: "RenderableType") -> None:
        """Any rich object: a table, a panel."""
        if not self.quiet:
            self.console.print(renderable)

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """A plain table; numbers are right-aligned by their look."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            numeric = all(row[index][:1].isdigit() or row[index][:1] in "-–" for row in rows if row[index])
            table.add_column(column, justify="right" if rows and numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.show(table)

    @contextmanager
    def progress(self, description: str, total: float | None = None, unit: str = "") -> Iterator["Progress"]:
        """A bar on a terminal, a line every few seconds elsewhere."""
        bar = Progress(self, description, total, unit)
        try:
            yield bar
        finally:
            bar.close()


class Progress:
    """How far a long step is. `advance` may be called as often as one likes."""

    def __init__(self, terminal: Terminal, description: str, total: float | None, unit: str) -> None:
        self._terminal, self._description, self._total, self._unit = terminal, description, total, unit
        self._done = 0.0
        self._said_at_seconds = time.monotonic()
        self._live: Any = None
        if terminal.interactive:
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._live = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TimeRemainingColumn(),
                console=terminal.console,
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task(description, total=total)

    def advance(self, amount: float = 1.0) -> None:
        """Record that `amount` more is done."""
        self._done += amount
        if self._live is not None:
            self._live.update(self._task, completed=self._done)
        elif time.monotonic() - self._said_at_seconds >= QUIET_INTERVAL_SECONDS:
            self._said_at_seconds = time.monotonic()
            of_total = f" of {count(self._total)}" if self._total else ""
            self._terminal.say(f"{self._description}: {count(self._done)}{of_total} {self._unit}".rstrip())

    def close(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
