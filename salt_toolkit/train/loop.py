"""The training loop, in numbered steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from salt_toolkit.assemble import build_dataset, build_method, build_schedules
from salt_toolkit.cache.training import find_cache
from salt_toolkit.contracts import ClipBatch, Method, Schedule
from salt_toolkit.data.loading import BatchLoader, ClipReader, Prepare, RamCache
from salt_toolkit.data.order import ClipOrder, Place
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.errors import RunError
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs import RunDirectory
from salt_toolkit.seeding import seed_for
from salt_toolkit.train import checkpoint as checkpoints
from salt_toolkit.train.environment import Machine
from salt_toolkit.train.metrics import Meter, MetricsFile
from salt_toolkit.train.optimizer import build_optimizer, set_rates
from salt_toolkit.train.progress import Progress
from salt_toolkit.train.signals import StopRequests


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole run.
        num_bad_clips: Clips that could not be used.
        stopped_by: The signal that asked to stop; None when the run is complete.
    """

    step: int
    total_steps: int
    num_bad_clips: int
    stopped_by: Signals | None


def train(recipe: Recipe, machine: Machine, progress: Progress) -> Outcome:
    """Trains a recipe from its last checkpoint, or from the beginning, to its end.

    Args:
        recipe: A valid recipe whose run directory has been prepared.
        machine: The device, and what was decided for it.
        progress: Told about every logged line.

    Raises:
        SaltError: The data, the run directory or the numbers do not allow to go on.
    """
    trainer = _Trainer(recipe, machine, progress)
    with StopRequests() as requests:
        trainer.resume_or_calibrate()
        with trainer.metrics_file() as metrics, trainer.batches() as batches:
            trainer.run_steps(iter(batches), metrics, requests)
        return trainer.finish(requests)


class _Trainer:
    """The objects of one training, and its position."""

    def __init__(self, recipe: Recipe, machine: Machine, progress: Progress) -> None:
        self.recipe = recipe
        self.machine = machine
        self.progress = progress
        self.directory = RunDirectory.of(recipe)
        dataset = build_dataset(recipe)
        cache, about_cache = find_cache(recipe, dataset)
        if about_cache:
            progress.say(about_cache)
        if cache is not None:
            dataset = cache.dataset
        loader, settings = recipe.loader, recipe.train
        self.order = ClipOrder(len(dataset.clip_ids), settings.batch_size, recipe.run.seed)
        self.quarantine = Quarantine(
            self.directory.bad_clips, num_clips=len(dataset.clip_ids), max_fraction=loader.max_bad_fraction
        )
        if loader.ram_cache_mb:
            dataset = RamCache(dataset, loader.ram_cache_mb * 10**6)
        self.reader = ClipReader(dataset, self.quarantine, recipe.clip, recipe.run.seed)
        self.total_steps = settings.num_steps(len(dataset.clip_ids))
        if self.total_steps == 0:
            raise RunError("the run would have no step; raise train.epochs, or lower train.accumulate")
        stand_ins = cache.teachers() if cache is not None else None
        self.method = build_method(recipe, total_steps=self.total_steps, stand_ins=stand_ins).to(machine.device)
        self.method.train()
        self.step_module: nn.Module = machine.compiled(self.method, settings.compile)
        self.optimizer = build_optimizer(self.method, recipe.optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        schedules = build_schedules(recipe, total_steps=self.total_steps)
        self.lr: Schedule = schedules["lr"]
        self.weight_decay: Schedule = schedules.get("weight_decay", _no_weight_decay)
        self.meter = Meter()
        self.step = 0

    def resume_or_calibrate(self) -> None:
        """Takes up the newest checkpoint; without one, lets the method take its statistics."""
        found = checkpoints.newest(self.directory.checkpoints)
        if found is not None:
            checkpoints.restore(found, self.method, self.optimizer)
            self.step = found.step
            self.meter = Meter(found.meter)
        elif self.method.calibration_clips:
            self.progress.say(f"calibrating on {self.method.calibration_clips} clips")
            num_batches = math.ceil(self.method.calibration_clips / self.order.batch_size)
            # Under autocast, as in training: the statistics are those of the latents that will come.
            with self._loader(0, num_batches, _unchanged) as batches, self.machine.autocast():
                self.method.calibrate(batch.to(self.machine.device) for batch in batches)

    def metrics_file(self) -> MetricsFile:
        """The metrics, cut back to the step that the run goes on from."""
        return MetricsFile(self.directory.metrics, done=self.step)

    def batches(self) -> BatchLoader:
        """The batches of the steps that are left."""
        accumulate = self.recipe.train.accumulate
        return self._loader(self.step * accumulate, self.total_steps * accumulate, self._prepare)

    def run_steps(self, batches: Iterator[ClipBatch], metrics: MetricsFile, requests: StopRequests) -> None:
        """Trains until the run is complete or a signal asks to stop."""
        settings = self.recipe.train
        clock = _Clock()
        while self.step < self.total_steps and requests.received is None:
            # 1. The rates of this step, and its own random numbers.
            lr, weight_decay = self.lr(self.step), self.weight_decay(self.step)
            set_rates(self.optimizer, lr=lr, weight_decay=weight_decay)
            torch.manual_seed(seed_for(self.recipe.run.seed, "step", self.step))

            # 2. Loss and gradient of every batch of the step.
            for _ in range(settings.accumulate):
                batch = clock.wait_for(batches)
                self._forward_and_backward(batch.to(self.machine.device))

            # 3. Clip the gradient, and move.
            self.meter.add({"grad_norm": self._clip_gradient()})
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1

            # 4. Every so often: read the metrics, save a checkpoint.
            if self.step % settings.log_every == 0 or self.step == self.total_steps:
                self._log(metrics, lr, weight_decay, clock)
            if self.step % settings.checkpoint_every == 0:
                self.save_checkpoint()

    def finish(self, requests: StopRequests) -> Outcome:
        """Leaves a resumable checkpoint, or the finished student."""
        if self.step < self.total_steps or self.step % self.recipe.train.checkpoint_every:
            self.save_checkpoint()
        complete = self.step == self.total_steps
        if complete:
            save_student(self.method, self.directory.student, {"steps": str(self.step)})
        return Outcome(
            step=self.step,
            total_steps=self.total_steps,
            num_bad_clips=len(self.quarantine.reasons),
            stopped_by=None if complete else requests.received,
        )

    def save_checkpoint(self) -> None:
        """Writes a checkpoint, then removes the ones that are too old."""
        folder = self.directory.checkpoints
        checkpoints.save(folder, self.step, self.method, self.optimizer, self.meter.read())
        checkpoints.remove_old(folder, self.recipe.train.keep_checkpoints)

    def _loader(self, start: int, end: int, prepare: Prepare) -> BatchLoader:
        loader = self.recipe.loader
        return BatchLoader(
            self.reader,
            self.order,
            start=start,
            end=end,
            workers=loader.workers,
            prefetch=loader.prefetch,
            prepare=prepare,
            pin_memory=self.machine.device.type == "cuda",
        )

    def _prepare(self, batch: ClipBatch, place: Place) -> ClipBatch:
        # The step is the optimizer's, so that all batches of one step share what a schedule says.
        return self.method.prepare(batch, epoch=place.epoch, step=place.number // self.recipe.train.accumulate)

    def _forward_and_backward(self, batch: ClipBatch) -> None:
        with self.machine.autocast():
            output = self.step_module(batch)
        (output.loss / self.recipe.train.accumulate).backward()
        self.meter.add({"loss": output.loss.detach(), **output.metrics})

    def _clip_gradient(self) -> Tensor:
        limit = self.recipe.optimizer.grad_clip
        if limit is None:
            return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return nn.utils.clip_grad_norm_(self.parameters, limit)

    def _log(self, metrics: MetricsFile, lr: float, weight_decay: float, clock: _Clock) -> None:
        means = self.meter.means()
        self.meter.clear()
        seconds, waiting_share, num_batches = clock.lap()
        line: dict[str, float | int] = {
            "step": self.step,
            "epoch": (self.step * self.recipe.train.accumulate - 1) // self.order.batches_per_epoch,
            **means,
            "lr": lr,
            "weight_decay": weight_decay,
            "clips_per_second": num_batches * self.recipe.train.batch_size / seconds,
            "data_wait_share": waiting_share,
            "num_bad_clips": len(self.quarantine.reasons),
        }
        metrics.write(line)
        self.progress.update(self.step, self.total_steps, line)
        if not math.isfinite(means["loss"]):
            raise RunError(
                f"the loss is {means['loss']} at step {self.step}; lower the learning rate, set optimizer.grad_clip, "
                f'or train with precision = "fp32". The checkpoints in {self.directory.checkpoints} are older'
            )


def save_student(method: Method, path: Path, metadata: dict[str, str]) -> None:
    """Writes the finished student's weights, whole or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in method.student.state_dict().items()}
    save_file(weights, beside, metadata=metadata)
    beside.replace(path)


class _Clock:
    """Wall-clock time between two logged lines, with the share spent waiting for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._num_batches = 0

    def wait_for(self, batches: Iterator[ClipBatch]) -> ClipBatch:
        """The next batch."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        self._num_batches += 1
        return batch

    def lap(self) -> tuple[float, float, int]:
        """Seconds since the last lap, the share spent waiting, and the batches that came."""
        now = time.perf_counter()
        seconds = now - self._start
        lap = (seconds, self._waited / seconds, self._num_batches)
        self._start, self._waited, self._num_batches = now, 0.0, 0
        return lap


def _unchanged(batch: ClipBatch, place: Place) -> ClipBatch:
    return batch


def _no_weight_decay(step: int) -> float:
    return 0.0
