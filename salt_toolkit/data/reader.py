"""Samples by index, read into a batch's memory; a deterministic replacement where one is bad."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from salt_toolkit.contracts import ClipBatch, Dataset, Sample, TableDataset
from salt_toolkit.data.memory import BatchMemory, Slot
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.samples import batch_of
from salt_toolkit.errors import BadClip, DataError, SaltError, explain
from salt_toolkit.seeding import generator_for

NUM_NAMED = 2
"""Bad samples that the error names where no sample can be read."""


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


class Stopwatch:
    """The mean time of something that several threads do."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._count = 0
        self._lock = threading.Lock()

    def add(self, seconds: float, count: int = 1) -> None:
        """Counts one, or several that were done together."""
        with self._lock:
            self._seconds += seconds
            self._count += count

    def lap(self) -> float | None:
        """Mean seconds of one since the last lap; None where there was none."""
        with self._lock:
            mean = self._seconds / self._count if self._count else None
            self._seconds, self._count = 0.0, 0
        return mean


class ClipReader:
    """Reads samples by index, and a deterministic replacement where a sample is bad.

    Args:
        dataset: Where samples come from.
        quarantine: Where bad samples are recorded.
        views: Of each sample; epoch e reads view e modulo this number.
        seed: The run's seed.
        wanted: Names of the tensors to keep; None keeps all.
    """

    def __init__(
        self,
        dataset: Dataset,
        quarantine: Quarantine,
        *,
        views: int,
        seed: int,
        wanted: frozenset[str] | None = None,
    ) -> None:
        self.dataset = dataset
        self.direct = dataset if isinstance(dataset, DirectDataset) else None
        self.table = dataset if isinstance(dataset, TableDataset) else None
        self.quarantine = quarantine
        self.views = views
        self.seed = seed
        self.wanted = wanted
        self.reading = Stopwatch()

    def read_rows(self, indices: Sequence[int], epoch: int, memory: BatchMemory, start: int) -> ClipBatch:
        """Reads an epoch's view of some samples into consecutive rows of a batch's memory.

        Args:
            indices: Of the samples.
            epoch: Decides the view.
            memory: Of the batch.
            start: The first row.

        Raises:
            DataError: Too many samples are bad, or all of them; or they differ in shape.
        """
        if self.table is not None:
            batch = self._read_together(self.table, indices, epoch, memory, start)
            if batch is not None:
                return batch
        samples = [self.read_into(index, epoch, Slot(memory, start + row)) for row, index in enumerate(indices)]
        rows = slice(start, start + len(samples))
        return batch_of(samples, {name: memory.tensors[name][rows] for name in samples[0].tensors})

    def _read_together(
        self, table: TableDataset, indices: Sequence[int], epoch: int, memory: BatchMemory, start: int
    ) -> ClipBatch | None:
        """All samples in one call; None where one of them is bad."""
        if any(table.clip_ids[index] in self.quarantine for index in indices):
            return None
        begin = time.perf_counter()
        try:
            batch = table.read_many(indices, epoch % self.views)
        except BadClip:
            return None
        except SaltError:
            raise
        except BaseException as error:
            raise unreadable(table.clip_ids[indices[0]], error) from error
        rows = memory.block(start, self._kept(batch.tensors))
        for name, tensor in rows.items():
            tensor.copy_(batch.tensors[name])
        self.quarantine.count_read(len(indices))
        self.reading.add(time.perf_counter() - begin, len(indices))
        return replace(batch, tensors=rows)

    def _kept(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if self.wanted is None or name in self.wanted}

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
        rows = slot.rows(self._kept(sample.tensors))
        for name, tensor in rows.items():
            tensor.copy_(sample.tensors[name])
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
        told = "; ".join(f"{clip_id}: {reasons[clip_id]}" for clip_id in bad[:NUM_NAMED])
        more = f"; and {len(bad) - NUM_NAMED} more" if len(bad) > NUM_NAMED else ""
        where = f", listed in {self.quarantine.file}" if more and self.quarantine.file else ""
        return f" ({told}{more}{where})"
