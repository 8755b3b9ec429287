"""A layer of a cache as a reader sees it: every clip by id and view, from the shards' headers alone; no torch."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from isal.isal_zlib import crc32

from salt_toolkit.errors import CacheError
from salt_toolkit.store.local import Store
from salt_toolkit.store.manifest import LAYER, PARTS, Manifest, parse_manifest
from salt_toolkit.store.row import BadRow, Row
from salt_toolkit.store.shard import ShardFile

OPEN_FILES = 256
"""Shards whose descriptors stay open; a common limit of a process is 1,024 files."""


@dataclass
class LayerIndex:
    """Where every clip of a layer is.

    Attributes:
        store: The layer's files.
        manifest: Whose streams it holds.
        num_clips: Clips of the cache.
        views: Views of each clip that the cache has begun to hold.
        shards: The committed ones, by number.
        damaged: Shards that are there and cannot be used, with the reason.
    """

    store: Store
    manifest: Manifest
    num_clips: int
    views: int
    shards: dict[int, ShardFile]
    damaged: dict[int, str] = field(default_factory=dict)
    _rows: list[dict[str, tuple[int, int]]] = field(default_factory=list)  # by view

    @classmethod
    def open(cls, store: Store, num_clips: int, views: int) -> LayerIndex:
        """Reads the manifest and the header of every committed shard; damaged ones are only collected.

        Raises:
            CacheError: No layer, or another format.
        """
        text = store.text(LAYER)
        if text is None:
            raise CacheError(f"{store.name} is no layer of a cache: it has no {LAYER}")
        manifest = parse_manifest(text, store.name)
        index = cls(store, manifest, num_clips, views, {}, {}, [{} for _ in range(views)])
        numbers = store.numbers()
        with ThreadPoolExecutor(8) as pool:
            opened = pool.map(lambda number: _open(store, manifest, number), numbers)
            for number, shard in zip(numbers, opened, strict=True):
                if isinstance(shard, CacheError):
                    index.damaged[number] = str(shard)
                else:
                    index._add(number, shard)
        return index

    @property
    def directory(self) -> str:
        """Where the layer is, for people."""
        return self.store.name

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key[1] < len(self._rows) and key[0] in self._rows[key[1]]

    def row(self, clip_id: str, view: int) -> tuple[int, int]:
        """The shard and the row of a clip.

        Raises:
            KeyError: The layer has no such clip, or recorded it as bad.
        """
        return self._rows[view][clip_id]

    def ids(self, view: int) -> Set[str]:
        """Clips that have a row."""
        return self._rows[view].keys() if view < len(self._rows) else set()

    def rows(self) -> Iterator[tuple[int, int, Row]]:
        """Every row with its shard and its place in it, in the cache's order."""
        for number, shard in sorted(self.shards.items()):
            for place, row in enumerate(shard.header.rows):
                yield number, place, row

    def bad(self) -> list[BadRow]:
        """The clips that could not be used."""
        return [bad for _, shard in sorted(self.shards.items()) for bad in shard.header.bad]

    def unfinished(self) -> list[int]:
        """Numbers of the shards that are missing, damaged, or hold fewer clips than they should."""
        wanted = (view * PARTS + part for view in range(self.views) for part in range(self.num_parts))
        return [
            number
            for number in wanted
            if number not in self.shards
            or _filled(self.shards[number]) < len(self.manifest.places(number, self.num_clips)[1])
        ]

    @property
    def num_parts(self) -> int:
        """Shards that hold one view of every clip."""
        return self.manifest.num_parts(self.num_clips)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.offsets[-1] for shard in self.shards.values())

    def _add(self, number: int, shard: ShardFile) -> None:
        for place, (clip_id, view) in enumerate(shard.header.keys()):
            while view >= len(self._rows):
                self._rows.append({})
            other = self._rows[view].setdefault(clip_id, (number, place))
            if other != (number, place):
                self.damaged[number] = (
                    f"{shard.path} holds view {view} of {clip_id!r}, which shard {other[0]} holds too; "
                    "drop one with `salt cache repair`"
                )
                return
        self.shards[number] = shard


class RowReader:
    """Reads rows into memory that the caller owns; from any number of threads at once.

    Args:
        index: Of the layer.
        check: Which rows to compare with their checksums: each the first time that it is read, always, or
            never. A checksum takes longer than reading from memory, and a disk seldom changes its mind.
    """

    def __init__(self, index: LayerIndex, *, check: Literal["once", "always", "never"] = "once") -> None:
        self.index = index
        self.check = check
        self._checked: set[tuple[int, int, int]] = set()
        self.streams = {stream.name: place for place, stream in enumerate(index.manifest.streams)}
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._in_use: dict[int, int] = {}
        self._lock = threading.Lock()

    def read_into(self, clip_id: str, view: int, out: dict[str, Any]) -> Row:
        """Reads some streams of a clip.

        Args:
            clip_id: As the dataset names it.
            view: Which view of the clip.
            out: For each stream wanted, a contiguous writable buffer of its row's size.

        Returns:
            The row with label and caption.

        Raises:
            KeyError: The layer has no such clip.
            CacheError: A row is torn or damaged.
        """
        number, place = self.index.row(clip_id, view)
        shard = self.index.shards[number]
        row = shard.header.rows[place]
        with self._file(number) as descriptor:
            for name, buffer in out.items():
                stream = self.streams[name]
                into = memoryview(buffer).cast("B")
                offset, length = shard.place(stream, place)
                found = self._read(number, descriptor, offset, into)
                if found != length or into.nbytes != length:
                    raise CacheError(f"{shard.path} is torn: {name} of {clip_id!r} has {found} of {length} bytes")
                if not self._is_sound(number, place, stream, into):
                    raise CacheError(
                        f"{shard.path} is damaged: {name} of {clip_id!r} does not fit its checksum; "
                        "run `salt cache repair`"
                    )
        return row

    def close(self) -> None:
        """Closes all files."""
        with self._lock:
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def _is_sound(self, number: int, place: int, stream: int, data: memoryview) -> bool:
        key = (number, place, stream)
        if self.check == "never" or (self.check == "once" and key in self._checked):
            return True
        if crc32(data) != self.index.shards[number].header.rows[place].checksums[stream]:
            return False
        self._checked.add(key)
        return True

    def _read(self, number: int, descriptor: int | None, offset: int, into: memoryview) -> int:
        if descriptor is not None:
            return os.preadv(descriptor, [into], offset)
        data = self.index.store.read(number, offset, into.nbytes)
        into[: len(data)] = data
        return len(data)

    @contextmanager
    def _file(self, number: int) -> Iterator[int | None]:
        """The shard's descriptor, which stays open while it is in use; None where it is no file of this machine."""
        path = self.index.store.local(number)
        if path is None:
            yield None
            return
        with self._lock:
            if number not in self._descriptors:
                self._make_room()
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                self._descriptors[number] = descriptor
            self._descriptors.move_to_end(number)
            self._in_use[number] = self._in_use.get(number, 0) + 1
            descriptor = self._descriptors[number]
        try:
            yield descriptor
        finally:
            with self._lock:
                self._in_use[number] -= 1
                if not self._in_use[number]:
                    del self._in_use[number]

    def _make_room(self) -> None:
        idle: Sequence[int] = [number for number in self._descriptors if number not in self._in_use]
        for number in idle[: max(0, len(self._descriptors) - OPEN_FILES + 1)]:
            os.close(self._descriptors.pop(number))


def _open(store: Store, manifest: Manifest, number: int) -> ShardFile | CacheError:
    try:
        shard = store.shard(number)
    except CacheError as error:
        return error
    header = shard.header
    if header.fingerprint != manifest.fingerprint or header.number != number:
        return CacheError(
            f"{shard.path} belongs to another layer or place (fingerprint {header.fingerprint}, number "
            f"{header.number}); drop it with `salt cache repair`"
        )
    return shard


def _filled(shard: ShardFile) -> int:
    return len(shard.header.rows) + len(shard.header.bad)
