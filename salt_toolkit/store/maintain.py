"""Looking after a cache: what is in it, whether it is whole, dropping what is torn, joining several."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from isal.isal_zlib import crc32

from salt_toolkit.errors import CacheError
from salt_toolkit.store.base import claim_base, has_base
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.local import LocalStore, caches_in, no_cache
from salt_toolkit.store.manifest import SHARDS, claim, read_manifest, shard_name, shard_path
from salt_toolkit.store.row import CHANGED, BadRow, Row
from salt_toolkit.store.shard import ShardFile, Stream
from salt_toolkit.store.shard_writer import PARTIAL, ShardBusy, ShardWriter, drop_abandoned
from salt_toolkit.system.files import sync

THREADS = 4


@dataclass(frozen=True)
class DamagedRow:
    """A row that is not what it should be."""

    layer: str
    shard: int
    row: int
    clip_id: str
    view: int
    reason: str

    def __str__(self) -> str:
        return f"{self.layer}/{SHARDS}/{shard_name(self.shard)}, view {self.view} of {self.clip_id!r}: {self.reason}"


@dataclass
class Verdict:
    """What `verify` found.

    Attributes:
        rows: Rows that were read.
        num_bytes: Their bytes.
        damaged_shards: Reasons, by layer and number.
        damaged_rows: Rows whose bytes or numbers are wrong.
        unfinished: Layer and number of shards that are missing or not full.
        bad_clips: Clips that the cache records as unusable; no damage.
    """

    rows: int = 0
    num_bytes: int = 0
    damaged_shards: dict[tuple[str, int], str] = field(default_factory=dict)
    damaged_rows: list[DamagedRow] = field(default_factory=list)
    unfinished: list[tuple[str, int]] = field(default_factory=list)
    bad_clips: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged; an unfinished cache may be sound."""
        return not self.damaged_shards and not self.damaged_rows


def verify(directory: Path) -> Verdict:
    """Reads every byte of every layer: headers, checksums, and numbers that are not finite.

    Raises:
        CacheError: The directory is no cache.
    """
    cache = Cache.open(directory, forgive_damage=True)
    verdict = Verdict(bad_clips=len(cache.bad))
    for name, index in cache.layers.items():
        verdict.damaged_shards |= {(name, number): reason for number, reason in index.damaged.items()}
        verdict.unfinished += [(name, number) for number in index.unfinished()]
        with ThreadPoolExecutor(THREADS) as pool:
            checked = pool.map(partial(_damaged_rows, name), index.shards.values())
            for shard, damaged in zip(index.shards.values(), checked, strict=True):
                verdict.damaged_rows += damaged
                verdict.rows += len(shard.header.rows)
                verdict.num_bytes += shard.offsets[-1]
    return verdict


def repair(directory: Path, changed: Collection[str] | None = None) -> Verdict:
    """Drops what is torn: shards whose header is lost, and single rows; the rest stays.

    What was dropped is missing afterwards, and the command that made the cache fills it again.

    Args:
        directory: Of the cache.
        changed: Ids of clips whose files have changed: their rows go from all layers, and with them what is recorded
            of clips as bad for that reason. None where files were not compared.

    Returns:
        What was found before.

    Raises:
        CacheError: The directory is no cache, or a writer is at a damaged shard.
    """
    verdict = verify(directory)
    for (layer, number), _ in verdict.damaged_shards.items():
        shard_path(directory / layer, number).unlink(missing_ok=True)
    torn: dict[tuple[str, int], set[int]] = {}
    for row in verdict.damaged_rows:
        torn.setdefault((row.layer, row.shard), set()).add(row.row)
    outdated = partial(_outdated, set(changed)) if changed is not None else _never
    for layer, index in Cache.open(directory, forgive_damage=True).layers.items():
        for number, shard in index.shards.items():
            rows = torn.get((layer, number), set())
            rows |= {place for place, row in enumerate(shard.header.rows) if outdated(row)}
            bad = [row for row in shard.header.bad if not outdated(row)]
            if rows or len(bad) < len(shard.header.bad):
                _drop_rows(directory / layer, number, rows, bad)
    drop_leftovers(directory)
    return verdict


def _outdated(changed: Collection[str], row: Row | BadRow) -> bool:
    """Whether a row comes from another file than the one that is there now, or only says so of its clip."""
    return row.clip_id in changed or (isinstance(row, BadRow) and row.reason == CHANGED)


def _never(row: Row | BadRow) -> bool:
    return False


def _drop_rows(layer: Path, number: int, torn: Collection[int], bad: Sequence[BadRow]) -> None:
    """Rewrites a shard without some of its rows, and with these clips as bad ones."""
    path, manifest = shard_path(layer, number), read_manifest(layer)
    shard = ShardFile(path)
    keep = [place for place in range(len(shard.header.rows)) if place not in torn]
    try:
        with ShardWriter(path, manifest.streams, [row.clip_id for row in shard.header.rows]) as writer:
            writer.copy_from(shard, keep)
            for clip in bad:
                writer.add_bad(clip)
            writer.commit(manifest.fingerprint, number, shard.header.constants)
    except ShardBusy:
        raise CacheError(f"{path} is being written; stop that process first") from None


def merge(target: Path, sources: Sequence[Path]) -> int:
    """Takes the layers and shards of other caches of the same samples into one.

    Of two shards of one number, the one with more clips stays. Files are linked where both lie on one
    file system, and copied elsewhere.

    Args:
        target: A cache; a new or empty directory becomes one.
        sources: Caches made elsewhere.

    Returns:
        How many shards were taken.

    Raises:
        CacheError: One is no cache, or of other samples; or a layer of one name has another identity, other
            constants or another spread over shards; or the target is a folder of other caches, such as those of
            several splits.
    """
    others = [cache for cache in caches_in(target) if Path(cache) not in sources]
    if others and not has_base(LocalStore(target)):
        raise no_cache(str(target), others)
    return sum(take_over(target, Cache.open(source)) for source in sources)


def take_over(target: Path, source: Cache) -> int:
    """Takes what is new in one other cache; returns how many shards. See `merge`."""
    base = claim_base(target, source.base)
    if base.ids[: len(source.base.ids)] != source.base.ids:
        raise CacheError(
            f"{target} and {source.directory} hold their clips in different orders; begin both with a copy of one "
            "cache (`salt cache RECIPE --max-hours 0` makes an empty one)"
        )
    taken = 0
    for name, index in source.layers.items():
        present = claim(target / name, index.manifest)
        if present.fingerprint != index.manifest.fingerprint:
            raise CacheError(
                f"{name} of {source.directory} differs from that of {target} in how its numbers are decoded or spread "
                "over shards; begin both with a copy of one cache (`salt cache RECIPE --max-hours 0` makes an empty "
                "one), or bring one to the other with `salt cache convert`"
            )
        for number, shard in index.shards.items():
            path = shard_path(target / name, number)
            if not path.exists() or _fullness(ShardFile(path)) < _fullness(shard):
                _copy(Path(shard.path), path)
                taken += 1
        sync(target / name / SHARDS)
    return taken


def drop_leftovers(directory: Path) -> None:
    """Removes what killed writers have left beside the shards; unfinished files of living ones are locked and stay."""
    for abandoned in directory.glob(f"*/*/{SHARDS}/.*.safetensors{PARTIAL}"):
        drop_abandoned(abandoned)


def _damaged_rows(layer: str, shard: ShardFile) -> list[DamagedRow]:
    header, damaged = shard.header, []
    descriptor = os.open(shard.path, os.O_RDONLY)
    try:
        for place, row in enumerate(header.rows):
            for stream, about in enumerate(header.streams):
                offset, length = shard.place(stream, place)
                data = os.pread(descriptor, length, offset)
                reason = _fault(data, about, row.checksums[stream], length)
                if reason:
                    reason = f"{about.name} {reason}"
                    damaged.append(DamagedRow(layer, header.number, place, row.clip_id, row.view, reason))
    finally:
        os.close(descriptor)
    return damaged


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
