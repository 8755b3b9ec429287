"""From timings to what limits a run, how long it takes, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from salt_toolkit.check.report import Limit, Timings

BUSY = 0.4
"""Share of the cores that reading keeps busy, from which the limit is decoding and not the disk."""
LARGE_COPY = 0.5
"""Share of a step's time from which the copy to the GPU limits it."""


def limit_of(timings: Timings) -> Limit:
    """What limits a run.

    If the loader is slower than the step: the disk if its threads mostly wait, decoding if they keep the cores busy.
    Otherwise the bus, if copying the clips takes a large part of the step, or compute.
    """
    if timings.loader > max(timings.step, timings.copy):
        return "decode" if timings.busy >= BUSY else "disk"
    return "bus" if timings.copy >= LARGE_COPY * timings.step else "compute"


@dataclass(frozen=True)
class Length:
    """How many steps read clips from files, and how many from memory.

    Attributes:
        steps: Steps of the run.
        reading_steps: Steps that read clips for the first time; all of them without `loader.ram_cache_mb`.
        kept: Share of the clips kept in memory afterwards.
    """

    steps: int
    reading_steps: int
    kept: float

    def seconds(self, timings: Timings) -> float:
        """Duration of all steps, in seconds."""
        first = min(self.steps, self.reading_steps)
        return first * timings.per_step + (self.steps - first) * self.later(timings).per_step

    def later(self, timings: Timings) -> Timings:
        """Timings of a step once memory holds its share of the clips."""
        left = 1 - self.kept
        return replace(timings, loader=timings.loader * left, loader_cpu=timings.loader_cpu * left)

    def typical(self, timings: Timings) -> Timings:
        """Timings of the majority of the run's steps."""
        return timings if 2 * min(self.steps, self.reading_steps) >= self.steps else self.later(timings)


@dataclass(frozen=True)
class Setting:
    """The properties of a recipe that decide which advice applies.

    Attributes:
        on_gpu: Whether there is a GPU.
        could_bf16: Whether the device supports bf16 natively while the recipe uses fp32.
        compiles: Whether the step is compiled.
        teacher_share: The teacher's share of a step's total FLOPs; 0 if latents come from a cache.
        cached_latents: Whether latents come from a cache.
        cached_frames: Whether clips also come from a cache.
        caches_ram: Whether `loader.ram_cache_mb` is used.
    """

    on_gpu: bool
    could_bf16: bool = False
    compiles: bool = False
    teacher_share: float = 0.0
    cached_latents: bool = False
    cached_frames: bool = False
    caches_ram: bool = False


def advice(limit: Limit, timings: Timings, setting: Setting) -> list[str]:
    """What to change, as sentences, most effective first."""
    ways = {"disk": _about_disk, "decode": _about_decode, "bus": _about_bus, "compute": _about_compute}
    return list(ways[limit](timings, setting))


def _about_disk(timings: Timings, setting: Setting) -> Iterator[str]:
    yield (
        f"Raise loader.workers from {timings.workers} to {4 * timings.workers}: "
        "threads that wait for a disk cost nothing."
    )
    yield "Put the data set on a disk of this machine, or a faster one."
    if not setting.caches_ram:
        yield "If the clips fit into memory, let it keep them: loader.ram_cache_mb."


def _about_decode(timings: Timings, setting: Setting) -> Iterator[str]:
    if timings.workers < timings.cpus:
        yield f"Raise loader.workers from {timings.workers} to {timings.cpus}: there are so many processors."
    if not setting.cached_frames:
        yield 'Decode each clip once: `salt cache` with cache.keep = ["clip"] keeps clips and latents.'
        yield "Videos that are not much larger than clip.size decode faster: write smaller ones once."
    if not setting.caches_ram:
        yield "If the clips fit into memory, let it keep them: loader.ram_cache_mb."


def _about_bus(timings: Timings, setting: Setting) -> Iterator[str]:
    if setting.cached_latents:
        yield 'Store latents in fewer bytes: a cache with cache.dtype = "int8" is half of bf16.'
        yield "Or compute them on the device, without a cache, if the teacher is small."
    yield "Look at the link: `nvidia-smi -q` tells its PCIe generation and width, now and at most."


def _about_compute(timings: Timings, setting: Setting) -> Iterator[str]:
    if setting.could_bf16:
        yield 'Compute in bf16: train.precision = "bf16".'
    if setting.teacher_share >= 0.2:
        yield f"The teacher is {setting.teacher_share:.0%} of the work: compute its latents once, with `salt cache`."
    if setting.on_gpu and not setting.compiles:
        yield 'Compile the step: train.compile = "default".'
    yield "Find the fastest batch size: `salt bench`."
