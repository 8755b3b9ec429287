"""Batch memory, allocated once and reused.

Allocating a batch costs more than filling it: the system zeroes every page first, and page-locked memory is even
slower to allocate. So a few buffers are recycled.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from salt_toolkit.contracts import Dataset, Sample
from salt_toolkit.errors import DataError


class BatchMemory:
    """The tensors of one batch, allocated when the first sample shows their shapes.

    Args:
        size: Samples in a batch.
        pin: Whether the memory is page-locked, for fast copies to a GPU.
    """

    def __init__(self, size: int, *, pin: bool) -> None:
        self.size = size
        self.pin = pin
        self.tensors: dict[str, Tensor] = {}
        self._lock = threading.Lock()
        self._copied: torch.cuda.Event | None = None

    def rows(self, place: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One sample's part of every tensor.

        Args:
            place: The sample's place in the batch.
            like: Tensors of the shapes and types wanted.

        Raises:
            DataError: They differ from earlier samples'.
        """
        for name, tensor in like.items():
            self._make(name, tuple(tensor.shape), tensor.dtype)
        return {name: self.tensors[name][place] for name in like}

    def block(self, start: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Several samples' part of every tensor; see `rows`.

        Args:
            start: Place of the first sample in the batch.
            like: Tensors of the shapes and types wanted, stacked.
        """
        for name, tensor in like.items():
            self._make(name, tuple(tensor.shape[1:]), tensor.dtype)
        return {name: self.tensors[name][start : start + len(tensor)] for name, tensor in like.items()}

    def _make(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Takes the memory of one tensor, unless it is there."""
        with self._lock:
            found = self.tensors.get(name)
            if found is None:
                self.tensors[name] = torch.empty((self.size, *shape), dtype=dtype, pin_memory=self.pin)
            elif (tuple(found.shape[1:]), found.dtype) != (shape, dtype):
                raise DataError(
                    f"a sample's {name!r} is {dtype} of shape {shape}, and other samples' is {found.dtype} of "
                    f"{tuple(found.shape[1:])}; the samples of a data set must be alike"
                )

    def note_use(self) -> None:
        """Marks that copies to the GPU may still be reading the memory; `wait` waits for them."""
        if self.pin:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def wait(self) -> None:
        """Waits until no copy reads the memory any more."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None


@dataclass(frozen=True)
class Slot:
    """One sample's place in a batch's memory."""

    memory: BatchMemory
    place: int

    def rows(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sample's part of the batch's tensors; see `BatchMemory.rows`."""
        return self.memory.rows(self.place, like)


class MemoryRing:
    """Memory for a few batches at once.

    Args:
        count: How many.
        size: Samples in a batch.
        pin: Whether the memory is page-locked.
    """

    def __init__(self, count: int, size: int, *, pin: bool) -> None:
        self._free: queue.SimpleQueue[BatchMemory] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(BatchMemory(size, pin=pin))

    def take(self, stopped: threading.Event) -> BatchMemory | None:
        """A free buffer, waiting for one if necessary; None if ``stopped`` is set meanwhile."""
        while not stopped.is_set():
            try:
                memory = self._free.get(timeout=0.1)
            except queue.Empty:
                continue
            memory.wait()
            return memory
        return None

    def give_back(self, memory: BatchMemory) -> None:
        """Returns a batch's memory for reuse."""
        memory.note_use()
        self._free.put(memory)


class RamCache:
    """A dataset that keeps samples in memory, up to a budget.

    Args:
        dataset: Where samples come from.
        budget: Maximum bytes to keep; samples beyond it are read every time.
    """

    def __init__(self, dataset: Dataset, budget: int) -> None:
        self.dataset = dataset
        self.clip_ids = dataset.clip_ids
        self.class_names = dataset.class_names
        self._room = budget
        self._kept: dict[tuple[int, int], Sample] = {}
        self._lock = threading.Lock()

    def read(self, index: int, view: int) -> Sample:
        """Reads a view of a clip, from memory where it is there."""
        kept = self._kept.get((index, view))
        if kept is not None:
            return kept
        sample = self.dataset.read(index, view)
        size = sum(tensor.nbytes for tensor in sample.tensors.values())
        with self._lock:
            if (index, view) not in self._kept and size <= self._room:
                self._kept[index, view] = sample
                self._room -= size
        return sample
