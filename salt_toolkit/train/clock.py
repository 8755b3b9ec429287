"""Timing of a run, and the device's peak memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from salt_toolkit.contracts import ClipBatch


class Clock:
    """Wall-clock time between two logged lines, with the share spent waiting for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._num_batches = 0

    def watch(self, batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
        """The same batches; measures the time spent waiting for each."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            self._num_batches += 1
            yield batch

    def lap(self) -> tuple[float, float, int]:
        """Seconds since the last lap, the share spent waiting for data, and the number of batches."""
        now = time.perf_counter()
        seconds = now - self._start
        lap = (seconds, self._waited / seconds, self._num_batches)
        self._start, self._waited, self._num_batches = now, 0.0, 0
        return lap


def device_memory(device: torch.device) -> dict[str, float]:
    """Peak tensor memory on a GPU so far; empty for a CPU."""
    if device.type != "cuda":
        return {}
    return {"device_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
