"""Steps alone, the loader alone, and both together."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from salt_toolkit.contracts import ClipBatch
from salt_toolkit.measure.peak import wait_for
from salt_toolkit.measure.trial import Trial
from salt_toolkit.runs.machine import Machine
from salt_toolkit.system.host import forget_peak, peak_memory
from salt_toolkit.train.clock import Clock
from salt_toolkit.train.step import Stepper

WARM_UP_STEPS = 3
CHUNK_SECONDS = 0.25
"""How long steps follow one another before the device is waited for: waiting costs time, too."""
MOST_BATCHES = 10**9


@dataclass(frozen=True)
class StepTime:
    """What steps took.

    Attributes:
        clips: In one step, over all its forward passes.
        steps: How many were timed.
        seconds: Of all of them.
        cpu_seconds: Of this process, meanwhile.
        memory: Bytes: on a GPU the most that tensors took, on a CPU the most that the process had.
        num_skipped: Steps whose loss or gradient was not finite.
        waiting: Share of the time in which the step waited for clips.
    """

    clips: int
    steps: int
    seconds: float
    cpu_seconds: float
    memory: int
    num_skipped: int = 0
    waiting: float = 0.0

    @property
    def clips_per_second(self) -> float:
        """Clips trained on in a second."""
        return self.steps * self.clips / self.seconds

    @property
    def seconds_per_step(self) -> float:
        """Seconds of one step."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class LoadTime:
    """What reading took.

    Attributes:
        workers: Threads that read.
        clips: How many came.
        seconds: Until they had.
        cpu_seconds: Of this process, meanwhile; its other threads only wait.
        read_seconds: Mean of one clip in one thread.
    """

    workers: int
    clips: int
    seconds: float
    cpu_seconds: float
    read_seconds: float

    @property
    def clips_per_second(self) -> float:
        """Clips that came in a second."""
        return self.clips / self.seconds


def time_steps(trial: Trial, batch: ClipBatch, seconds: float, *, min_steps: int = 1) -> StepTime:
    """Steps over one batch that stays on the device, after a few to warm up.

    Args:
        trial: What to train; with a learning rate of 0, so that its weights stay.
        batch: Prepared by the method.
        seconds: How long to time.
        min_steps: At least so many.

    Raises:
        torch.OutOfMemoryError: The batch does not fit; also other errors that `is_out_of_memory` knows.
    """
    trial.clear()
    forget_peak_of(trial.machine)
    stepper = trial.stepper()
    held = itertools.repeat(batch.to(trial.machine.device))
    _warm_up(trial, stepper, held, seconds)
    return _timed(trial, stepper, held, seconds, len(batch.clip_ids), min_steps)


def time_loading(
    trial: Trial, workers: int, *, batch_size: int, seconds: float = 0.0, num_batches: int | None = None
) -> tuple[LoadTime, ClipBatch]:
    """Batches that nobody trains on, from the arrival of the first.

    Args:
        trial: Whose data to read.
        workers: Threads that read.
        batch_size: Clips in a batch.
        seconds: How long to time; two batches at least.
        num_batches: Read exactly so many instead, the first included.

    Returns:
        What it took, and the last batch.
    """
    reading = trial.data.reader.reading
    with trial.batches(batch_size, workers, num_batches or MOST_BATCHES) as batches:
        stream = iter(batches)
        batch = next(stream)
        reading.lap()
        begin, cpu_begin = time.perf_counter(), time.process_time()
        num_timed, elapsed = 0, 0.0
        while num_timed + 1 < num_batches if num_batches else num_timed < 2 or elapsed < seconds:
            batch = next(stream)
            num_timed += 1
            elapsed = time.perf_counter() - begin
        cpu_seconds = time.process_time() - cpu_begin
    ahead = 0 if num_batches else trial.recipe.loader.prefetch + 1
    trial.note_read((num_timed + 1 + ahead) * batch_size)
    read_seconds = reading.lap() or 0.0
    return LoadTime(workers, num_timed * batch_size, elapsed, cpu_seconds, read_seconds), batch


def time_both(trial: Trial, workers: int, *, batch_size: int, seconds: float) -> StepTime:
    """Steps over batches that are read meanwhile, as in a run."""
    trial.clear()
    forget_peak_of(trial.machine)
    stepper = trial.stepper()
    with trial.batches(batch_size, workers, MOST_BATCHES) as batches:
        clock = Clock()
        stream = clock.watch(iter(batches))
        warm_up = _warm_up(trial, stepper, stream, seconds)
        clock.lap()
        found = _timed(trial, stepper, stream, seconds, batch_size, min_steps=2, clock=clock)
    steps = warm_up + found.steps
    trial.note_read((steps * trial.recipe.train.accumulate + trial.recipe.loader.prefetch + 1) * batch_size)
    return found


def time_copy(machine: Machine, batch: ClipBatch) -> float:
    """Seconds that a batch takes from the host to a GPU; 0 where there is none."""
    if machine.device.type != "cuda":
        return 0.0
    seconds = []
    for _ in range(4):
        wait_for(machine)
        begin = time.perf_counter()
        batch.to(machine.device)
        wait_for(machine)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def forget_peak_of(machine: Machine) -> None:
    """Restarts `peak_of_memory`."""
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(machine.device)
    else:
        forget_peak()


def peak_of_memory(machine: Machine) -> int:
    """Bytes: on a GPU the most that tensors took, on a CPU the most that the process had."""
    return torch.cuda.max_memory_allocated(machine.device) if machine.device.type == "cuda" else peak_memory()


def _warm_up(trial: Trial, stepper: Stepper, batches: Iterator[ClipBatch], seconds: float) -> int:
    """Compiles, tries cuDNN's algorithms, makes the optimizer's moments; returns the steps that took."""
    begin = time.perf_counter()
    for number in range(WARM_UP_STEPS):
        stepper.step(batches, number, lr=0.0, weight_decay=0.0)
        wait_for(trial.machine)
        if number == 0:
            begin = time.perf_counter()  # the first one alone compiles
        elif time.perf_counter() - begin > seconds:
            return number + 1
    return WARM_UP_STEPS


def _timed(
    trial: Trial,
    stepper: Stepper,
    batches: Iterator[ClipBatch],
    seconds: float,
    batch_size: int,
    min_steps: int,
    clock: Clock | None = None,
) -> StepTime:
    skipped: list[torch.Tensor] = []
    begin, cpu_begin = time.perf_counter(), time.process_time()
    elapsed = waited_for = 0.0
    while len(skipped) < min_steps or elapsed < seconds:
        skipped.append(stepper.step(batches, len(skipped), lr=0.0, weight_decay=0.0).skipped)
        elapsed = time.perf_counter() - begin
        if elapsed - waited_for > CHUNK_SECONDS or elapsed >= seconds:
            wait_for(trial.machine)
            elapsed = waited_for = time.perf_counter() - begin
    wait_for(trial.machine)
    elapsed = time.perf_counter() - begin
    return StepTime(
        clips=batch_size * trial.recipe.train.accumulate,
        steps=len(skipped),
        seconds=elapsed,
        cpu_seconds=time.process_time() - cpu_begin,
        memory=peak_of_memory(trial.machine),
        num_skipped=int(torch.stack(skipped).sum()),
        waiting=clock.lap()[1] if clock else 0.0,
    )
