"""Where files of a cache or layer lie, and a directory of this machine; no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from salt_toolkit.errors import CacheError
from salt_toolkit.store.manifest import BASE, SHARDS, shard_path
from salt_toolkit.store.shard import ShardFile


@runtime_checkable
class Store(Protocol):
    """The files of a cache, or of one of its layers."""

    name: str

    def text(self, file: str) -> str | None:
        """The text of a small file; None where there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """What is in a folder; nothing where there is none."""
        ...

    def caches(self) -> list[str]:
        """Caches in the folders below, such as those of several splits."""
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

    def text(self, file: str) -> str | None:
        """See `Store`."""
        path = self.directory / file
        try:
            return path.read_text(encoding="utf-8", errors="surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror})") from error

    def names(self, folder: str) -> list[str]:
        """See `Store`."""
        path = self.directory / folder
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror})") from error

    def caches(self) -> list[str]:
        """See `Store`."""
        return caches_in(self.directory)

    def numbers(self) -> list[int]:
        """See `Store`."""
        return sorted(shard_numbers(self.names(SHARDS)))

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
            return read_at(path, offset, length)
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror})") from error


def caches_in(directory: Path) -> list[str]:
    """The caches in the folders of a directory, such as those of its splits; none where it cannot be read."""
    try:
        return [str(file.parent) for file in sorted(directory.glob(f"*/{BASE}"))]
    except OSError:
        return []


def no_cache(name: str, inside: Sequence[str]) -> CacheError:
    """The error for a place without a cache.

    Args:
        name: Of the place.
        inside: Caches that were found in its folders.
    """
    meant = f"did you mean {' or '.join(inside)}?" if inside else "make one with `salt cache`"
    return CacheError(f"{name} is no latent cache: it has no {BASE}; {meant}")


def shard_numbers(names: Any) -> Iterator[int]:
    """The shards among the files of a folder."""
    for name in names:
        stem, dot, ending = name.partition(".")
        if dot and ending == "safetensors" and stem.isdigit():
            yield int(stem)


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Some bytes of a file."""
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)
