"""Looking after a cache: what is in it, whether it is whole, dropping what is torn, joining several."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from salt_toolkit.errors import CacheError
from salt_toolkit.store.index import CacheIndex
from salt_toolkit.store.manifest import FILE, SHARDS, read_manifest, require_same, shard_path
from salt_toolkit.store.places import caches_in, no_cache
from salt_toolkit.store.shard import ShardFile, Stream
from salt_toolkit.store.shard_writer import PARTIAL, ShardBusy, ShardWriter, drop_abandoned
from salt_toolkit.system.files import sync

THREADS = 4


@dataclass(frozen=True)
class DamagedRow:
    """A row that is not what it should be."""

    shard: int
    row: int
    clip_id: str
    view: int
    reason: str

    def __str__(self) -> str:
        return f"shard {self.shard:06d}, view {self.view} of {self.clip_id!r}: {self.reason}"


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        rows: Rows that were read.
        num_bytes: Their bytes.
        damaged_shards: Reasons, by number.
        damaged_rows: Rows whose bytes or numbers are wrong.
        unfinished: Numbers of shards that are missing or not full.
        bad_clips: Clips that the cache records as unusable; no damage.
    """

    rows: int = 0
    num_bytes: int = 0
    damaged_shards: dict[int, str] = field(default_factory=dict)
    damaged_rows: list[DamagedRow] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    bad_clips: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged; an unfinished cache may be sound."""
        return not self.damaged_shards and not self.damaged_rows


def verify(directory: Path) -> Verdict:
    """Reads every byte: headers, checksums, and numbers that are not finite.

    Raises:
        CacheError: The directory is no cache.
    """
    index = CacheIndex.open(directory, forgive_damage=True)
    verdict = Verdict(damaged_shards=dict(index.damaged), unfinished=index.unfinished(), bad_clips=len(index.bad()))
    with ThreadPoolExecutor(THREADS) as pool:
        for shard, damaged in zip(index.shards.values(), pool.map(_damaged_rows, index.shards.values()), strict=True):
            verdict.damaged_rows += damaged
            verdict.rows += len(shard.header.rows)
            verdict.num_bytes += shard.offsets[-1]
    return verdict


def repair(directory: Path) -> Verdict:
    """Drops what is torn: whole shards whose header is lost, and single rows; the rest stays.

    What was dropped is missing afterwards, and the command that made the cache fills it again.

    Returns:
        What was found before.

    Raises:
        CacheError: The directory is no cache, or a writer is at a damaged shard.
    """
    verdict = verify(directory)
    manifest = read_manifest(directory)
    for number in verdict.damaged_shards:
        shard_path(directory, number).unlink(missing_ok=True)
    for number in sorted({row.shard for row in verdict.damaged_rows}):
        path = shard_path(directory, number)
        shard = ShardFile(path)
        torn = {row.row for row in verdict.damaged_rows if row.shard == number}
        keep = [place for place in range(len(shard.header.rows)) if place not in torn]
        try:
            with ShardWriter(path, manifest.streams, [row.clip_id for row in shard.header.rows]) as writer:
                writer.copy_from(shard, keep)
                for bad in shard.header.bad:
                    writer.add_bad(bad)
                writer.commit(manifest.fingerprint, number, shard.header.constants)
        except ShardBusy:
            raise CacheError(f"somebody is writing {path}; stop that first") from None
    drop_leftovers(directory)
    sync(directory / SHARDS)
    return verdict


def merge(target: Path, sources: Sequence[Path]) -> int:
    """Takes the shards of other caches of the same identity into one.

    Of two shards of one number, the one with more clips stays. Files are linked where both lie on one
    file system, and copied elsewhere.

    Args:
        target: A cache; a new or empty directory becomes one.
        sources: Caches made elsewhere.

    Returns:
        How many shards were taken.

    Raises:
        CacheError: One is no cache, or of another identity, or spread over shards in another way; or the target is
            a folder of other caches, such as those of several splits.
    """
    taken = 0
    others = [cache for cache in caches_in(target) if Path(cache) not in sources]
    if others and not (target / FILE).exists():
        raise no_cache(str(target), others)
    for source in sources:
        index = CacheIndex.open(source)
        if not (target / FILE).exists():
            (target / SHARDS).mkdir(parents=True, exist_ok=True)
            _copy(source / FILE, target / FILE)
        manifest = read_manifest(target)
        require_same(target, manifest.identity, index.manifest.identity)
        if manifest.clips_per_shard != index.manifest.clips_per_shard:
            raise CacheError(
                f"{target} has {manifest.clips_per_shard} clips in a shard, and {source} has "
                f"{index.manifest.clips_per_shard}; bring one to the other with `salt cache convert`"
            )
        for number, shard in index.shards.items():
            path = shard_path(target, number)
            if not path.exists() or _fullness(ShardFile(path)) < _fullness(shard):
                _copy(shard_path(source, number), path)
                taken += 1
    sync(target / SHARDS)
    return taken


def drop_leftovers(directory: Path) -> None:
    """Removes what killed writers have left beside the shards; unfinished files of living ones are locked and stay."""
    for partial in (directory / SHARDS).glob(f".*.safetensors{PARTIAL}"):
        drop_abandoned(partial)


def _damaged_rows(shard: ShardFile) -> list[DamagedRow]:
    return list(_check_rows(shard))


def _check_rows(shard: ShardFile) -> Iterator[DamagedRow]:
    header = shard.header
    descriptor = os.open(shard.path, os.O_RDONLY)
    try:
        for place, row in enumerate(header.rows):
            for stream, about in enumerate(header.streams):
                offset, length = shard.place(stream, place)
                data = os.pread(descriptor, length, offset)
                reason = _fault(data, about, row.checksums[stream], length)
                if reason:
                    reason = f"{about.name} {reason}"
                    yield DamagedRow(header.number, place, row.clip_id, row.view, reason)
    finally:
        os.close(descriptor)


def _fault(data: bytes, stream: Stream, checksum: int, length: int) -> str:
    if len(data) != length:
        return f"has {len(data)} of {length} bytes"
    if crc32(data) != checksum:
        return "does not fit its checksum"
    return "" if _finite(data, stream.dtype) else "holds numbers that are not finite"


def _finite(data: bytes, dtype: str) -> bool:
    """Whether all numbers are finite; by their bits, for numpy knows neither bfloat16 nor float8."""
    if dtype == "BF16":
        return not np.any((np.frombuffer(data, np.uint16) & 0x7F80) == 0x7F80)
    if dtype == "F8_E4M3":
        return not np.any((np.frombuffer(data, np.uint8) & 0x7F) == 0x7F)
    kinds: dict[str, Any] = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    return dtype not in kinds or bool(np.isfinite(np.frombuffer(data, kinds[dtype])).all())


def _fullness(shard: ShardFile) -> int:
    return len(shard.header.rows) + len(shard.header.bad)


def _copy(source: Path, target: Path) -> None:
    beside = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, beside)
        sync(beside)
    os.replace(beside, target)
