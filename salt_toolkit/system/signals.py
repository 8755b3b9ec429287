"""Ctrl-C, SIGTERM, a closed terminal and the end of the time as polite requests: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

OUT_OF_TIME = 75
"""Exit code (EX_TEMPFAIL) of work that ended because its time was up: the same command continues it."""


class StopRequests:
    """A ``with`` block in which a signal only sets `received`; a second Ctrl-C interrupts at once.

    Args:
        max_hours: The time that the block may take; None for as long as it wants.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.received: signal.Signals | None = None
        self._end = float("inf") if max_hours is None else time.monotonic() + 3600 * max_hours
        self._before: dict[signal.Signals, Any] = {}

    @property
    def out_of_time(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._end

    @property
    def pending(self) -> bool:
        """Whether anything asks to stop."""
        return self.received is not None or self.out_of_time

    def __enter__(self) -> StopRequests:
        # Python lets only the main thread set handlers; elsewhere the caller keeps its own.
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays so: nohup wants a closed terminal to mean nothing.
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
