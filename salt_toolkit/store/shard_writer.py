"""Writes one shard: rows as they come, the header last, then a rename; no torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from isal.isal_zlib import crc32

from salt_toolkit.errors import CacheError
from salt_toolkit.store.row import BadRow, Row
from salt_toolkit.store.shard import PAGE, ShardFile, ShardHeader, Stream, offsets
from salt_toolkit.system.files import CHUNK, sync, writing

PARTIAL = ".partial"
SAFE = "Finished shards are safe, and the same command continues."


class ShardBusy(Exception):
    """Another writer is at this shard, or has just finished it."""


class ShardWriter:
    """A shard in the making; use it in a ``with`` block.

    It holds a lock on the unfinished file for as long as it lives, which ends with the process however
    that ends. So several writers can take shards of one directory, and each is made by one of them.

    Args:
        path: Where the finished shard will stand.
        streams: What each row consists of.
        planned: The ids of the clips that it may hold at most; room is taken on the disk for all of them.

    Raises:
        ShardBusy: Another writer is at it, or it is there.
        CacheError: The disk is full, or cannot be written.
    """

    def __init__(self, path: Path, streams: Sequence[Stream], planned: Sequence[str]) -> None:
        self.path = path
        self.streams = tuple(streams)
        self.rows: list[Row] = []
        self.bad: list[BadRow] = []
        self._partial = path.with_name(f".{path.name}{PARTIAL}")
        self._capacity = len(planned)
        # Ids, views, labels, sources and crc32s, generously; a header that outgrows it moves the rows.
        room = 4 * PAGE + sum(2 * len(clip_id.encode()) + 120 + 8 * len(streams) for clip_id in planned)
        self._room = -(-room // PAGE) * PAGE
        self._offsets = offsets(self.streams, self._capacity, start=self._room)
        self._descriptor = self._claim()
        self._reserve()

    def add(self, row: Row, arrays: Sequence[Any]) -> None:
        """Appends one clip.

        Args:
            row: What is known of it; the checksums are computed here.
            arrays: One contiguous buffer of bytes for each stream, in the streams' order.

        Raises:
            CacheError: The disk is full or fails.
        """
        checksums = []
        for stream, offset, array in zip(self.streams, self._offsets, arrays, strict=False):
            buffer = memoryview(array).cast("B")
            if buffer.nbytes != stream.row_bytes:
                raise CacheError(
                    f"{stream.name} of {row.clip_id} has {buffer.nbytes} bytes; the cache keeps {stream.row_bytes} "
                    f"({stream.dtype}, {stream.shape})"
                )
            with writing(self.path, CacheError, then=SAFE):
                write_all(self._descriptor, buffer, offset + len(self.rows) * stream.row_bytes)
            checksums.append(crc32(buffer))
        self.rows.append(replace(row, checksums=tuple(checksums)))

    def add_bad(self, bad: BadRow) -> None:
        """Records a clip that could not be used."""
        self.bad.append(bad)

    def copy_from(self, shard: ShardFile, keep: Sequence[int]) -> None:
        """Takes over rows of a shard of the same number, so that they need not be computed again.

        Raises:
            CacheError: A row does not fit its checksum; copied unseen, it would get a new one that fits.
        """
        descriptor = os.open(shard.path, os.O_RDONLY)
        try:
            for index in keep:
                row = shard.header.rows[index]
                arrays = []
                for stream in range(len(self.streams)):
                    offset, length = shard.place(stream, index)
                    arrays.append(os.pread(descriptor, length, offset))
                self.add(row, arrays)
                if self.rows[-1].checksums != row.checksums:
                    raise CacheError(
                        f"{shard.path} is damaged: {row.clip_id!r} does not fit its checksum; run `salt cache repair`"
                    )
        finally:
            os.close(descriptor)

    def commit(self, fingerprint: str, number: int, constants: Mapping[str, Any]) -> None:
        """Makes the shard whole and visible: header, sync, rename, sync of the directory."""
        header = ShardHeader(fingerprint, number, self.streams, tuple(self.rows), tuple(self.bad), constants)
        encoded = header.encode(self._room)
        with writing(self.path, CacheError, then=SAFE):
            self._close_up(len(encoded))
            write_all(self._descriptor, memoryview(encoded), 0)
            os.fsync(self._descriptor)
            os.replace(self._partial, self.path)
            sync(self.path.parent)

    def discard(self) -> None:
        """Gives up what is not committed; the last call in any case."""
        # The unfinished file goes while it is still locked: nobody else can have begun it.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._partial).st_ino == os.fstat(self._descriptor).st_ino:
                os.unlink(self._partial)
        os.close(self._descriptor)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _claim(self) -> int:
        with writing(self.path, CacheError, then=SAFE):
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(descriptor, self._partial):
            os.close(descriptor)
            raise ShardBusy(str(self.path))
        return descriptor

    def _reserve(self) -> None:
        """Takes the room for all rows, so that a full disk shows before anything is computed."""
        try:
            with writing(self.path, CacheError, then=SAFE):
                os.ftruncate(self._descriptor, 0)
                if self._offsets[-1]:
                    os.posix_fallocate(self._descriptor, 0, self._offsets[-1])
        except CacheError:
            self.discard()
            raise

    def _close_up(self, header: int) -> None:
        """Moves the rows together where fewer came than were planned, or the header needs more room."""
        wanted = offsets(self.streams, len(self.rows), start=header)
        moves = list(zip(self.streams, self._offsets, wanted, strict=False))
        # Downwards from the first stream on, upwards from the last: nothing is overwritten before it has moved.
        down = [move for move in moves if move[2] <= move[1]]
        up = [move for move in reversed(moves) if move[2] > move[1]]
        for stream, source, target in (*up, *down):
            self._move(len(self.rows) * stream.row_bytes, source, target)
        os.ftruncate(self._descriptor, wanted[-1])

    def _move(self, length: int, source: int, target: int) -> None:
        if source == target:
            return
        starts = range(0, length, CHUNK)
        for start in starts if target < source else reversed(starts):
            data = os.pread(self._descriptor, min(CHUNK, length - start), source + start)
            write_all(self._descriptor, memoryview(data), target + start)


def drop_abandoned(partial: Path) -> None:
    """Removes an unfinished shard that a killed process has left, unless somebody writes it."""
    try:
        descriptor = os.open(partial, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if _lock(descriptor, partial):
            os.unlink(partial)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    """Locks an open file, unless another has; whether it is ours, and still the one that has this name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, the owner may have renamed or removed the file.
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def write_all(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Pwrite until everything is written; one call may write less."""
    while buffer.nbytes:
        written = os.pwrite(descriptor, buffer, offset)
        buffer, offset = buffer[written:], offset + written
