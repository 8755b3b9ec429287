"""The thread that brings encoded batches to the disk, while the next ones are read and computed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.errors import BadClip
from salt_toolkit.store.row import BadRow, Row

WAITING = 2
"""Encoded batches that wait for the disk at most."""


@runtime_checkable
class ShardSink(Protocol):
    """What takes rows: a shard that is being filled."""

    def add(self, row: Row, arrays: list[memoryview]) -> None:
        """Writes one clip."""
        ...

    def add_bad(self, bad: BadRow) -> None:
        """Records one clip as unusable."""
        ...


@dataclass
class Counts:
    """How far the work is.

    Attributes:
        done: Clips written by this call.
        bad: Clips recorded as unusable by this call.
        num_bytes: Bytes written by this call.
        busy: Shards that another writer had claimed.
        begin: When the work began, by time.perf_counter.
        waited_for_clips: Seconds in which the teachers waited for clips.
        waited_for_disk: Seconds in which the teachers waited for the disk.
    """

    done: int = 0
    bad: int = 0
    num_bytes: int = 0
    busy: int = 0
    begin: float = field(default_factory=time.perf_counter)
    waited_for_clips: float = 0.0
    waited_for_disk: float = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the work began."""
        return time.perf_counter() - self.begin


Targets: TypeAlias = Mapping[str, ShardSink]
"""Where the rows of a clip go, by layer."""


@dataclass
class EncodedBatch:
    """Rows with their streams on the host, or on their way there."""

    targets: Sequence[Targets]
    rows: Sequence[Row]
    tensors: Mapping[str, Sequence[Tensor]]
    finite: Tensor
    event: torch.cuda.Event | None = None

    @classmethod
    def to_host(
        cls, targets: Sequence[Targets], rows: Sequence[Row], tensors: Mapping[str, Sequence[Tensor]], finite: Tensor
    ) -> EncodedBatch:
        """Starts the copy from the device; the writing thread waits for it, and nobody else.

        Args:
            targets: Of each row.
            rows: What is known of the clips.
            tensors: Each layer's streams, one row for each clip.
            finite: Whether each clip's numbers are.
        """
        if finite.device.type != "cuda":
            host = {layer: [tensor.cpu().contiguous() for tensor in streams] for layer, streams in tensors.items()}
            return cls(targets, rows, host, finite.cpu())
        host = {layer: [_pinned_copy(tensor) for tensor in streams] for layer, streams in tensors.items()}
        on_host = _pinned_copy(finite)
        event = torch.cuda.Event()
        event.record()
        return cls(targets, rows, host, on_host, event)

    def write(self, counts: Counts, quarantine: Quarantine) -> None:
        """Writes every row; one whose latents are not finite is recorded as bad."""
        if self.event is not None:
            self.event.synchronize()
        raw = {layer: [_bytes_of(tensor) for tensor in streams] for layer, streams in self.tensors.items()}
        for place, (targets, row) in enumerate(zip(self.targets, self.rows, strict=True)):
            if not bool(self.finite[place]):
                error = BadClip(row.clip_id, "a teacher's latents of it are not finite")
                BadEntry(targets, BadRow(row.clip_id, row.view, row.index, error.reason), error).write(
                    counts, quarantine
                )
                continue
            for layer, shard in targets.items():
                arrays = [memoryview(numbers[place]) for numbers in raw[layer]]
                shard.add(row, arrays)
                counts.num_bytes += sum(array.nbytes for array in arrays)
            quarantine.count_read()
            counts.done += 1


@dataclass
class BadEntry:
    """A clip that cannot be used.

    Attributes:
        targets: The layers that record it.
        bad: What they record.
        error: What was found; None for a clip that another layer knows as bad already.
    """

    targets: Targets
    bad: BadRow
    error: BadClip | None = None

    def write(self, counts: Counts, quarantine: Quarantine) -> None:
        """Records the clip in every layer."""
        counts.bad += 1
        if self.error is not None:
            quarantine.count_read()
            quarantine.record(self.bad.clip_id, self.error)
        for shard in self.targets.values():
            shard.add_bad(self.bad)


class WritingThread:
    """Writes batches in the order in which they come; use it in a ``with`` block.

    Leaving the block waits until everything is written. An error of the disk is raised by the next
    `put`, or at the block's end.
    """

    def __init__(self, counts: Counts, quarantine: Quarantine) -> None:
        self.counts = counts
        self.quarantine = quarantine
        self._queue: queue.Queue[EncodedBatch | BadEntry | None] = queue.Queue(maxsize=WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name="salt-write", daemon=True)

    def __enter__(self) -> WritingThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, batch: EncodedBatch) -> None:
        """Hands over a batch; waits while too many are waiting.

        Raises:
            CacheError: An earlier batch could not be written.
            DataError: Too many clips are bad.
        """
        begin = time.perf_counter()
        self._put(batch)
        self.counts.waited_for_disk += time.perf_counter() - begin

    def put_bad(self, entry: BadEntry) -> None:
        """Hands over a clip that cannot be used; see `put`."""
        self._put(entry)

    def _put(self, item: EncodedBatch | BadEntry) -> None:
        self._queue.put(item)
        if self._error is not None:
            raise self._error

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            # After an error the queue is emptied without writing, so that nobody waits for room in it.
            if self._error is None:
                try:
                    item.write(self.counts, self.quarantine)
                except BaseException as error:
                    self._error = error


def _pinned_copy(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _bytes_of(tensor: Tensor) -> Any:
    """Each row as bytes; of a single number, too."""
    return tensor.reshape(len(tensor), -1).view(torch.uint8).numpy()
