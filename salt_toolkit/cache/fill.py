"""`salt cache`: says what a cache will cost, then fills it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor

from salt_toolkit.assemble import build_dataset, build_teacher
from salt_toolkit.cache.codec import LatentCodec
from salt_toolkit.cache.encoder import ClipEncoder, kept_tensors
from salt_toolkit.cache.encodings import Encoding
from salt_toolkit.cache.identity import cache_directory, cache_identity, require_comparable
from salt_toolkit.cache.rows import latents_name
from salt_toolkit.cache.work import CacheWork, missing_clips
from salt_toolkit.cache.writing import Counts
from salt_toolkit.contracts import Dataset, Sample
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import BadClip, CacheError, DataError, RecipeError
from salt_toolkit.errors import Problem as RecipeProblem
from salt_toolkit.recipe import CacheSection, Recipe
from salt_toolkit.runs.environment import describe_environment
from salt_toolkit.runs.machine import Machine
from salt_toolkit.store.maintain import drop_leftovers
from salt_toolkit.store.manifest import FILE, Manifest, claim, read_manifest, require_same
from salt_toolkit.store.shard_writer import SAFE, write_all
from salt_toolkit.system.files import writing
from salt_toolkit.system.launch import Launch
from salt_toolkit.system.progress import Progress
from salt_toolkit.system.signals import StopRequests

CALIBRATION_CLIPS = 64
"""Clips whose latents give the constants of int8 and fp8, and the errors that the manifest states."""

MAX_CLIPS_PER_SHARD = 4096


@dataclass(frozen=True)
class CacheOptions:
    """What the command line says besides the recipe.

    Attributes:
        split: Which part of the data set; None takes the recipe's.
        limit: Clips to cache, from the beginning; None for all.
        batch_size: Clips that the teachers see at once; None takes the recipe's.
        workers: Threads that read clips; None takes the recipe's.
        device: Where the teachers run; None takes the first GPU, or the CPU.
        max_hours: Stop after so long; the next call goes on.
        part: Share (i, n) of the shards.
    """

    split: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: str | None = None
    max_hours: float | None = None
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class CacheOutcome:
    """How a call ended.

    Attributes:
        directory: Of the cache.
        counts: What this call did.
        missing: Clips that are still missing from this call's share.
        stopped_by: The signal that asked to stop, if one did.
    """

    directory: Path
    counts: Counts
    missing: int
    stopped_by: Signals | None


@dataclass(frozen=True)
class _Rates:
    """Clips a second, each measured alone on a few clips."""

    reading: float
    teachers: float
    disk: float

    @property
    def together(self) -> float:
        """The slowest: the three overlap."""
        return min(self.reading, self.teachers, self.disk)


def fill_cache(recipe: Recipe, options: CacheOptions) -> CacheOutcome:
    """Computes what is missing of a recipe's cache.

    Raises:
        CacheError: It does not fit the disk, belongs to something else, or cannot be written.
        MissingArtifact: Weights or data are not on this machine.
        DataError: Too many clips are bad.
    """
    if recipe.cache is None:
        message = "missing; say where the cache goes: [cache] with dir, or --set cache.dir=..."
        raise RecipeError([RecipeProblem("cache", message)])
    if "://" in recipe.cache.dir:
        raise CacheError(f"{recipe.cache.dir} is an object store; fill a cache on a disk, and copy it there")
    split = options.split or recipe.dataset.config.split
    clip = recipe.clip if split == recipe.dataset.config.split else recipe.clip.for_evaluation()
    dataset = build_dataset(recipe, split=split, clip=clip)
    if len(set(dataset.clip_ids)) < len(dataset.clip_ids):
        raise DataError("two clips of the data set have one id; a cache is keyed by ids, so each must be unique")
    directory = Path(cache_directory(recipe.cache, split))
    about = partial(cache_identity, recipe, recipe.cache, dataset.clip_ids, split=split, clip=clip)
    if (directory / FILE).exists():
        # Before the teachers are loaded, and perhaps downloaded: is it this recipe's, and is there anything to do?
        require_comparable(directory, read_manifest(directory).identity, about(forgive_missing=True))
        drop_leftovers(directory)
        if not missing_clips(directory, _part(options), _end(options, dataset)):
            return CacheOutcome(directory, Counts(), 0, None)
    with (
        Progress(f"cache {split}", unit="clip", silent=not Launch.here().is_first) as progress,
        StopRequests(options.max_hours) as requests,
    ):
        machine = _machine(recipe, options.device)
        progress.say(f"{directory} on {machine.describe()}")
        # With their own grids: a cache serves every student's.
        teachers = {t.name: build_teacher(recipe, t).to(machine.device) for t in recipe.teachings()}
        encoder = ClipEncoder(teachers, {}, (), machine.device, machine.autocast)
        setup = _Setup(recipe, recipe.cache, dataset, encoder, machine, options)
        manifest = setup.manifest(directory, about())
        work = CacheWork(
            directory,
            manifest,
            dataset,
            encoder,
            Quarantine(None, num_clips=len(dataset.clip_ids), max_fraction=recipe.loader.max_bad_fraction),
            batch_size=setup.batch_size,
            workers=setup.workers,
            part=_part(options),
            end=_end(options, dataset),
            stop=lambda: requests.pending,
        )
        missing = sum(work.missing().values())
        _require_room(directory, manifest, missing)  # before anything large is written, also to measure the disk
        for line in _costs(manifest, missing, setup.rates(directory, missing)) if missing else ():
            progress.say(line)
        work.told = lambda counts: progress.show(counts.done + counts.bad, missing, _details(counts))
        counts = work.run()
        progress.say(_waits(counts))
        return CacheOutcome(directory, counts, sum(work.missing().values()), requests.received)


def _part(options: CacheOptions) -> tuple[int, int]:
    """The share of this process: of the job that the options name, one rank's."""
    launch = Launch.here()
    number, count = options.part
    return number * launch.world_size + launch.rank, count * launch.world_size


def _end(options: CacheOptions, dataset: Dataset) -> int:
    return len(dataset.clip_ids) if options.limit is None else min(options.limit, len(dataset.clip_ids))


class _Setup:
    """Finds out what the manifest has to say, from a few clips."""

    def __init__(
        self,
        recipe: Recipe,
        section: CacheSection,
        dataset: Dataset,
        encoder: ClipEncoder,
        machine: Machine,
        options: CacheOptions,
    ) -> None:
        self.recipe, self.section = recipe, section
        self.dataset, self.encoder, self.machine = dataset, encoder, machine
        self.batch_size = options.batch_size or recipe.train.batch_size
        self.workers = options.workers or recipe.loader.workers

    def manifest(self, directory: Path, identity: dict[str, Any]) -> Manifest:
        """The cache's manifest, made if it is not there; afterwards the encoder is ready."""
        present = _present(directory, identity)
        samples, self._reading = self._read_some(CALIBRATION_CLIPS if present is None else self.batch_size)
        batches = [collate(samples[i : i + self.batch_size]) for i in range(0, len(samples), self.batch_size)]
        kept = kept_tensors(samples[0].tensors, frames=self.section.frames)
        self.encoder.kept = kept
        if present is None:
            encodings: dict[str, Encoding] = dict.fromkeys(self.encoder.teachers, self.section.dtype)
            measured = self.encoder.calibrate(encodings, batches)
            streams = self.encoder.streams(samples[0].tensors)
            row = sum(stream.row_bytes for stream in streams)
            clips = max(1, min(MAX_CLIPS_PER_SHARD, self.section.shard_mb * 10**6 // row))
            constants = {name: codec.constants() for name, codec in self.encoder.codecs.items()}
            made_with = describe_environment(self.recipe, self.machine)
            wanted = Manifest(identity, streams, len(self.dataset.clip_ids), clips, constants, measured, made_with)
            present = claim(directory, wanted)
        for name in self.encoder.teachers:
            codec = LatentCodec.of(latents_name(name), self.section.dtype, present.constants[name])
            self.encoder.codecs[name] = codec.to(self.encoder.device)
        self._batch = batches[0]
        return present

    def rates(self, directory: Path, missing: int) -> _Rates:
        """How fast reading, teachers and disk are; writes no more clips than are missing. After `manifest`."""
        self.encoder.encode(self._batch)  # warms up
        begin = time.perf_counter()
        encoded = [tensor.cpu() for tensor in self.encoder.encode(self._batch)[0]]
        teachers = time.perf_counter() - begin
        size = encoded[0].shape[0]
        written = min(size, missing)
        disk = _time_disk(directory, [tensor[:written] for tensor in encoded])
        return _Rates(self._reading, size / teachers, written / disk)

    def _read_some(self, count: int) -> tuple[list[Sample], float]:
        """The first clips that can be read, and clips a second."""
        begin = time.perf_counter()
        samples: list[Sample] = []
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(self.dataset.clip_ids), self.batch_size):
                part = range(start, min(start + self.batch_size, len(self.dataset.clip_ids)))
                samples += [sample for sample in pool.map(self._try, part) if sample is not None]
                if len(samples) >= count:
                    break
        if not samples:
            raise DataError(f"none of the data set's {len(self.dataset.clip_ids)} clips can be read")
        return samples[:count], len(samples) / (time.perf_counter() - begin)

    def _try(self, index: int) -> Sample | None:
        try:
            return self.dataset.read(index, 0)
        except BadClip:
            return None


def _time_disk(directory: Path, tensors: Sequence[Tensor]) -> float:
    """Seconds until the tensors are on the disk; nothing of them stays there."""
    probe = directory / f".probe.{os.getpid()}"
    begin = time.perf_counter()
    with writing(probe, CacheError, then=SAFE), probe.open("wb", buffering=0) as file:
        probe.unlink()  # nothing is left of it, however this process ends
        offset = 0
        for tensor in tensors:
            buffer = memoryview(tensor.contiguous().view(torch.uint8).numpy().tobytes())
            write_all(file.fileno(), buffer, offset)
            offset += buffer.nbytes
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def _present(directory: Path, identity: dict[str, Any]) -> Manifest | None:
    """The manifest that is there; None for a new cache."""
    if not (directory / FILE).exists():
        return None
    manifest = read_manifest(directory)
    require_same(directory, manifest.identity, identity)
    return manifest


def _machine(recipe: Recipe, device: str | None) -> Machine:
    """Training's machine, or another device."""
    found = Machine.here(recipe)
    return found if device is None else found.on(torch.device(device))


def _costs(manifest: Manifest, missing: int, rates: _Rates) -> list[str]:
    """What the work will take, in sentences."""
    num_bytes = missing * manifest.row_bytes
    hours = missing / rates.together / 3600
    epochs = rates.teachers / rates.together
    lines = [
        f"{missing} of {manifest.views * manifest.num_clips} clips to compute, {num_bytes / 1e9:.3g} GB, "
        f"about {_duration(hours)}",
        f"clips a second: reading {rates.reading:.3g}, teachers {rates.teachers:.3g}, disk {rates.disk:.3g}; "
        f"pays for itself after {epochs:.2g} epochs of training",
    ]
    for name, error in manifest.measured.items():
        lines.append(
            f"{name} as {manifest.identity['dtype']}: relative error {error['relative_l2']:.2%} "
            f"({error['relative_l2_standardised']:.2%} with channels standardised), "
            f"explained variance lost {error['explained_variance_lost']:.2e}"
        )
    return lines


def _require_room(directory: Path, manifest: Manifest, missing: int) -> None:
    wanted, free = missing * manifest.row_bytes, shutil.disk_usage(directory).free
    if wanted > free:
        raise CacheError(
            f"the cache needs {wanted / 1e9:.4g} GB more, and {directory} has {free / 1e9:.4g} GB free; make room, "
            'choose cache.dtype = "int8" (half of bf16), leave out cache.frames, or cache fewer clips with --limit'
        )


def _waits(counts: Counts) -> str:
    """What held the teachers up."""
    seconds = max(counts.elapsed, 1e-9)
    clips, disk = counts.waited_for_clips / seconds, counts.waited_for_disk / seconds
    return f"the teachers waited {clips:.0%} of the time for clips, and {disk:.0%} for the disk"


def _details(counts: Counts) -> str:
    seconds = max(counts.elapsed, 1e-9)
    bad = f"  {counts.bad} bad" if counts.bad else ""
    return f"{counts.done / seconds:.1f} clips/s  {counts.num_bytes / 1e9:.2f} GB{bad}"


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes" if hours >= 1 / 30 else "a minute or two"
