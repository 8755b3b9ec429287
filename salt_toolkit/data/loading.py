"""Batches, made ready by threads before the model asks for them.

Decoders and memory copies release the interpreter lock, so threads read as fast as worker processes
do, without their costs: no shared memory to overflow, no start-up, nothing left behind by a kill.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType

from salt_toolkit.contracts import ClipBatch
from salt_toolkit.data.memory import BatchMemory, MemoryRing
from salt_toolkit.data.order import ClipOrder, Place
from salt_toolkit.data.reader import ClipReader
from salt_toolkit.data.samples import joined

Prepare = Callable[[ClipBatch, Place], ClipBatch]


@dataclass(frozen=True)
class _Reading:
    """A batch whose samples are being read into its memory."""

    place: Place
    memory: BatchMemory
    parts: list[Future[ClipBatch]]


@dataclass(frozen=True)
class _Ready:
    """A batch that is whole, and the memory that it lies in."""

    batch: ClipBatch
    memory: BatchMemory


@dataclass(frozen=True)
class _Failure:
    """An exception on its way from the assembling thread to the consumer."""

    error: BaseException


class BatchLoader:
    """An iterator over batches ``start`` to ``end`` of a run, read ahead; use it in a ``with`` block.

    A batch's memory is used again: the batch is valid until the next one is asked for.

    Args:
        reader: Reads single clips.
        order: Says which clips make up which batch.
        start: Number of the first batch.
        end: Number after the last batch.
        workers: Threads that read clips.
        prefetch: Batches made ready ahead.
        prepare: Called on every batch, in the background.
        pin_memory: Whether batches go to page-locked memory, for fast copies to a GPU.
    """

    def __init__(
        self,
        reader: ClipReader,
        order: ClipOrder,
        *,
        start: int,
        end: int,
        workers: int,
        prefetch: int,
        prepare: Prepare,
        pin_memory: bool = False,
    ) -> None:
        self._reader = reader
        self._places = order.batches(start, end)
        self._prefetch = prefetch
        self._prepare = prepare
        self._pin_memory = pin_memory
        # Those being read, those that wait, the one being handed over, and the consumer's.
        self._ring = MemoryRing(2 * prefetch + 2, order.part_size, pin=pin_memory)
        self._ready: queue.Queue[_Ready | _Failure | None] = queue.Queue(maxsize=prefetch)
        self._stopped = threading.Event()
        self._part_size = max(1, order.part_size // (2 * workers))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="salt-read")
        self._assembler = threading.Thread(target=self._assemble_all, name="salt-assemble", daemon=True)

    def __enter__(self) -> BatchLoader:
        self._assembler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._assembler.join()

    def __iter__(self) -> Iterator[ClipBatch]:
        while (ready := self._ready.get()) is not None:
            if isinstance(ready, _Failure):
                raise ready.error
            yield ready.batch
            self._ring.give_back(ready.memory)

    def _assemble_all(self) -> None:
        try:
            pending: deque[_Reading] = deque()
            for place in self._places:
                memory = self._ring.take(self._stopped)
                if memory is None:
                    return
                pending.append(_Reading(place, memory, self._read(place, memory)))
                # One batch is being read beyond those that wait, so that the threads never idle.
                if len(pending) > self._prefetch and not self._hand_over(pending.popleft()):
                    return
            while pending:
                if not self._hand_over(pending.popleft()):
                    return
            self._put(None)
        except BaseException as error:
            self._put(_Failure(error))

    def _read(self, place: Place, memory: BatchMemory) -> list[Future[ClipBatch]]:
        # Some samples at a time: handing a small one to a thread would take a good part of the time to read it.
        size = len(place.indices) if self._reader.table is not None else self._part_size
        starts = range(0, len(place.indices), size)
        parts = [(place.indices[start : start + size], start) for start in starts]
        read = self._reader.read_rows
        return [self._pool.submit(read, indices, place.epoch, memory, start) for indices, start in parts]

    def _hand_over(self, reading: _Reading) -> bool:
        batch = joined([part.result() for part in reading.parts], reading.memory.tensors)
        prepared = self._prepare(batch, reading.place)
        if self._pin_memory:
            added = {name: tensor for name, tensor in prepared.tensors.items() if not tensor.is_pinned()}
            prepared = prepared.with_tensors(**{name: tensor.pin_memory() for name, tensor in added.items()})
            if prepared.labels is not None:
                prepared = replace(prepared, labels=prepared.labels.pin_memory())
        return self._put(_Ready(prepared, reading.memory))

    def _put(self, item: _Ready | _Failure | None) -> bool:
        """Puts an item into the queue; False when the consumer has gone."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
