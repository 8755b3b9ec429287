"""What filling a cache will cost: room, time, and how fast reading, teachers and disk are; in sentences."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from salt_toolkit.cache.codec import bytes_of
from salt_toolkit.cache.shards import Unit
from salt_toolkit.cache.writing import Counts
from salt_toolkit.errors import CacheError
from salt_toolkit.store.shard_writer import SAFE, write_all
from salt_toolkit.system.files import writing


@dataclass(frozen=True)
class Rates:
    """Clips a second, each measured alone on a few clips."""

    reading: float
    teachers: float
    disk: float

    @property
    def together(self) -> float:
        """The slowest: the three overlap."""
        return min(self.reading, self.teachers, self.disk)

    @classmethod
    def measured(
        cls, reading: float, encode: Callable[[], Mapping[str, Sequence[Tensor]]], directory: Path, missing: int
    ) -> Rates:
        """Times the teachers and the disk on one batch.

        Args:
            reading: Clips a second, known already.
            encode: Makes the streams of one batch, by layer.
            directory: On the disk; nothing of what is written stays there.
            missing: Clips that are to be computed; no more are written.
        """
        encode()  # warms up
        begin = time.perf_counter()
        encoded = [tensor.cpu() for streams in encode().values() for tensor in streams]
        teachers = time.perf_counter() - begin
        size = encoded[0].shape[0]
        written = min(size, missing)
        return cls(reading, size / teachers, written / _time_disk(directory, [tensor[:written] for tensor in encoded]))


def bytes_missing(units: Sequence[Unit]) -> int:
    """Bytes of all rows that are missing."""
    return sum(len(missing.places) * missing.index.manifest.row_bytes for unit in units for missing in unit.shards)


def require_room(directory: Path, wanted: int) -> None:
    """Refuses what cannot fit.

    Raises:
        CacheError: The disk has less room than so many bytes.
    """
    free = shutil.disk_usage(directory).free
    if wanted > free:
        raise CacheError(
            f"the cache needs {wanted / 1e9:.4g} GB more, and {directory} has {free / 1e9:.4g} GB free; make room, "
            'choose cache.dtype = "int8" (half of bf16), keep fewer tensors (cache.keep), or cache fewer clips with '
            "--limit"
        )


def costs(units: Sequence[Unit], rates: Rates, total: int) -> list[str]:
    """What the work will take, in sentences.

    Args:
        units: What is missing.
        rates: How fast it goes.
        total: Views of clips that the cache is to have in the end.
    """
    missing = sum(unit.num_clips for unit in units)
    epochs = rates.teachers / rates.together
    return [
        f"{missing} of {total} clips to compute, {bytes_missing(units) / 1e9:.3g} GB, "
        f"about {_duration(missing / rates.together / 3600)}",
        f"clips a second: reading {rates.reading:.3g}, teachers {rates.teachers:.3g}, disk {rates.disk:.3g}; "
        f"pays for itself after {epochs:.2g} epochs of training",
    ]


def losses(units: Sequence[Unit]) -> list[str]:
    """What encoding costs, in a sentence for each stream."""
    layers = {missing.layer: missing.index.manifest for unit in units for missing in unit.shards}
    return [
        f"{layer} {stream} as {manifest.identity['streams'][stream]['encoding']}: "
        f"relative error {error['relative_l2']:.2%} "
        f"({error['relative_l2_standardised']:.2%} with channels standardised), "
        f"explained variance lost {error['explained_variance_lost']:.2e}"
        for layer, manifest in layers.items()
        for stream, error in manifest.measured.items()
    ]


def waits(counts: Counts) -> str:
    """What held the teachers up."""
    seconds = max(counts.elapsed, 1e-9)
    clips, disk = counts.waited_for_clips / seconds, counts.waited_for_disk / seconds
    return f"the teachers waited {clips:.0%} of the time for clips, and {disk:.0%} for the disk"


def details(counts: Counts) -> str:
    """How far the work is, behind the number of clips."""
    seconds = max(counts.elapsed, 1e-9)
    bad = f"  {counts.bad} bad" if counts.bad else ""
    return f"{counts.done / seconds:.1f} clips/s  {counts.num_bytes / 1e9:.2f} GB{bad}"


def _time_disk(directory: Path, tensors: Sequence[Tensor]) -> float:
    """Seconds until the tensors are on the disk; nothing of them stays there."""
    probe = directory / f".probe.{os.getpid()}"
    begin = time.perf_counter()
    with writing(probe, CacheError, then=SAFE), probe.open("wb", buffering=0) as file:
        probe.unlink()  # nothing is left of it, however this process ends
        offset = 0
        for tensor in tensors:
            buffer = memoryview(bytes_of(tensor.contiguous()))
            write_all(file.fileno(), buffer, offset)
            offset += buffer.nbytes
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes" if hours >= 1 / 30 else "a minute or two"
