"""Steps whose loss or gradient is not finite: skipped, recorded with their clips, and bounded in number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from salt_toolkit.errors import RunError
from salt_toolkit.train.metrics import StepFile
from salt_toolkit.train.processes import Processes

LEAST = 10
"""Minimum number of skipped steps before skipping over half of all steps stops the run, whatever the limit."""

ADVICE = 'lower the learning rate, set optimizer.grad_clip, or train with precision = "fp32"'


@dataclass(frozen=True)
class _Step:
    """A step whose result has not yet been read from the device."""

    number: int
    clip_ids: Sequence[str]
    skipped: Tensor
    values: Mapping[str, Tensor]


class SkippedSteps:
    """The log of skipped steps, a context manager; it synchronises with the device only in `settle`.

    Args:
        path: ``skipped_steps.jsonl`` of the run, written by the first process.
        done: Completed steps of the run being resumed.
        limit: Skipped steps, over the entire run, above which it stops.
        processes: All of the run's.
    """

    def __init__(self, path: Path, *, done: int, limit: int, processes: Processes) -> None:
        self.limit = limit
        self.processes = processes
        self.path = path
        self._file = StepFile(path if processes.is_first else None, done=done)
        self.count = processes.from_first(self._file.num_lines)
        self._waiting: list[_Step] = []

    def note(self, step: int, clip_ids: Sequence[str], skipped: Tensor, values: Mapping[str, Tensor]) -> None:
        """Remembers a step without synchronising with the device."""
        self._waiting.append(_Step(step, clip_ids, skipped, values))

    def settle(self) -> None:
        """Reads the results of the steps since the last call, and records those that were skipped.

        Raises:
            RunError: There are too many.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        flags = torch.stack([step.skipped for step in waiting]).tolist()
        skipped = [step for step, flag in zip(waiting, flags, strict=True) if flag]
        for step in skipped:  # the same steps in every process, because skipping is decided by all-reduce
            self._record(step)
        if skipped and (self.count > self.limit or (self.count >= LEAST and self._most_of(waiting[-1].number))):
            raise RunError(
                f"the loss or its gradient was not finite in {len(skipped)} of the last {len(waiting)} steps, up to "
                f"step {waiting[-1].number} ({self.count} in the whole run; train.max_skipped_steps = {self.limit}); "
                f"{ADVICE}. {self.path} names the clips; the checkpoints are older"
            )

    def refuse_most(self, steps: int) -> None:
        """Refuses to complete a run that skipped more than half of its steps.

        Raises:
            RunError: Too many steps were skipped.
        """
        if self._most_of(steps):
            raise RunError(
                f"the loss or its gradient was not finite in {self.count} of all {steps} steps, so there is no student "
                f"worth keeping; {ADVICE}, and start over with --restart. {self.path} names the clips"
            )

    def _most_of(self, steps: int) -> bool:
        return 2 * self.count > steps

    def _record(self, step: _Step) -> None:
        self.count += 1
        clip_ids = [clip_id for part in self.processes.gathered(list(step.clip_ids)) for clip_id in part]
        values = {name: str(value.item()) for name, value in step.values.items()}  # JSON has no NaN
        self._file.write({"step": step.number, **values, "clip_ids": clip_ids})

    def __enter__(self) -> SkippedSteps:
        return self

    def __exit__(self, *details: object) -> None:
        self._file.__exit__(*details)
