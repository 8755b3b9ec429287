"""The objects of a run, made to be measured: nothing of it is written anywhere."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch

from salt_toolkit.contracts import ClipBatch, Method
from salt_toolkit.data.loading import BatchLoader
from salt_toolkit.data.order import ClipOrder, Place
from salt_toolkit.errors import DataError, RunError
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.machine import Machine
from salt_toolkit.train.batches import TrainingData, build_method_for
from salt_toolkit.train.processes import Processes
from salt_toolkit.train.step import Stepper

CALIBRATION_CLIPS = 8
"""Clips to calibrate on: a step takes as long whatever the statistics are."""


class Trial:
    """A recipe's data and method on this machine.

    Clips are read from where they lie: `loader.ram_cache_mb` is left out, for what it keeps is read only once.
    Every reading goes on where the one before ended, so that clips are new as long as the data set has any.

    Args:
        recipe: A valid recipe.
        machine: Where.
        log: Called with a sentence about the cache.

    Raises:
        SaltError: The data cannot be used, or a launcher has started several processes.
    """

    def __init__(self, recipe: Recipe, machine: Machine, log: Callable[[str], None] = lambda message: None) -> None:
        self.processes = Processes(recipe)
        if self.processes.count > 1:
            raise RunError("one process is measured, and a launcher has started several; call salt without it")
        self.recipe = replace(recipe, loader=recipe.loader.model_copy(update={"ram_cache_mb": 0}))
        self.machine = machine
        self.data = TrainingData(self.recipe, None, pin_memory=machine.device.type == "cuda", log=log)
        self.num_read = 0
        self._prepares = False

    @property
    def num_clips(self) -> int:
        """Clips in the data set."""
        return self.data.num_clips

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.train.num_steps(self.num_clips)

    @cached_property
    def method(self) -> Method:
        """The method in training mode, on the device; calibrated on a few clips if it wants that.

        Raises:
            SaltError: It cannot be built, or the device has no room for it.
        """
        try:
            return self._build()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(
                "teacher, student and predictor do not fit into the memory of the device, before there is any batch; "
                "take smaller ones, or compute the teacher's latents with `salt cache` first"
            ) from error

    def _build(self) -> Method:
        method = build_method_for(self.data, self.recipe, self.machine.device)
        if method.calibration_clips:
            batch = self.one_batch(min(self.num_clips, CALIBRATION_CLIPS), self.recipe.loader.workers)
            with self.machine.autocast():
                method.calibrate([batch.to(self.machine.device)])
        self._prepares = True
        return method

    def stepper(self) -> Stepper:
        """A fresh one, with an optimizer of its own, that is compiled separately."""
        if self.recipe.train.compile != "none":
            torch.compiler.reset()
        return Stepper(self.recipe, self.method, self.machine, self.processes)

    def batches(self, batch_size: int, workers: int, count: int) -> BatchLoader:
        """The next batches; with what the method prepares once the method is there.

        Args:
            batch_size: Clips in a batch.
            workers: Threads that read.
            count: Batches at most.

        Raises:
            DataError: The data set is smaller than a batch.
        """
        order = ClipOrder(self.num_clips, batch_size, self.recipe.run.seed)
        epoch, clips = divmod(self.num_read, self.num_clips)
        start = epoch * order.batches_per_epoch + math.ceil(clips / batch_size)
        return self.data.load(order, start, start + count, self._prepare, workers=workers)

    def note_read(self, clips: int) -> None:
        """Remembers how far reading has come."""
        self.num_read += clips

    def one_batch(self, batch_size: int, workers: int) -> ClipBatch:
        """The next batch alone, in memory of its own."""
        with self.batches(batch_size, workers, 1) as batches:
            batch = next(iter(batches), None)
        self.note_read(batch_size)
        if batch is None:
            raise DataError("no batch could be read")
        return batch

    def clear(self) -> None:
        """Gives the memory of earlier measurements back."""
        if "method" in self.__dict__:
            self.method.zero_grad(set_to_none=True)
        gc.collect()
        if self.machine.device.type == "cuda":
            torch.cuda.empty_cache()

    def _prepare(self, batch: ClipBatch, place: Place) -> ClipBatch:
        if not self._prepares:
            return batch
        step = min(place.number // self.recipe.train.accumulate, self.total_steps - 1)
        return self.method.prepare(batch, epoch=place.epoch, step=step)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory, or the host's, was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
