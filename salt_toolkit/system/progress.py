"""Progress output: a live line in a terminal, an occasional line in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LOG_SECONDS = 15.0
"""Seconds between lines if the output is not a terminal."""

SHOWN = {"loss": "loss {:.4g}", "explained_variance": "R² {:.3f}", "cosine": "cos {:.3f}"}
"""How metrics are shown; a method's other metrics are only written to the file."""


class _Terminal(Console):
    """The standard error stream; a closed pipe silences the output and never ends the run."""

    def __init__(self, *, silent: bool) -> None:
        super().__init__(stderr=True, highlight=False, quiet=silent)

    def on_broken_pipe(self) -> None:
        """Called by rich, whose default is to exit the program."""
        self.quiet = True


class Progress:
    """Shows a run's position; use it in a ``with`` block.

    Args:
        name: The run's name.
        console: Where to; by default the standard error stream.
        unit: What is counted.
        silent: Whether to show nothing, as all processes but the first do.
    """

    def __init__(self, name: str, console: Console | None = None, unit: str = "step", *, silent: bool = False) -> None:
        self.name = name
        self.unit = unit
        self.console = console or _Terminal(silent=silent)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._last_line = 0.0
        self._start: tuple[float, int] | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[details]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task(self.name, total=None, details="starting")
            self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """Prints a line of its own."""
        self.console.print(f"{self.name}: {message}", markup=False, soft_wrap=True)

    def update(self, step: int, total: int, line: Mapping[str, float | int]) -> None:
        """Shows a line of metrics."""
        details = "  ".join(text.format(line[name]) for name, text in SHOWN.items() if name in line)
        self.show(step, total, f"{details or 'loss not finite'}  {line['clips_per_second']:.0f} clips/s")

    def show(self, step: int, total: int, details: str) -> None:
        """Shows a position with details; in a log only every `LOG_SECONDS`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step, total=total, details=details)
            return
        now = time.monotonic()
        start_time, start_step = self._start = self._start or (now, step)
        if now - self._last_line >= LOG_SECONDS or step == total:
            self._last_line = now
            left = (now - start_time) / (step - start_step) * (total - step) if step > start_step else None
            eta = f"  ETA {_minutes(left)}" if left is not None else ""
            self.say(f"{self.unit} {step}/{total}  {details}{eta}")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
