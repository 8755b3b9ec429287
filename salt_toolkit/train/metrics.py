"""Metrics: collected on the device, read back late and in bulk, written as JSON Lines."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from salt_toolkit.distributed import mean_over_processes
from salt_toolkit.system.files import read_lines, write_text, writing


class Meter:
    """Collects each step's scalars; only `read` synchronises with the device and with other processes.

    Args:
        read: Values that the checkpoint's meter had collected, by name.
    """

    def __init__(self, read: Mapping[str, list[float]] | None = None) -> None:
        self._read: dict[str, list[float]] = {name: list(values) for name, values in (read or {}).items()}
        self._waiting: dict[str, list[Tensor]] = {}

    def add(self, scalars: Mapping[str, Sequence[Tensor]]) -> None:
        """Adds scalars without synchronising with the device."""
        for name, some in scalars.items():
            self._waiting.setdefault(name, []).extend(some)

    def read(self) -> dict[str, list[float]]:
        """All values since the last `clear`, averaged over processes."""
        for name, scalars in self._waiting.items():
            self._read.setdefault(name, []).extend(mean_over_processes(torch.stack(scalars).float()).tolist())
        self._waiting.clear()
        return self._read

    def means(self) -> dict[str, float]:
        """The mean of each metric's finite values; NaN if there are none."""
        finite = {name: [value for value in values if math.isfinite(value)] for name, values in self.read().items()}
        return {name: sum(values) / len(values) if values else math.nan for name, values in finite.items()}

    def clear(self) -> None:
        """Forgets everything."""
        self._read = {}
        self._waiting = {}


class StepFile:
    """A JSON Lines file with entries by step; no duplicates or gaps after a resume. A context manager.

    Args:
        path: The file; None writes nothing, as in all processes but the first.
        done: Completed steps of the run being resumed; later lines are dropped, because those steps will be repeated.

    Raises:
        RunError: The disk is full or not writable.
    """

    def __init__(self, path: Path | None, *, done: int) -> None:
        self.path = path
        self.num_lines = 0
        self._file: TextIO | None = None
        if path is None:
            return
        kept = [line for line in read_lines(path) if line["step"] <= done]
        self.num_lines = len(kept)
        if path.exists():
            with writing(path):
                write_text(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in kept))

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line and hands it to the operating system, so that a kill does not lose it."""
        if self.path is None:
            return
        with writing(self.path):
            self._file = self._file or self.path.open("a", encoding="utf-8")
            self._file.write(f"{json.dumps(line, ensure_ascii=False)}\n")
            self._file.flush()
        self.num_lines += 1

    def __enter__(self) -> StepFile:
        return self

    def __exit__(self, *details: object) -> None:
        # A full disk has already been reported by `write`.
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
