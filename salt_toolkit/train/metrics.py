"""Metrics: gathered on the device, read late and together, written one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salt_toolkit.files import write_text


class Meter:
    """Gathers each step's scalars; reading them is the one moment that waits for the device.

    Args:
        read: What an earlier meter had gathered, by name, when its checkpoint was written.
    """

    def __init__(self, read: Mapping[str, list[float]] | None = None) -> None:
        self._read: dict[str, list[float]] = {name: list(values) for name, values in (read or {}).items()}
        self._waiting: dict[str, list[Tensor]] = {}

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Adds scalars without looking at them."""
        for name, scalar in scalars.items():
            self._waiting.setdefault(name, []).append(scalar)

    def read(self) -> dict[str, list[float]]:
        """Everything gathered since the last `clear`, as numbers."""
        for name, scalars in self._waiting.items():
            self._read.setdefault(name, []).extend(torch.stack(scalars).float().tolist())
        self._waiting.clear()
        return self._read

    def means(self) -> dict[str, float]:
        """The mean of each name's scalars."""
        return {name: sum(values) / len(values) for name, values in self.read().items()}

    def clear(self) -> None:
        """Forgets everything."""
        self._read = {}
        self._waiting = {}


class MetricsFile:
    """``metrics.jsonl``, in a ``with`` block: a line for every logged step, none twice or missing after a resume.

    Args:
        path: The file.
        done: Steps that the run to be continued has done; later lines are dropped, for they will
            be computed again.
    """

    def __init__(self, path: Path, *, done: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= done]
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line and hands it to the operating system, so that a kill does not lose it."""
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line that a kill cut short is left out."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
