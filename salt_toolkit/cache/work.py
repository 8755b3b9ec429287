"""`salt cache`: every clip once through the teachers, and onto the disk; reading, teachers and writing overlap.

Work is cut into shards, each claimed by one writer, so any number of processes may fill one cache.
What was committed stays; an interrupted shard is continued where its rows end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from salt_toolkit.cache.encoder import ClipEncoder
from salt_toolkit.cache.writing import Counts, EncodedBatch, WritingThread
from salt_toolkit.contracts import Dataset, Sample
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.reader import unreadable
from salt_toolkit.data.samples import collate, plain_label
from salt_toolkit.errors import BadClip, SaltError
from salt_toolkit.store.index import CacheIndex
from salt_toolkit.store.manifest import Manifest, shard_path
from salt_toolkit.store.shard import BadRow, Row, ShardFile
from salt_toolkit.store.shard_writer import ShardBusy, ShardWriter


class OpenShard:
    """A shard that is being filled, and commits itself when its last clip has come.

    All its methods belong to the writing thread, once it is made.

    Raises:
        ShardBusy: Another writer is at it.
    """

    def __init__(self, directory: Path, manifest: Manifest, number: int, dataset: Dataset, end: int) -> None:
        self.manifest, self.number = manifest, number
        self.view, places = manifest.places(number)
        path = shard_path(directory, number)
        self.writer = ShardWriter(path, manifest.streams, [dataset.clip_ids[index] for index in places])
        try:
            before = ShardFile(path) if path.exists() else None
            done = before.header.places() if before else set()
            self.missing = [index for index in places if index not in done and index < end]
            if not self.missing:  # another writer has finished it since it was found missing
                raise ShardBusy(str(path))
            if before:
                self._take_over(before)
        except BaseException:
            self.writer.discard()
            raise
        self._before = len(done)
        self._left = len(self.missing)
        self._open = True

    def add(self, row: Row, arrays: list[memoryview]) -> None:
        """Writes one clip."""
        self.writer.add(row, arrays)
        self._count()

    def add_bad(self, bad: BadRow) -> None:
        """Records one clip as unusable."""
        self.writer.add_bad(bad)
        self._count()

    def close(self) -> None:
        """Commits what has come; nothing where nothing has."""
        if self._open:
            self._open = False
            if len(self.writer.rows) + len(self.writer.bad) > self._before:
                self.writer.commit(self.manifest.fingerprint, self.number, self.manifest.constants)
            self.writer.discard()

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self.close()

    def _take_over(self, shard: ShardFile) -> None:
        self.writer.copy_from(shard, range(len(shard.header.rows)))
        for bad in shard.header.bad:
            self.writer.add_bad(bad)


@dataclass
class CacheWork:
    """One process's share of a cache.

    Attributes:
        directory: Of the cache.
        manifest: Of the cache.
        dataset: Where clips come from.
        encoder: The teachers, and how their latents are stored.
        quarantine: Where bad clips are counted.
        batch_size: Clips that the teachers see at once.
        workers: Threads that read clips.
        part: Which share: (i, n) takes every shard whose number leaves i when divided by n.
        end: Clips of the data set to cache, from its beginning.
        stop: Asked between clips whether to end early.
        told: Called with the counts after every batch.
        counts: How far the work is.
    """

    directory: Path
    manifest: Manifest
    dataset: Dataset
    encoder: ClipEncoder
    quarantine: Quarantine
    batch_size: int
    workers: int
    part: tuple[int, int]
    end: int
    stop: Callable[[], bool] = lambda: False
    told: Callable[[Counts], None] = lambda counts: None
    counts: Counts = field(default_factory=Counts)

    def missing(self) -> dict[int, int]:
        """How many clips each unfinished shard of this share still wants, by the shards' numbers."""
        return missing_clips(self.directory, self.part, self.end)

    def run(self) -> Counts:
        """Does the work, until it is done or `stop` says so; returns what was done.

        Raises:
            CacheError: The disk is full or fails; what was committed stays.
            DataError: Too many clips are bad.
        """
        self.counts = Counts()
        shards: list[OpenShard] = []
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="salt-read")
        try:
            with WritingThread(self.counts, self.quarantine) as writing:
                try:
                    self._fill(pool, writing, shards)
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)
        finally:
            with ExitStack() as closing:  # closes all, even if one cannot be closed
                for shard in shards:
                    closing.callback(shard.close)
        return self.counts

    def _fill(self, pool: ThreadPoolExecutor, writing: WritingThread, shards: list[OpenShard]) -> None:
        pending: deque[tuple[OpenShard, int, Future[Sample]]] = deque()
        batch: list[tuple[OpenShard, int, Sample]] = []
        for shard, index in self._jobs(shards):
            pending.append((shard, index, pool.submit(self.dataset.read, index, shard.view)))
            if len(pending) >= self.batch_size + 2 * self.workers:
                self._take(pending, batch, writing)
        while pending and not self.stop():
            self._take(pending, batch, writing)
        self._send(batch, writing)

    def _jobs(self, shards: list[OpenShard]) -> Iterator[tuple[OpenShard, int]]:
        """Every clip that is missing, shard by shard; a shard is claimed when its turn comes, or at the end."""
        turns = deque(self.missing())
        busy: set[int] = set()
        while turns and not self.stop():
            number = turns.popleft()
            try:
                shard = OpenShard(self.directory, self.manifest, number, self.dataset, self.end)
            except ShardBusy:
                if number in busy:
                    self.counts.busy += 1
                else:
                    busy.add(number)
                    turns.append(number)
                continue
            shards.append(shard)
            for index in shard.missing:
                if self.stop():
                    return
                yield shard, index

    def _take(
        self,
        pending: deque[tuple[OpenShard, int, Future[Sample]]],
        batch: list[tuple[OpenShard, int, Sample]],
        writing: WritingThread,
    ) -> None:
        shard, index, future = pending.popleft()
        begin = time.perf_counter()
        try:
            batch.append((shard, index, future.result()))
        except BadClip as bad:
            writing.put_bad(shard, BadRow(self.dataset.clip_ids[index], shard.view, index, bad.reason), bad)
        except SaltError:
            raise
        except BaseException as error:
            raise unreadable(self.dataset.clip_ids[index], error) from error
        self.counts.waited_for_clips += time.perf_counter() - begin
        if len(batch) == self.batch_size:
            self._send(batch, writing)

    def _send(self, batch: list[tuple[OpenShard, int, Sample]], writing: WritingThread) -> None:
        """Runs the teachers on a batch, and hands what they say to the writing thread."""
        if not batch:
            return
        clips = collate([sample for _, _, sample in batch])
        if self.encoder.device.type == "cuda":
            clips = clips.with_tensors(**{name: tensor.pin_memory() for name, tensor in clips.tensors.items()})
        tensors, finite = self.encoder.encode(clips)
        rows = [
            Row(sample.clip_id, shard.view, index, plain_label(sample.label), sample.caption)
            for shard, index, sample in batch
        ]
        writing.put(EncodedBatch.to_host([shard for shard, _, _ in batch], rows, tensors, finite))
        batch.clear()
        self.told(self.counts)


def missing_clips(directory: Path, part: tuple[int, int], end: int) -> dict[int, int]:
    """How many clips each unfinished shard of a share still wants, by the shards' numbers.

    Args:
        directory: Of the cache.
        part: Which share; see `CacheWork`.
        end: Clips of the data set to cache, from its beginning.
    """
    index = CacheIndex.open(directory)
    found = {}
    for number in index.unfinished():
        shard = index.shards.get(number)
        there = shard.header.places() if shard else set()
        wanted = [place for place in index.manifest.places(number)[1] if place < end and place not in there]
        if wanted and number % part[1] == part[0]:
            found[number] = len(wanted)
    return found
