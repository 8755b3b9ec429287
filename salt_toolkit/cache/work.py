"""`salt cache`: every clip once through the teachers, and onto the disk; reading, teachers and writing overlap.

Work is cut into units, each claimed by one writer, so any number of processes may fill one cache.
What was committed stays; an interrupted shard is continued where its rows end. A teacher runs only
on clips that its layer lacks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from salt_toolkit.cache.encoder import LayerEncoder
from salt_toolkit.cache.rows import label_of, recompute
from salt_toolkit.cache.shards import OpenShard, OpenUnit, Unit, missing_units
from salt_toolkit.cache.writing import BadEntry, Counts, EncodedBatch, WritingThread
from salt_toolkit.contracts import Dataset, Sample
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.reader import unreadable
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import BadClip, SaltError
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.row import CHANGED, BadRow, Row
from salt_toolkit.store.shard_writer import ShardBusy
from salt_toolkit.system.digests import Digests


@dataclass(frozen=True)
class _Job:
    """One view of one clip on its way, and where it goes."""

    place: int
    view: int
    targets: dict[str, OpenShard]


@dataclass(frozen=True)
class _Read:
    sample: Sample
    source: tuple[int, str] | None


@dataclass
class CacheWork:
    """One process's share of a cache.

    Attributes:
        cache: As it was when the work began, with all layers that are to be filled.
        layers: Which ones those are.
        dataset: Where clips come from.
        encoder: The teachers, and how their latents are stored.
        quarantine: Where bad clips are counted.
        batch_size: Clips that the teachers see at once.
        workers: Threads that read clips.
        part: Which share; see `missing_units`.
        end: Clips of the data set to cache, from its beginning.
        views: Views of each clip.
        stop: Asked between clips whether to end early.
        log: Called with the counts after every batch.
        counts: How far the work is.
    """

    cache: Cache
    layers: tuple[str, ...]
    dataset: Dataset
    encoder: LayerEncoder
    quarantine: Quarantine
    batch_size: int
    workers: int
    part: tuple[int, int]
    end: int
    views: int
    stop: Callable[[], bool] = lambda: False
    log: Callable[[Counts], None] = lambda counts: None
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        ids = self.dataset.clip_ids
        self._index_of = {self.cache.base.place_of[ids[index]]: index for index in range(self.end)}
        self._digests = Digests()

    def missing(self) -> list[Unit]:
        """What this share still lacks."""
        layers = {name: self.cache.layers[name] for name in self.layers}
        return missing_units(layers, self._index_of.keys(), self.views, self.part)

    def run(self) -> Counts:
        """Does the work, until it is done or `stop` says so; returns what was done.

        Raises:
            CacheError: The disk is full or fails; what was committed stays.
            DataError: Too many clips are bad.
        """
        self.counts = Counts()
        units: list[OpenUnit] = []
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="salt-read")
        try:
            with WritingThread(self.counts, self.quarantine) as writing:
                try:
                    self._fill(pool, writing, units)
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)
        finally:
            with ExitStack() as closing:  # closes all, even if one cannot be closed
                for unit in units:
                    closing.callback(unit.close)
        return self.counts

    def _fill(self, pool: ThreadPoolExecutor, writing: WritingThread, units: list[OpenUnit]) -> None:
        pending: deque[tuple[_Job, Future[_Read]]] = deque()
        batch: list[tuple[_Job, _Read]] = []
        for job in self._jobs(units):
            known = self.cache.bad.get((self.cache.base.ids[job.place], job.view))
            if known is not None:  # in another layer: no need to read it again
                writing.put_bad(BadEntry(job.targets, known))
                continue
            pending.append((job, pool.submit(self._read, job)))
            if len(pending) >= self.batch_size + 2 * self.workers:
                self._take(pending, batch, writing)
        while pending and not self.stop():
            self._take(pending, batch, writing)
        self._send(batch, writing)

    def _jobs(self, units: list[OpenUnit]) -> Iterator[_Job]:
        """Every clip that is missing, unit by unit; a unit is claimed when its turn comes, or at the end."""
        turns = deque(self.missing())
        busy: set[tuple[int, int]] = set()
        while turns and not self.stop():
            turn = turns.popleft()
            try:
                unit = OpenUnit(turn, self.cache.base)
            except ShardBusy:
                if (turn.view, turn.block) in busy:
                    self.counts.busy += 1
                else:
                    busy.add((turn.view, turn.block))
                    turns.append(turn)
                continue
            units.append(unit)
            for place in sorted(unit.targets):
                if self.stop():
                    return
                yield _Job(place, unit.view, unit.targets[place])

    def _read(self, job: _Job) -> _Read:
        sample = self.dataset.read(self._index_of[job.place], job.view)
        if sample.source is None:
            return _Read(sample, None)
        source = self._digests.of(str(sample.source))
        before = self.cache.source(sample.clip_id, job.view)
        if before is not None and before != source:
            raise BadClip(str(sample.source), CHANGED, recompute(self.cache.directory))
        return _Read(sample, source)

    def _take(
        self,
        pending: deque[tuple[_Job, Future[_Read]]],
        batch: list[tuple[_Job, _Read]],
        writing: WritingThread,
    ) -> None:
        job, future = pending.popleft()
        clip_id = self.cache.base.ids[job.place]
        begin = time.perf_counter()
        try:
            read = future.result()
        except BadClip as bad:
            writing.put_bad(BadEntry(job.targets, BadRow(clip_id, job.view, job.place, bad.reason), bad))
            return
        except SaltError:
            raise
        except BaseException as error:
            raise unreadable(clip_id, error) from error
        finally:
            self.counts.waited_for_clips += time.perf_counter() - begin
        if batch and batch[0][0].targets.keys() != job.targets.keys():
            self._send(batch, writing)  # teachers run on a batch that all of them lack
        batch.append((job, read))
        if len(batch) == self.batch_size:
            self._send(batch, writing)

    def _send(self, batch: list[tuple[_Job, _Read]], writing: WritingThread) -> None:
        """Runs the teachers on a batch, and hands what they say to the writing thread."""
        if not batch:
            return
        clips = collate([read.sample for _, read in batch])
        if self.encoder.device.type == "cuda":
            clips = clips.with_tensors(**{name: tensor.pin_memory() for name, tensor in clips.tensors.items()})
        tensors, finite = self.encoder.encode(clips, batch[0][0].targets)
        rows = [self._row(job, read) for job, read in batch]
        writing.put(EncodedBatch.to_host([job.targets for job, _ in batch], rows, tensors, finite))
        batch.clear()
        self.log(self.counts)

    def _row(self, job: _Job, read: _Read) -> Row:
        sample = read.sample
        label = label_of(sample.label, self.dataset.class_names)
        return Row(sample.clip_id, job.view, job.place, label, sample.caption, read.source)
