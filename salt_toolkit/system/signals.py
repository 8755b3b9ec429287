"""Ctrl-C, SIGTERM, a closed terminal and the time limit as requests to finish the step, save and exit."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OUT_OF_TIME = 75
"""Exit code (EX_TEMPFAIL) after the time limit was reached: the same command continues the work."""


class StopRequests:
    """A ``with`` block in which a signal only sets `received`; a second Ctrl-C interrupts at once.

    Args:
        max_hours: Time limit for the block; None for no limit.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.received: signal.Signals | None = None
        self._end = float("inf") if max_hours is None else time.monotonic() + 3600 * max_hours
        self._before: dict[signal.Signals, Any] = {}

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() > self._end

    @property
    def pending(self) -> bool:
        """Whether a signal or the time limit asks to stop."""
        return self.received is not None or self.out_of_time

    def __enter__(self) -> StopRequests:
        # Python lets only the main thread set handlers; elsewhere the caller keeps its own.
        if threading.current_thread() is threading.main_thread():
            # Ignored signals stay ignored: nohup relies on that for SIGHUP.
            heard = [number for number in REQUESTS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
