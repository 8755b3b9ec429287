"""Where a cache's files lie: a directory, or an object store with some shards kept on this machine; no torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from salt_toolkit.errors import CacheError
from salt_toolkit.store.manifest import FILE, SHARDS, Manifest, parse_manifest, shard_path
from salt_toolkit.store.shard import ShardFile
from salt_toolkit.system.files import user_cache

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
            raise no_cache(self.name, caches_in(self.directory)) from None
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
        path = shard_path(self.directory, number)
        try:
            return _read_at(path, offset, length)
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror})") from error


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
        wanted = self.directory / f"{number:06d}.{checksum}.safetensors"
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

    def has_manifest(self) -> bool:
        """See `Store`."""
        return bool(self._ask(self._files.exists, f"{self._root}/{FILE}"))

    def manifest(self) -> Manifest:
        """See `Store`."""
        if not self.has_manifest():
            found = self._ask(self._files.glob, f"{self._root}/*/{FILE}")
            raise no_cache(self.name, sorted(f"{self.name}/{path.split('/')[-2]}" for path in found))
        return parse_manifest(self._ask(self._files.cat_file, f"{self._root}/{FILE}").decode(), self.name)

    def numbers(self) -> list[int]:
        """See `Store`."""
        entries = self._ask(self._files.ls, f"{self._root}/{SHARDS}", detail=True)
        found = {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries}
        self._sizes = {number: found[f"{number:06d}.safetensors"] for number in _numbers(found)}
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
            come = ShardFile(self._url(number), size=beside.stat().st_size, read=partial(_read_at, beside))
            if come.checksum != self._checksums[number]:
                raise CacheError(f"{come.path} has changed since the cache was opened; begin again")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def _url(self, number: int) -> str:
        return f"{self.name}/{SHARDS}/{number:06d}.safetensors"

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


def caches_in(directory: Path) -> list[str]:
    """The caches in the folders of a directory, such as those of its splits; none where it cannot be read."""
    try:
        return [str(file.parent) for file in sorted(directory.glob(f"*/{FILE}"))]
    except OSError:
        return []


def no_cache(name: str, inside: Sequence[str]) -> CacheError:
    """The error for a place without a manifest.

    Args:
        name: Of the place.
        inside: Caches that were found in its folders.
    """
    meant = f"did you mean {' or '.join(inside)}?" if inside else "make one with `salt cache`"
    return CacheError(f"{name} is no latent cache: it has no {FILE}; {meant}")


def _numbers(names: Any) -> Iterator[int]:
    for name in names:
        stem, dot, ending = name.partition(".")
        if dot and ending == "safetensors" and stem.isdigit():
            yield int(stem)


def _read_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def _num_bytes(path: Path) -> int:
    """Of a file; nothing if another process has just removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
