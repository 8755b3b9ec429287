"""Reading latents at random, against one file a clip, and against the bare disk; in one run, both orders.

Ways to fill batches of 32 clips of 1568 x 768 bf16, in random order:

- pread: the same bytes by bare preadv into one reused buffer: the limit
- a part: the 294 tokens of each clip that target_fraction = 0.25 needs, by one preadv for each run of neighbours
- salt: the cache's rows into a batch's memory; rows are compared with their checksums once, in the first epoch
- salt loader: the whole path, as training sees it, from the second epoch on
- pt: one torch.save file a clip, read and stacked: the straightforward way
- DataLoader: two worker processes over those files

warm: everything is in the page cache. cold: the files were dropped from it (posix_fadvise) before.

python benchmarks/latent_cache.py [--clips 600] [--folder DIR] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from salt_toolkit.cache.encodings import Coding
from salt_toolkit.cache.rows import CachedRows, CachedStream
from salt_toolkit.contracts import Sample
from salt_toolkit.data.loading import BatchLoader
from salt_toolkit.data.order import ClipOrder
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.reader import ClipReader
from salt_toolkit.store.base import Base, claim_base
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.layer import RowReader
from salt_toolkit.store.manifest import Manifest, claim, shard_path
from salt_toolkit.store.row import Row
from salt_toolkit.store.shard_writer import ShardWriter

TOKENS, DIM, BATCH, THREADS, CLIPS_PER_SHARD = 1568, 768, 32, 4, 120
NAME, LAYER = "latents", "teachers/teacher"
PART = 294
EPOCHS = 5
"""Passes over the warm files in one measurement, so that memory is taken for the first of them alone."""
Order = Sequence[Sequence[int]]
Way = Callable[[Order], None]


def main() -> None:
    """Writes the files, measures every way, and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--flat", type=int, default=0, help="Read so many batches, and show the memory.")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        cache, files = _write(folder, arguments.clips)
        if arguments.flat:
            _show_memory(cache, arguments.clips, arguments.flat)
        ways = _Ways(cache, files, arguments.clips).named()
        for state in ("warm", "cold"):
            rates = _measure(ways, folder, arguments.clips, arguments.rounds, cold=state == "cold")
            print(f"| {state} page cache | clips/s | relative to pread | relative to .pt |\n|---|---|---|---|")
            for name, rate in rates.items():
                print(f"| {name} | {rate:,.0f} | {rate / rates['pread']:.0%} | {rate / rates['pt']:.2f} |")
    finally:
        shutil.rmtree(folder)


def _write(folder: Path, num_clips: int) -> tuple[Path, list[Path]]:
    coding = Coding(NAME, "F32", (TOKENS, DIM), "bf16")
    base = claim_base(folder / "cache", Base({}, tuple(str(index) for index in range(num_clips))))
    identity = {"streams": {NAME: coding.as_dict()}}
    layer = folder / "cache" / LAYER
    manifest = claim(layer, Manifest(base.fingerprint, identity, coding.streams, CLIPS_PER_SHARD))
    (folder / "pt").mkdir()
    files = []
    generator = torch.Generator().manual_seed(0)
    for number in range(manifest.num_parts(num_clips)):
        places = manifest.places(number, num_clips)[1]
        with ShardWriter(shard_path(layer, number), manifest.streams, [str(index) for index in places]) as writer:
            for index in places:
                clip = torch.randn(TOKENS, DIM, generator=generator).bfloat16()
                writer.add(Row(str(index), 0, index), [clip.view(torch.uint8).numpy()])
                files.append(folder / "pt" / f"{index}.pt")
                torch.save(clip, files[-1])
            writer.commit(manifest.fingerprint, number, {})
    os.sync()
    return folder / "cache", files


class _Files(Dataset[Tensor]):
    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return torch.load(self.files[index], weights_only=True)


class _Rows:
    """A dataset of a cache's latents alone."""

    class_names = ()

    def __init__(self, cache: Path, num_clips: int) -> None:
        self.rows = CachedRows(Cache.open(cache), {NAME: CachedStream(LAYER, NAME)})
        self.clip_ids = [str(index) for index in range(num_clips)]

    def read(self, index: int, view: int) -> Sample:
        raise AssertionError("the loader reads into its own memory")

    def read_into(self, index: int, view: int, rows: Callable[..., dict[str, Tensor]]) -> Sample:
        tensors = rows(self.rows.like)
        self.rows.read_into(self.clip_ids[index], view, tensors)
        return Sample(self.clip_ids[index], tensors)


class _Ways:
    """The ways to fill a batch; each takes the places of the clips of every batch."""

    def __init__(self, cache: Path, files: list[Path], num_clips: int) -> None:
        self.cache, self.files, self.num_clips = cache, files, num_clips
        self.pool = ThreadPoolExecutor(THREADS)
        self.index = Cache.open(cache).layers[LAYER]
        batch = torch.zeros(BATCH, TOKENS, DIM, dtype=torch.bfloat16)
        self.buffers: list[Any] = [row.view(torch.uint8).numpy() for row in batch]
        self.warmed = False
        self.dataset = _Rows(cache, num_clips)
        self.descriptors = {number: os.open(shard.path, os.O_RDONLY) for number, shard in self.index.shards.items()}
        for descriptor in self.descriptors.values():  # as the cache's reader does: reading ahead is in vain
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def named(self) -> dict[str, Way]:
        """All of them."""
        return {
            "pread": self.pread,
            "pread of 294 tokens": self.part,
            "salt, later epochs": self.rows(check="never"),
            "salt, first epoch": self.rows(check="always"),
            "salt loader, later epochs": self.loader,
            "pt": self.pt,
            "DataLoader over pt, 2 workers": self.data_loader,
        }

    def pread(self, order: Order) -> None:
        """The limit."""

        def one(job: tuple[int, int]) -> None:
            number, row = self.index.row(str(job[1]), 0)
            offset, _ = self.index.shards[number].place(0, row)
            os.preadv(self.descriptors[number], [self.buffers[job[0]]], offset)

        for places in order:
            list(self.pool.map(one, enumerate(places)))

    def part(self, order: Order) -> None:
        """Only some of each clip's tokens."""
        generator = np.random.default_rng(0)

        def one(job: tuple[int, int]) -> None:
            number, row = self.index.row(str(job[1]), 0)
            offset, length = self.index.shards[number].place(0, row)
            size, into, taken = length // TOKENS, memoryview(self.buffers[job[0]]).cast("B"), 0
            tokens = np.sort(generator.permutation(TOKENS)[:PART])
            for run in np.split(tokens, np.flatnonzero(np.diff(tokens) > 1) + 1):
                end = taken + len(run) * size
                os.preadv(self.descriptors[number], [into[taken:end]], offset + int(run[0]) * size)
                taken = end

        for places in order:
            list(self.pool.map(one, enumerate(places)))

    def rows(self, *, check: Literal["always", "never"]) -> Way:
        """The cache's reader, with or without checksums."""
        reader = RowReader(self.index, check=check)

        def read(order: Order) -> None:
            for places in order:
                into = ((str(place), {NAME: self.buffers[row]}) for row, place in enumerate(places))
                list(self.pool.map(lambda job: reader.read_into(job[0], 0, job[1]), into))

        return read

    def loader(self, order: Order) -> None:
        """The whole path, as training sees it; the first call reads and checks everything."""
        if not self.warmed:
            self.warmed = True
            self.loader(_order(self.num_clips, seed=0))
        with batches_of(self.dataset, self.num_clips, len(order)) as batches:
            for _ in batches:
                pass

    def pt(self, order: Order) -> None:
        """The straightforward way."""
        for places in order:
            torch.stack([torch.load(self.files[place], weights_only=True) for place in places])

    def data_loader(self, order: Order) -> None:
        """The straightforward way with worker processes."""
        sampler: Any = order
        for _ in DataLoader(_Files(self.files), batch_sampler=sampler, num_workers=2):
            pass


def batches_of(dataset: _Rows, num_clips: int, num_batches: int) -> BatchLoader:
    """The loader that training uses, over the cache's latents alone."""
    quarantine = Quarantine(None, num_clips=num_clips, max_fraction=0.0)
    return BatchLoader(
        ClipReader(dataset, quarantine, views=1, seed=0),
        ClipOrder(num_clips, BATCH, seed=0),
        start=0,
        end=num_batches,
        workers=THREADS,
        prefetch=2,
        prepare=lambda batch, place: batch,
    )


def _measure(ways: dict[str, Way], folder: Path, num_clips: int, rounds: int, *, cold: bool) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds):
        names = list(ways) if round_number % 2 == 0 else list(ways)[::-1]
        for name in names:
            order = _order(num_clips, seed=round_number) * (1 if cold else EPOCHS)
            if cold:
                _drop(folder)
            begin = time.perf_counter()
            ways[name](order)
            rates[name].append(len(order) * BATCH / (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in rates.items()}


def _order(num_clips: int, seed: int) -> list[list[int]]:
    places = list(range(num_clips))
    random.Random(seed).shuffle(places)
    return [places[i : i + BATCH] for i in range(0, num_clips - BATCH + 1, BATCH)]


def _drop(folder: Path) -> None:
    """Drops the files from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _show_memory(cache: Path, num_clips: int, num_batches: int) -> None:
    """Prints the peak of resident memory while batches come by."""
    with batches_of(_Rows(cache, num_clips), num_clips, num_batches) as batches:
        for number, _ in enumerate(batches, start=1):
            if number in (50, num_batches):
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
                print(f"peak memory after {number} batches: {peak:.0f} MB")


if __name__ == "__main__":
    main()
