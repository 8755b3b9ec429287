"""Where a cache's files lie: a directory, or an object store with some shards kept on this machine; no torch."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from salt_toolkit.cache.manifest import FILE, SHARDS, Manifest, parse_manifest, shard_path
from salt_toolkit.cache.shard import ShardFile
from salt_toolkit.errors import CacheError

LOCAL_GB = 50.0
"""Gigabytes of shards that are kept on this machine by default."""


@runtime_checkable
class Store(Protocol):
    """The files of a cache."""

    name: str

    def has_manifest(self) -> bool:
        """Whether there is a cache."""
        ...

    def manifest(self) -> Manifest:
        """The manifest; raises CacheError where there is none."""
        ...

    def numbers(self) -> list[int]:
        """The committed shards."""
        ...

    def shard(self, number: int) -> ShardFile:
        """A shard's header; raises CacheError where it is damaged."""
        ...

    def local(self, number: int) -> Path | None:
        """A shard as a file on this machine; None where only `read` helps."""
        ...

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Some bytes of a shard."""
        ...


class LocalStore:
    """A directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = str(directory)

    def has_manifest(self) -> bool:
        """See `Store`."""
        return (self.directory / FILE).exists()

    def manifest(self) -> Manifest:
        """See `Store`."""
        file = self.directory / FILE
        try:
            text = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise _no_cache(self.name) from None
        except OSError as error:
            raise CacheError(f"{file} cannot be read ({error.strerror})") from error
        return parse_manifest(text, self.name)

    def numbers(self) -> list[int]:
        """See `Store`."""
        return sorted(_numbers(os.listdir(self.directory / SHARDS)))

    def shard(self, number: int) -> ShardFile:
        """See `Store`."""
        path = shard_path(self.directory, number)
        try:
            return ShardFile(path)
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror})") from error

    def local(self, number: int) -> Path:
        """See `Store`."""
        return shard_path(self.directory, number)

    def read(self, number: int, offset: int, length: int) -> bytes:
        """See `Store`."""
        raise AssertionError("the rows of a local shard are read from its file")


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
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._kept = home / "salt_toolkit" / "shards" / hashlib.sha256(self.name.encode()).hexdigest()[:16]
        self._room = int(local_gb * 1e9) - sum(file.stat().st_size for file in self._kept.glob("*.safetensors"))
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}

    def has_manifest(self) -> bool:
        """See `Store`."""
        return bool(self._ask(self._files.exists, f"{self._root}/{FILE}"))

    def manifest(self) -> Manifest:
        """See `Store`."""
        if not self.has_manifest():
            raise _no_cache(self.name)
        return parse_manifest(self._ask(self._files.cat_file, f"{self._root}/{FILE}").decode(), self.name)

    def numbers(self) -> list[int]:
        """See `Store`."""
        entries = self._ask(self._files.ls, f"{self._root}/{SHARDS}", detail=True)
        found = {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries}
        self._sizes = {number: found[f"{number:06d}.safetensors"] for number in _numbers(found)}
        return sorted(self._sizes)

    def shard(self, number: int) -> ShardFile:
        """See `Store`."""
        name = f"{self.name}/{SHARDS}/{number:06d}.safetensors"
        return ShardFile(name, size=self._sizes[number], read=lambda at, length: self.read(number, at, length))

    def local(self, number: int) -> Path | None:
        """See `Store`."""
        with self._lock:
            lock = self._locks.setdefault(number, threading.Lock())
        with lock:  # others may come for other shards meanwhile
            path = self._kept / f"{number:06d}.safetensors"
            if path.exists() and path.stat().st_size == self._sizes[number]:
                return path
            with self._lock:
                if self._room < self._sizes[number]:
                    return None
                self._room -= self._sizes[number]
            self._kept.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            self._ask(self._files.get_file, self._path(number), str(beside))
            beside.replace(path)
            return path

    def read(self, number: int, offset: int, length: int) -> bytes:
        """See `Store`."""
        return self._ask(self._files.cat_file, self._path(number), start=offset, end=offset + length)

    def _path(self, number: int) -> str:
        return f"{self._root}/{SHARDS}/{number:06d}.safetensors"

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


def _no_cache(name: str) -> CacheError:
    return CacheError(f"{name} is no latent cache: it has no {FILE}; make one with `salt cache`")


def _numbers(names: Any) -> Iterator[int]:
    for name in names:
        stem, dot, ending = name.partition(".")
        if dot and ending == "safetensors" and stem.isdigit():
            yield int(stem)
