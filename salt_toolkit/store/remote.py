"""A cache in an object store, with some of its shards kept on this machine; no torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from salt_toolkit.errors import CacheError
from salt_toolkit.store.local import LocalStore, Store, read_at, shard_numbers
from salt_toolkit.store.manifest import BASE, SHARDS, shard_name
from salt_toolkit.store.shard import ShardFile
from salt_toolkit.system.files import user_cache

LOCAL_GB = 50.0
"""Gigabytes of shards that are kept on this machine by default."""


class _KeptShards:
    """Copies of an object store's shards on this machine, in a directory that several processes may use.

    A copy is called by its shard's number and checksum, so a shard that has changed in the store is another file.

    Args:
        directory: Of the copies; made when the first one comes.
        max_bytes: That all copies together may take.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._found: dict[int, list[Path]] = {}
        for path in directory.glob("*.safetensors"):
            number = path.name.partition(".")[0]
            if number.isdecimal():
                self._found.setdefault(int(number), []).append(path)
        self._room = max_bytes - sum(_num_bytes(path) for paths in self._found.values() for path in paths)

    def place(self, number: int, checksum: str, size: int) -> Path:
        """Where the copy of a shard is, or belongs; others of its number, and torn ones, are removed."""
        wanted = self.directory / f"{number:08d}.{checksum}.safetensors"
        for path in self._found.pop(number, ()):
            if path != wanted or _num_bytes(path) != size:
                self._drop(path)
        return wanted

    def drop_all_but(self, numbers: Collection[int]) -> None:
        """Removes copies of shards that the store has no more."""
        for number in self._found.keys() - numbers:
            for path in self._found.pop(number):
                self._drop(path)

    @contextlib.contextmanager
    def reserved(self, size: int) -> Iterator[bool]:
        """Takes room for so many bytes, if there is as much; gives it back if what happens meanwhile fails."""
        with self._lock:
            there_is = size <= self._room
            self._room -= size if there_is else 0
        try:
            yield there_is
        except BaseException:
            with self._lock:
                self._room += size if there_is else 0
            raise

    def _drop(self, path: Path) -> None:
        size = _num_bytes(path)
        path.unlink(missing_ok=True)  # another process may have been faster
        with self._lock:
            self._room += size


class RemoteStore:
    """An object store by an fsspec URL, such as ``s3://bucket/cache/train``.

    Shards come to this machine whole as they are asked for, until they fill the room that they may take.
    Rows of the others are read one by one: with random access, throwing out one shard for another would
    bring the whole cache over the network again and again.

    Args:
        url: Of the cache.
        local_gb: Gigabytes of shards to keep here.
    """

    def __init__(self, url: str, *, local_gb: float = LOCAL_GB) -> None:
        self.name = url.rstrip("/")
        try:
            from fsspec.core import url_to_fs

            self._files, self._root = url_to_fs(self.name)
        except (ImportError, ValueError) as error:
            raise CacheError(f"{url} cannot be opened ({error}); install what that kind of URL needs") from error
        folder = user_cache() / "shards" / hashlib.sha256(self.name.encode()).hexdigest()[:16]
        self._kept = _KeptShards(folder, int(local_gb * 1e9))
        self._sizes: dict[int, int] = {}
        self._checksums: dict[int, str] = {}
        self._copies: dict[int, Path] = {}
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}

    def text(self, file: str) -> str | None:
        """See `Store`."""
        path = f"{self._root}/{file}"
        if not self._ask(self._files.exists, path):
            return None
        return self._ask(self._files.cat_file, path).decode("utf-8", "surrogateescape")

    def names(self, folder: str) -> list[str]:
        """See `Store`."""
        path = f"{self._root}/{folder}"
        if not self._ask(self._files.exists, path):
            return []
        entries = self._ask(self._files.ls, path, detail=False)
        return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)

    def caches(self) -> list[str]:
        """See `Store`."""
        files = self._ask(self._files.glob, f"{self._root}/*/{BASE}")
        return sorted(f"{self.name}/{path.split('/')[-2]}" for path in files)

    def numbers(self) -> list[int]:
        """See `Store`."""
        entries = self._ask(self._files.ls, f"{self._root}/{SHARDS}", detail=True)
        found = {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries}
        self._sizes = {number: found[shard_name(number)] for number in shard_numbers(found)}
        self._kept.drop_all_but(self._sizes.keys())
        return sorted(self._sizes)

    def shard(self, number: int) -> ShardFile:
        """See `Store`."""
        size = self._sizes[number]
        shard = ShardFile(self._url(number), size=size, read=partial(self.read, number))
        self._checksums[number] = shard.checksum
        self._copies[number] = self._kept.place(number, shard.checksum, size)
        return shard

    def local(self, number: int) -> Path | None:
        """See `Store`."""
        if number not in self._copies:
            self.shard(number)
        path = self._copies[number]
        with self._lock:
            lock = self._locks.setdefault(number, threading.Lock())
        with lock:  # others may come for other shards meanwhile
            if path.exists():
                return path
            with self._kept.reserved(self._sizes[number]) as there_is_room:
                if not there_is_room:
                    return None
                self._fetch(number, path)
            return path

    def read(self, number: int, offset: int, length: int) -> bytes:
        """See `Store`."""
        return self._ask(self._files.cat_file, self._path(number), start=offset, end=offset + length)

    def _fetch(self, number: int, path: Path) -> None:
        """Brings a shard here, if it is still the one whose header was read."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"{path.parent} cannot be written ({error.strerror}), and shards are kept there; set XDG_CACHE_HOME "
                "to another directory, or cache.local_gb = 0"
            ) from error
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._ask(self._files.get_file, self._path(number), str(beside))
            come = ShardFile(self._url(number), size=beside.stat().st_size, read=partial(read_at, beside))
            if come.checksum != self._checksums[number]:
                raise CacheError(f"{come.path} has changed since the cache was opened; begin again")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def _url(self, number: int) -> str:
        return f"{self.name}/{SHARDS}/{shard_name(number)}"

    def _path(self, number: int) -> str:
        return f"{self._root}/{SHARDS}/{shard_name(number)}"

    def _ask(self, question: Any, *arguments: Any, **keywords: Any) -> Any:
        try:
            return question(*arguments, **keywords)
        except Exception as error:  # every kind of store raises its own
            raise CacheError(f"{self.name} cannot be read ({error}); see the connection and your rights") from error


def open_store(directory: Path | str, *, local_gb: float = LOCAL_GB) -> Store:
    """The store of a directory or of a URL."""
    if "://" in str(directory):
        return RemoteStore(str(directory), local_gb=local_gb)
    return LocalStore(Path(directory).expanduser())


def _num_bytes(path: Path) -> int:
    """Of a file; nothing if another process has just removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
