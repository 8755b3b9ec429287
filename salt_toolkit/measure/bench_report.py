"""What `salt bench` measured, as typed values: its tables and its JSON are made from these; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salt_toolkit.system.formats import stamp


@dataclass(frozen=True)
class Settings:
    """What a recipe can change: ``train.batch_size`` and ``loader.workers``."""

    batch_size: int
    workers: int


@dataclass(frozen=True)
class StepRow:
    """The step alone for one batch size; without figures where ``why`` says what kept it from being measured.

    Attributes:
        batch_size: Clips in a batch.
        clips_per_second: Rate.
        ms_per_step: Milliseconds of a step.
        memory_gb: Most memory that was taken.
        flop_share: Of the device's limit; None also where the recipe's FLOPs are unknown.
        steps: Steps that were timed.
        why: Why there are no figures.
    """

    batch_size: int
    clips_per_second: float | None = None
    ms_per_step: float | None = None
    memory_gb: float | None = None
    flop_share: float | None = None
    steps: int | None = None
    why: str | None = None


@dataclass(frozen=True)
class LoaderRow:
    """The loader alone for one number of threads.

    Attributes:
        workers: Threads that read.
        clips_per_second: Rate.
        read_ms: Milliseconds of one clip in one thread.
        busy_cpus: Processors kept busy.
        clips: Clips that were read.
    """

    workers: int
    clips_per_second: float
    read_ms: float
    busy_cpus: float
    clips: int


@dataclass(frozen=True)
class BothRow:
    """Loader and step together, with the settings that are recommended; the attributes are those of the other rows.

    Attributes:
        data_wait_share: Share of the time in which the step waits for clips.
    """

    batch_size: int
    workers: int
    clips_per_second: float | None = None
    ms_per_step: float | None = None
    memory_gb: float | None = None
    flop_share: float | None = None
    data_wait_share: float | None = None
    steps: int | None = None
    why: str | None = None


@dataclass(frozen=True)
class Bench:
    """All that was measured, and on what.

    Attributes:
        name: The run's.
        recipe: The recipe's own settings.
        noun: What texts call a sample: clip, or sample in a recipe without video.
        num_clips: Clips in the data set.
        device: For people.
        cpus: Processors.
        torch: Its version.
        accumulate: ``train.accumulate``.
        seconds_per_cell: Measured time of each row.
        latents: Where they come from, for people.
        train_step_gflops_per_clip: Of student and predictor; None where a part does not say.
        teacher_gflops_per_clip: Of the teachers; 0 where latents come from a cache.
        flop_limit_tflops: The device's limit.
        flop_limit_source: Where that comes from.
        flop_limit_clips_per_second: Clips a second at that limit.
        step: A row for each batch size.
        loader: A row for each number of threads.
        loader_measured: What was read, for people.
        both: With the recommended settings; None where there are none.
        recommended: The settings to write into the recipe; None where no batch size fits.
    """

    name: str
    recipe: Settings
    noun: str
    num_clips: int
    device: str
    cpus: int
    torch: str
    accumulate: int
    seconds_per_cell: float
    latents: str
    train_step_gflops_per_clip: float | None
    teacher_gflops_per_clip: float | None
    flop_limit_tflops: float
    flop_limit_source: str
    flop_limit_clips_per_second: float | None
    step: Sequence[StepRow]
    loader: Sequence[LoaderRow]
    loader_measured: str
    both: BothRow | None
    recommended: Settings | None


def plain_bench(bench: Bench) -> dict[str, Any]:
    """What was measured in plain values, as `bench_schema` describes them."""
    from pydantic import TypeAdapter

    return {**stamp("bench"), **TypeAdapter(Bench).dump_python(bench, mode="json")}


def bench_schema() -> dict[str, Any]:
    """The JSON Schema of ``salt bench --json``."""
    from pydantic import TypeAdapter

    return TypeAdapter(Bench).json_schema(mode="serialization")
