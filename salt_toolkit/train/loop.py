"""The training loop, in numbered steps."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

import torch
from torch import Tensor

from salt_toolkit.assemble import build_schedules
from salt_toolkit.contracts import ClipBatch, Method, Schedule
from salt_toolkit.data.loading import BatchLoader
from salt_toolkit.data.order import Place
from salt_toolkit.errors import RunError
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.runs.machine import Machine
from salt_toolkit.system.files import sync, writing
from salt_toolkit.system.formats import stamped
from salt_toolkit.system.progress import Progress
from salt_toolkit.system.signals import StopRequests
from salt_toolkit.train import checkpoint as checkpoints
from salt_toolkit.train.batches import TrainingData, build_method_for
from salt_toolkit.train.checkpoint import Checkpoint
from salt_toolkit.train.clock import Clock, device_memory
from salt_toolkit.train.guard import ADVICE, SkippedSteps
from salt_toolkit.train.metrics import Meter, StepFile
from salt_toolkit.train.processes import Processes
from salt_toolkit.train.step import Stepper

MOST_UNREAD_STEPS = 1000
"""Steps after which metrics are read even if nothing is logged: what waits on the device takes memory."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run.
        num_bad_clips: Clips that could not be used.
        num_skipped_steps: Steps whose loss or gradient was not finite.
        stopped_by: The signal that asked to stop, in this process or another; None where none did.
    """

    step: int
    total_steps: int
    num_bad_clips: int
    num_skipped_steps: int
    stopped_by: Signals | None

    @property
    def complete(self) -> bool:
        """Whether the run is complete; otherwise it was stopped, or reached its time limit."""
        return self.step == self.total_steps


def train(
    recipe: Recipe,
    machine: Machine,
    processes: Processes,
    progress: Progress,
    found: Checkpoint | None,
    max_hours: float | None = None,
    *,
    built: Callable[[Method], None],
) -> Outcome:
    """Trains a recipe from a checkpoint, or from the beginning, to its end.

    Args:
        recipe: A valid recipe whose run directory has been prepared.
        machine: The device, and the settings chosen for it.
        processes: All processes of the run.
        progress: Receives every logged line.
        found: Checkpoint to resume from; None starts from scratch.
        max_hours: Time limit; the next call resumes the run.
        built: Called by every process before the first step, once all weights are loaded.

    Raises:
        SaltError: The data, the run directory, non-finite losses or lack of memory prevent training.
    """
    try:
        with StopRequests(max_hours) as requests:
            trainer = _Trainer(recipe, machine, processes, progress, found)
            built(trainer.method)
            with trainer.metrics, trainer.skipped, trainer.batches() as batches:
                stopped_by = trainer.run_steps(iter(batches), requests)
                return trainer.finish(stopped_by)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"the device's memory is full ({str(error).splitlines()[0]}); lower train.batch_size and raise "
            "train.accumulate by the same factor, or set grad_checkpointing = true in [student] and [predictor]"
        ) from error


class _Trainer:
    """The objects of one training run, and its position."""

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        processes: Processes,
        progress: Progress,
        found: Checkpoint | None,
    ) -> None:
        self.recipe = recipe
        self.machine = machine
        self.processes = processes
        self.progress = progress
        self.directory = RunDirectory.of(recipe)
        self.data = TrainingData(
            recipe,
            self.directory,
            part=(processes.rank, processes.count),
            pin_memory=machine.device.type == "cuda",
            log=progress.say,
        )
        self.total_steps = recipe.train.num_steps(self.data.num_clips)
        self.method = build_method_for(self.data, recipe, machine.device)
        if found is None:
            self._calibrate()
        else:
            checkpoints.restore_modules(found, self.method)
        self.stepper = Stepper(recipe, self.method, machine, processes)
        if found is not None:
            checkpoints.restore_rest(found, self.method, self.stepper.optimizer, self.stepper.average)
        self.step = found.step if found else 0
        self._saved = self.step if found else None
        self.meter = Meter(found.meter if found else None)
        self.metrics = StepFile(self.directory.metrics if processes.is_first else None, done=self.step)
        self.skipped = SkippedSteps(
            self.directory.skipped_steps, done=self.step, limit=recipe.train.max_skipped_steps, processes=processes
        )
        schedules = build_schedules(recipe, total_steps=self.total_steps)
        self.lr: Schedule = schedules["lr"]
        self.weight_decay: Schedule = schedules.get("weight_decay", _no_weight_decay)
        self._bad_clips_to_tell = self._skipped_steps_to_tell = 1

    def batches(self) -> BatchLoader:
        """The batches of the remaining steps."""
        accumulate = self.recipe.train.accumulate
        return self.data.batches(self.step * accumulate, self.total_steps * accumulate, self._prepare)

    def run_steps(self, batches: Iterator[ClipBatch], requests: StopRequests) -> Signals | None:
        """Trains until the run is complete, the time limit is reached, or a signal asks to stop; returns the signal."""
        settings = self.recipe.train
        clock = Clock()
        watched = clock.watch(batches)
        while self.step < self.total_steps and not self.processes.any(requests.pending):
            # 1. Loss and gradient of every batch of the step, and the update.
            lr, weight_decay = self.lr(self.step), self.weight_decay(self.step)
            result = self.stepper.step(watched, self.step, lr=lr, weight_decay=weight_decay)
            self.step += 1

            # 2. Collect the metrics without synchronizing with the device.
            self.meter.add(result.scalars)
            self.skipped.note(self.step, result.clip_ids, result.skipped, result.values)

            # 3. Now and then: read the metrics, log them, and save a checkpoint.
            if self.step % settings.log_every == 0 or self.step == self.total_steps:
                self._log(lr, weight_decay, clock)
            elif self.step % MOST_UNREAD_STEPS == 0:
                self.meter.read()
                self.skipped.settle()
            if self.step % settings.checkpoint_every == 0:
                self.save_checkpoint()
        return next((signal for signal in self.processes.gathered(requests.received) if signal is not None), None)

    def finish(self, stopped_by: Signals | None) -> Outcome:
        """Saves a checkpoint to resume from, or the exports of a complete run."""
        if self._saved != self.step:
            self.save_checkpoint()
        complete = self.step == self.total_steps
        if complete:
            self.skipped.refuse_most(self.total_steps)
            self._save_exports()
        num_bad_clips = self._count_bad_clips()
        # A launcher ends the remaining processes soon after one exits; the first may still be writing.
        self.processes.wait()
        return Outcome(
            step=self.step,
            total_steps=self.total_steps,
            num_bad_clips=num_bad_clips,
            num_skipped_steps=self.skipped.count,
            stopped_by=None if complete else stopped_by,
        )

    def save_checkpoint(self) -> None:
        """Writes a checkpoint, then removes old ones."""
        self.skipped.settle()
        folder, settings = self.directory.checkpoints, self.recipe.train
        keep = self.processes.is_first
        files = checkpoints.collect(self.method, self.stepper.optimizer, self.stepper.average, keep=keep)
        state = files, self.meter.read(), checkpoints.owned_parameters(self.method).keys()
        self._saved = self.step
        if not self.processes.is_first:
            return
        with writing(folder):
            try:
                checkpoints.save(folder, self.step, *state)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # The disk is full: one complete checkpoint is enough to resume from, so the others make room.
                checkpoints.remove_old(folder, 1, settings.keep_every)
                checkpoints.save(folder, self.step, *state)
            checkpoints.remove_old(folder, settings.keep_checkpoints, settings.keep_every)

    def _save_exports(self) -> None:
        average, weights = self.stepper.average, {}
        for name, module in self.method.exports().items():
            path = self.directory.export(name)
            if average:
                weights[self.directory.last(name)] = module.state_dict()
            weights[path] = average.state_dict(name) if average else module.state_dict()
        for path, tensors in weights.items():
            whole = checkpoints.on_host(tensors, keep=self.processes.is_first)
            if self.processes.is_first:
                about = stamped("student", {"steps": self.step})
                # "pt" is what Hugging Face's loaders ask for.
                _save_weights(whole, path, {"format": "pt", "salt": json.dumps(about)})

    def _calibrate(self) -> None:
        wanted = self.method.calibration_clips
        if not wanted:
            return
        self.progress.say(f"calibrating on {min(wanted, self.data.num_clips)} clips")
        num_batches = math.ceil(wanted / self.data.order.batch_size)
        # Every process reads all clips, so that the statistics need no communication. Under autocast, as in
        # training, so that the statistics match the latents that the objective will see.
        with self.data.whole_batches(0, num_batches) as batches, self.machine.autocast():
            self.method.calibrate(batch.to(self.machine.device) for batch in batches)

    def _prepare(self, batch: ClipBatch, place: Place) -> ClipBatch:
        # Optimizer steps, not batches, so that all batches of one step share the schedules' values.
        return self.method.prepare(batch, epoch=place.epoch, step=place.number // self.recipe.train.accumulate)

    def _log(self, lr: float, weight_decay: float, clock: Clock) -> None:
        means = self.meter.means()
        self.meter.clear()
        self.skipped.settle()
        seconds, waiting_share, num_batches = clock.lap()
        reading = self.data.reader.reading.lap()
        steps_left = (self.total_steps - self.step) * self.recipe.train.accumulate
        line: dict[str, float | int] = {
            "step": self.step,
            "epoch": (self.step * self.recipe.train.accumulate - 1) // self.data.order.batches_per_epoch,
            **{name: mean for name, mean in means.items() if math.isfinite(mean)},
            "lr": lr,
            "weight_decay": weight_decay,
            "clips_per_second": num_batches * self.recipe.train.batch_size / seconds,
            "data_wait_share": waiting_share,
            **({"read_ms": 1000 * reading} if reading is not None else {}),
            **device_memory(self.machine.device),
            "hours_left": steps_left * seconds / num_batches / 3600,
            "num_skipped_steps": self.skipped.count,
            "num_bad_clips": self._count_bad_clips(),
        }
        self._tell_of_skipped_steps()
        self.metrics.write(line)
        self.progress.update(self.step, self.total_steps, line)

    def _tell_of_skipped_steps(self) -> None:
        """Logs the count at 1, 10, 100 and so on."""
        count = self.skipped.count
        if count >= self._skipped_steps_to_tell:
            self.progress.say(f"{count} of {self.step} steps skipped: their loss or gradient was not finite; {ADVICE}")
            self._skipped_steps_to_tell = 10 ** len(str(count))

    def _count_bad_clips(self) -> int:
        """Counts bad clips over all processes; logs the count at 1, 10, 100 and so on."""
        quarantine = self.data.quarantine
        known = len(quarantine.reasons) - quarantine.num_found
        count = known + sum(self.processes.gathered(quarantine.num_found))
        if count >= self._bad_clips_to_tell and quarantine.reasons:
            clip_id, reason = list(quarantine.reasons.items())[-1]
            self.progress.say(f"{count} bad clips so far, such as {clip_id}: {reason}")
            self._bad_clips_to_tell = 10 ** len(str(count))
        return count


def _save_weights(weights: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes a module's weights atomically."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        checkpoints.save_tensors(weights, partial, metadata)
        sync(partial)
        partial.replace(path)
        sync(path.parent)


def _no_weight_decay(step: int) -> float:
    return 0.0
