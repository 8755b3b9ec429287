"""The throughput table of a recipe: batch sizes, worker counts, and the best pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.measure.bench_report import Bench, BothRow, LoaderRow, Settings, StepRow, plain_bench
from salt_toolkit.measure.peak import peak_of
from salt_toolkit.measure.throughput import time_both, time_loading, time_steps
from salt_toolkit.measure.trial import Trial, is_out_of_memory
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.machine import Machine
from salt_toolkit.system.files import write_json, writing
from salt_toolkit.system.host import available_memory, num_cpus, resident_memory

CLOSE = 0.02
"""Batch sizes within this share of the fastest count as equally fast."""
HEADROOM = 1.2
"""How much faster than the step a loader should be, so that the step does not wait."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        batch_sizes: Besides the recipe's; empty: powers of two times it, from a quarter to four times.
        workers: Threads that read, besides the recipe's; empty: powers of two up to the processors.
        seconds: Measured time of each cell.
    """

    batch_sizes: Sequence[int] = ()
    workers: Sequence[int] = ()
    seconds: float = 5.0


def run_bench(recipe: Recipe, options: BenchOptions, log: Log = lambda message: None) -> Bench:
    """Measures a recipe on this machine; writes nothing.

    Args:
        recipe: A valid recipe.
        options: What to measure.
        log: Called with a line about what is being measured.

    Returns:
        All rows, and the settings that are best here.

    Raises:
        SaltError: The recipe cannot be trained here.
    """
    machine = Machine.here(recipe)
    trial = Trial(recipe, machine, log)
    own_size, own_workers = recipe.train.batch_size, recipe.loader.workers
    # The recipe's own are always measured: only beside them does the best mean something.
    sizes = [own_size, *(options.batch_sizes or default_batch_sizes(own_size, trial.num_clips))]
    workers = [own_workers, *(options.workers or default_workers(own_workers))]
    log("building the method")
    cached = trial.data.cache is not None
    work = _Work.of(recipe, machine, cached=cached)
    step_rows = _step_rows(trial, sizes, max(workers), options.seconds, work, log)
    loader_rows = _loader_rows(trial, workers, options.seconds, log)
    recommended = recommend(step_rows, loader_rows)
    both = _both_row(trial, recommended, options.seconds, work, log) if recommended else None
    return Bench(
        name=recipe.run.name,
        recipe=Settings(own_size, own_workers),
        noun=trial.recipe.noun,
        num_clips=trial.num_clips,
        device=machine.describe(),
        cpus=num_cpus(),
        torch=torch.__version__,
        accumulate=recipe.train.accumulate,
        seconds_per_cell=options.seconds,
        latents="from the cache" if cached else "from the live teacher",
        train_step_gflops_per_clip=work.step,
        teacher_gflops_per_clip=work.teacher,
        flop_limit_tflops=work.peak / 1e12,
        flop_limit_source=work.source,
        flop_limit_clips_per_second=work.limit,
        step=step_rows,
        loader=loader_rows,
        loader_measured=_what_was_read(trial),
        both=both,
        recommended=recommended,
    )


def write_bench(found: Bench, path: Path) -> None:
    """Writes what `run_bench` found as JSON.

    Raises:
        RunError: The file cannot be written.
    """
    with writing(path, then="Or choose another file with --out."):
        write_json(path, plain_bench(found))


def bench_file(recipe: Recipe) -> Path:
    """Where the figures go by default: beside the run's directory, never in it."""
    return Path(recipe.run.dir) / f"{recipe.run.name}.bench.json"


def default_batch_sizes(size: int, num_clips: int) -> list[int]:
    """Powers of two times the recipe's batch size, from a quarter to four times, as far as the data set reaches."""
    whole = [size * factor // 4 for factor in (1, 2, 4, 8, 16) if size * factor % 4 == 0]
    return [found for found in whole if found <= num_clips] or [size]


def default_workers(own: int) -> list[int]:
    """Powers of two up to the processors that there are, and the recipe's own number."""
    return sorted({own, *(2**power for power in range(num_cpus().bit_length()))})


def recommend(step_rows: Sequence[StepRow], loader_rows: Sequence[LoaderRow]) -> Settings | None:
    """The settings to write into the recipe; None where no batch size fits.

    Of the batch sizes within 2 % of the fastest, the smallest. Of the worker counts whose loader is 20 % faster
    than that step, the smallest; where there is none, the fastest.
    """
    rates = {row.batch_size: row.clips_per_second for row in step_rows if row.clips_per_second}
    if not rates or not loader_rows:
        return None
    fastest = max(rates.values())
    size = min(size for size, rate in rates.items() if rate >= (1 - CLOSE) * fastest)
    enough = [row.workers for row in loader_rows if row.clips_per_second >= HEADROOM * rates[size]]
    workers = min(enough) if enough else max(loader_rows, key=lambda row: row.clips_per_second).workers
    return Settings(size, workers)


@dataclass(frozen=True)
class _Work:
    """FLOPs of a clip as `salt check` counts them, and the limit of this device.

    Attributes:
        step: GFLOPs of a training step for one clip; None where a part does not say.
        teacher: GFLOPs of the teachers' forward pass; 0 where latents come from a cache.
        peak: FLOPs a second.
        source: Where that limit comes from.
    """

    step: float | None
    teacher: float | None
    peak: float
    source: str

    @classmethod
    def of(cls, recipe: Recipe, machine: Machine, *, cached: bool) -> _Work:
        facts = check_recipe(recipe).facts
        peak = peak_of(machine)
        teacher = 0.0 if cached or not recipe.teachings() else facts.teacher_gflops_per_clip
        return cls(facts.train_step_gflops_per_clip, teacher, peak.flops, peak.source)

    @property
    def limit(self) -> float | None:
        """Clips a second at the device's limit; None where the FLOPs are not known."""
        if self.step is None or self.teacher is None:
            return None
        return self.peak / (1e9 * (self.step + self.teacher))

    def share(self, clips_per_second: float) -> float | None:
        return clips_per_second / self.limit if self.limit else None


def _step_rows(
    trial: Trial, sizes: Sequence[int], workers: int, seconds: float, work: _Work, log: Log
) -> list[StepRow]:
    """A row for each batch size, from the smallest on; one that does not fit ends the growth."""
    rows: list[StepRow] = []
    _ = trial.method  # first, so that what it takes counts as there before the first batch
    base = resident_memory()
    for size in sorted(set(sizes)):
        log(f"step alone, batch size {size}")
        why = _cannot_try(trial, size, base, rows)
        if why is None:
            try:
                rows.append(_step_row(trial, size, workers, seconds, work))
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                why = "out of memory"
        rows.append(StepRow(size, why=why))
        if size <= trial.num_clips:
            break
    trial.clear()
    return rows


def _cannot_try(trial: Trial, size: int, base: int, rows: Sequence[StepRow]) -> str | None:
    """Why a batch size is not even tried: a CPU's memory that overflows ends the process without a word."""
    if size > trial.num_clips:
        return f"the data set has {trial.num_clips} {trial.recipe.noun}s"
    available = available_memory()
    if trial.machine.device.type != "cpu" or not rows:
        return None
    last = rows[-1]
    wanted = (1e9 * (last.memory_gb or 0.0) - base) * size / last.batch_size
    if wanted > available:
        return f"not tried: it would take about {wanted / 1e9:.3g} GB, and {available / 1e9:.3g} GB are left"
    return None


def _step_row(trial: Trial, size: int, workers: int, seconds: float, work: _Work) -> StepRow:
    found = time_steps(trial, trial.one_batch(size, workers), seconds)
    return StepRow(
        batch_size=size,
        clips_per_second=found.clips_per_second,
        ms_per_step=1000 * found.seconds_per_step,
        memory_gb=found.memory / 1e9,
        flop_share=work.share(found.clips_per_second),
        steps=found.steps,
    )


def _loader_rows(trial: Trial, workers: Sequence[int], seconds: float, log: Log) -> list[LoaderRow]:
    rows: list[LoaderRow] = []
    for count in sorted(set(workers)):
        log(f"loader alone, {count} {'worker' if count == 1 else 'workers'}")
        size = min(trial.recipe.train.batch_size, trial.num_clips)
        found, _ = time_loading(trial, count, batch_size=size, seconds=seconds)
        rows.append(
            LoaderRow(
                workers=count,
                clips_per_second=found.clips_per_second,
                read_ms=1000 * found.read_seconds,
                busy_cpus=found.cpu_seconds / found.seconds,
                clips=found.clips,
            )
        )
    return rows


def _both_row(trial: Trial, settings: Settings, seconds: float, work: _Work, log: Log) -> BothRow:
    size, workers = settings.batch_size, settings.workers
    log(f"both together, batch size {size}, {workers} {'worker' if workers == 1 else 'workers'}")
    try:
        found = time_both(trial, workers, batch_size=size, seconds=seconds)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return BothRow(size, workers, why="out of memory")
    return BothRow(
        batch_size=size,
        workers=workers,
        clips_per_second=found.clips_per_second,
        ms_per_step=1000 * found.seconds_per_step,
        memory_gb=found.memory / 1e9,
        flop_share=work.share(found.clips_per_second),
        data_wait_share=found.waiting,
        steps=found.steps,
    )


def _what_was_read(trial: Trial) -> str:
    bad = len(trial.data.quarantine.reasons)
    told = f"real {trial.recipe.noun}s, without loader.ram_cache_mb; "
    told += f"about {trial.num_read:,} of a data set of {trial.num_clips:,}"
    if trial.num_read > trial.num_clips:
        told += (
            ", so that some were read again, from memory that the system keeps of files: a first epoch may be slower"
        )
    return f"{told}; {bad} were bad" if bad else told
