"""Batches, made ready by threads before the model asks for them.

Decoders and memory copies release the interpreter lock, so threads read as fast as worker processes
do, without their costs: no shared memory to overflow, no start-up, nothing left behind by a kill.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, runtime_checkable

from torch import Tensor

from salt_toolkit.contracts import ClipBatch, Dataset, Sample
from salt_toolkit.data.memory import BatchMemory, MemoryRing, Slot
from salt_toolkit.data.order import ClipOrder, Place
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.samples import batch_of
from salt_toolkit.errors import BadClip, DataError, SaltError, explain
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.seeding import generator_for

Prepare = Callable[[ClipBatch, Place], ClipBatch]

NUM_TOLD = 2
"""Bad clips that are told of by name where all are bad."""


def unreadable(clip_id: str, error: BaseException) -> DataError:
    """What to raise for a fault that the data set's code did not foresee, from the thread that met it."""
    fault = explain(error)
    return DataError(
        f"reading the clip {clip_id!r} failed in {threading.current_thread().name}, and the data set does not call the "
        f"clip bad, so the work stops: {fault.what}",
        fault.fix,
    )


@runtime_checkable
class DirectDataset(Dataset, Protocol):
    """A dataset that reads straight into a batch's memory."""

    def read_into(self, index: int, view: int, rows: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> Sample:
        """Like ``read``; the sample's tensors are those that ``rows`` gives for tensors of their shapes."""
        ...


class RamCache:
    """A dataset that keeps what it has read in memory, as far as a budget reaches.

    Args:
        dataset: Where samples come from.
        budget: Bytes to keep at most; what comes after is read anew each time.
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


class Stopwatch:
    """The mean time of something that several threads do."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._count = 0
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Counts one."""
        with self._lock:
            self._seconds += seconds
            self._count += 1

    def lap(self) -> float | None:
        """Mean seconds of one since the last lap; None where there was none."""
        with self._lock:
            mean = self._seconds / self._count if self._count else None
            self._seconds, self._count = 0.0, 0
        return mean


class ClipReader:
    """Reads clips by index, and a deterministic replacement where a clip is bad.

    Args:
        dataset: Where clips come from.
        quarantine: Where bad clips are recorded.
        clip: Its ``views`` says which view an epoch reads.
        seed: The run's seed.
    """

    def __init__(self, dataset: Dataset, quarantine: Quarantine, clip: ClipSpec, seed: int) -> None:
        self.dataset = dataset
        self.direct = dataset if isinstance(dataset, DirectDataset) else None
        self.quarantine = quarantine
        self.views = clip.views
        self.seed = seed
        self.reading = Stopwatch()

    def read_into(self, index: int, epoch: int, slot: Slot) -> Sample:
        """Reads a clip's view of an epoch into its place in a batch's memory.

        Raises:
            DataError: Too many clips are bad, or all of them; or samples differ in shape.
        """
        sample = self._try(index, epoch, slot)
        return sample if sample is not None else self._replacement(index, epoch, slot)

    def _try(self, index: int, epoch: int, slot: Slot) -> Sample | None:
        clip_id = self.dataset.clip_ids[index]
        if clip_id in self.quarantine:
            return None
        self.quarantine.count_read()
        begin = time.perf_counter()
        try:
            return self._read(index, epoch % self.views, slot)
        except BadClip as bad:
            self.quarantine.record(clip_id, bad)
            return None
        except SaltError:
            raise
        except BaseException as error:
            raise unreadable(clip_id, error) from error
        finally:
            self.reading.add(time.perf_counter() - begin)

    def _read(self, index: int, view: int, slot: Slot) -> Sample:
        if self.direct is not None:
            return self.direct.read_into(index, view, slot.rows)
        sample = self.dataset.read(index, view)
        rows = slot.rows(sample.tensors)
        for name, tensor in sample.tensors.items():
            rows[name].copy_(tensor)
        return replace(sample, tensors=rows)

    def _replacement(self, index: int, epoch: int, slot: Slot) -> Sample:
        """The first good clip of an order that depends on the bad clip alone, not on who asks when."""
        generator = generator_for(self.seed, "replacement", epoch, self.dataset.clip_ids[index])
        for other in generator.permutation(len(self.dataset.clip_ids)):
            sample = self._try(int(other), epoch, slot)
            if sample is not None:
                return sample
        raise DataError(f"none of the dataset's {len(self.dataset.clip_ids)} clips can be read{self._first_reasons()}")

    def _first_reasons(self) -> str:
        """Why the first bad clips of the data set cannot be read, and where the others are listed."""
        reasons = self.quarantine.reasons
        bad = [clip_id for clip_id in self.dataset.clip_ids if clip_id in reasons]
        told = "; ".join(f"{clip_id}: {reasons[clip_id]}" for clip_id in bad[:NUM_TOLD])
        more = f"; and {len(bad) - NUM_TOLD} more" if len(bad) > NUM_TOLD else ""
        where = f", listed in {self.quarantine.file}" if more and self.quarantine.file else ""
        return f" ({told}{more}{where})"


@dataclass(frozen=True)
class _Reading:
    """A batch whose samples are being read into its memory."""

    place: Place
    memory: BatchMemory
    parts: list[Future[list[Sample]]]


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

    def _read(self, place: Place, memory: BatchMemory) -> list[Future[list[Sample]]]:
        # Some clips at a time: of the time of a small clip, handing it to a thread would be a good part.
        rows = range(len(place.indices))
        parts = [rows[start : start + self._part_size] for start in rows[:: self._part_size]]
        return [self._pool.submit(self._read_part, place, memory, part) for part in parts]

    def _read_part(self, place: Place, memory: BatchMemory, rows: range) -> list[Sample]:
        return [self._reader.read_into(place.indices[row], place.epoch, Slot(memory, row)) for row in rows]

    def _hand_over(self, reading: _Reading) -> bool:
        samples = [sample for part in reading.parts for sample in part.result()]
        names = set(samples[0].tensors)
        if any(set(sample.tensors) != names for sample in samples):
            raise DataError(f"the samples {[sample.clip_id for sample in samples]} have not the same tensors")
        batch = batch_of(samples, {name: reading.memory.tensors[name] for name in samples[0].tensors})
        prepared = self._prepare(batch, reading.place)
        if self._pin_memory:
            added = {name: tensor for name, tensor in prepared.tensors.items() if not tensor.is_pinned()}
            prepared = prepared.with_tensors(**{name: tensor.pin_memory() for name, tensor in added.items()})
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
