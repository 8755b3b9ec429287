"""A look before the run: real batches and real steps, how long the run will take, and what limits it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from salt_toolkit.check.estimates import TrainedCosts, checkpoint_disk
from salt_toolkit.check.findings import Finding, findings_of
from salt_toolkit.check.report import (
    BadClipFacts,
    Facts,
    LoaderFacts,
    Preflight,
    Report,
    SharedMemory,
    StepFacts,
    Timings,
)
from salt_toolkit.contracts import ClipBatch
from salt_toolkit.errors import CacheError
from salt_toolkit.geometry import Cost
from salt_toolkit.measure.throughput import LoadTime, StepTime, time_copy, time_loading, time_steps
from salt_toolkit.measure.trial import Trial, is_out_of_memory
from salt_toolkit.measure.verdict import Length, Setting, advice, limit_of
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.directory import RunDirectory
from salt_toolkit.runs.machine import Machine
from salt_toolkit.streams import CLIP
from salt_toolkit.system.host import available_memory, free_disk, num_cpus, resident_memory, shared_memory

STEP_SECONDS = 2.0
MIN_STEPS = 3
SMALL_SHARED_MEMORY = 1e9
"""Bytes of ``/dev/shm`` below which several GPUs cannot talk through it."""

Log = Callable[[str], None]


def preflight(recipe: Recipe, report: Report, *, num_batches: int = 8, log: Log = lambda message: None) -> None:
    """Reads real batches, trains a few real steps, and adds what it found to `salt check`'s report.

    The facts go to ``report.facts.preflight``, as far as it came. Nothing stays on the disk.

    Args:
        recipe: A valid recipe.
        report: Of `check_recipe`, for the same recipe.
        num_batches: Batches to read, at least 2.
        log: Called with a line about what is being done.
    """
    machine = Machine.here(recipe)
    found = report.facts.preflight = Preflight(machine.describe(), num_batches, ram_cache_mb=recipe.loader.ram_cache_mb)
    if report.has("error"):
        found.skipped = "the recipe cannot work as it is"
        return
    _look_at_disk(recipe, report, found)
    with _findings(report, "dataset"):
        trial = Trial(recipe, machine, log)
        try:
            _measure(trial, report, found, num_batches, log)
        finally:
            _tell_bad_clips(trial, report, found)


def _measure(trial: Trial, report: Report, found: Preflight, num_batches: int, log: Log) -> None:
    """Loader and steps, each alone; what does not work becomes a finding."""
    recipe = trial.recipe
    found.latents = "from the cache" if trial.data.cache is not None else "from the live teacher"
    log("building the method")
    with _findings(report, "method"):
        _ = trial.method
    log(f"reading {num_batches} batches of {recipe.train.batch_size} {recipe.noun}s")
    loading, batch = _load(trial, report, found, num_batches)
    if report.has("error", "missing") and "method" not in trial.__dict__:
        return
    log("training a few steps on one of them")
    with _findings(report, "train"):
        stepping = time_steps(trial, batch, STEP_SECONDS, min_steps=MIN_STEPS)
        _conclude(trial, report, found, loading, stepping, batch)


def _load(trial: Trial, report: Report, found: Preflight, num_batches: int) -> tuple[LoadTime, ClipBatch]:
    before, shm_before, available = resident_memory(), shared_memory(), available_memory()
    loader, size = trial.recipe.loader, trial.recipe.train.batch_size
    loading, batch = time_loading(trial, loader.workers, batch_size=size, num_batches=num_batches)
    batch_bytes = sum(tensor.nbytes for tensor in batch.tensors.values())
    # Of the settings that were asked for: the trial itself keeps nothing in memory.
    ring = (2 * loader.prefetch + 2) * batch_bytes
    facts = found.loader = LoaderFacts(
        clips=num_batches * size,
        workers=loader.workers,
        clips_per_second=loading.clips_per_second,
        read_ms=1000 * loading.read_seconds,
        busy_cpus=loading.cpu_seconds / loading.seconds,
        cpus=num_cpus(),
        clip_mb=batch_bytes / size / 1e6,
        memory_gb=ring / 1e9,
        grown_gb=(resident_memory() - before) / 1e9,
        available_gb=available / 1e9,
    )
    _look_at_memory(report, facts, found.ram_cache_mb)
    _look_at_shared_memory(report, found, shm_before)
    return loading, batch


def _conclude(
    trial: Trial, report: Report, found: Preflight, loading: LoadTime, stepping: StepTime, batch: ClipBatch
) -> None:
    """What the timings mean for the whole run."""
    recipe, machine = trial.recipe, trial.machine
    loads = stepping.clips / loading.clips
    accumulate = recipe.train.accumulate
    timings = Timings(
        loader=loads * loading.seconds,
        loader_cpu=loads * loading.cpu_seconds,
        step=stepping.seconds_per_step,
        step_cpu=stepping.cpu_seconds / stepping.steps,
        copy=accumulate * time_copy(machine, batch),
        workers=loading.workers,
        cpus=num_cpus(),
    )
    length = _length(trial, found.ram_cache_mb, sum(tensor.nbytes for tensor in batch.tensors.values()))
    typical = length.typical(timings)
    limit = limit_of(typical)
    found.step = StepFacts(
        clips_per_second=stepping.clips_per_second,
        ms_per_step=1000 * timings.step,
        loader_ms_per_step=1000 * timings.loader,
        copy_ms_per_step=1000 * timings.copy,
        timed_steps=stepping.steps,
        memory_gb=stepping.memory / 1e9,
        steps=length.steps,
        hours=length.seconds(timings) / 3600,
        ram_cache_share=length.kept,
        limited_by=limit,
        advice=advice(limit, typical, _setting(trial, report.facts, found)),
        timings=timings,
    )
    if stepping.num_skipped:
        message = f"loss or gradient is not finite in {stepping.num_skipped} of {stepping.steps} steps"
        fix = 'Try train.precision = "fp32"; look at the teacher\'s checkpoint, and at target_norm.'
        report.findings.append(Finding("error", "train", message, fix))


def _length(trial: Trial, ram_cache_mb: int, batch_bytes: int) -> Length:
    """The run's length, and what memory will keep of its clips; the trial itself keeps nothing."""
    recipe = trial.recipe
    different = trial.num_clips * recipe.views
    kept = min(1.0, 1e6 * ram_cache_mb / (different * batch_bytes / recipe.train.batch_size))
    steps = trial.total_steps
    reading = different // (recipe.train.batch_size * recipe.train.accumulate) if kept else steps
    return Length(steps, reading, kept)


def _setting(trial: Trial, facts: Facts, found: Preflight) -> Setting:
    recipe, machine, cache = trial.recipe, trial.machine, trial.data.cache
    on_gpu = machine.device.type == "cuda"
    step = facts.train_step_gflops_per_clip
    teacher = facts.teacher_gflops_per_clip if cache is None else None
    return Setting(
        on_gpu=on_gpu,
        could_bf16=on_gpu and not machine.bf16 and torch.cuda.is_bf16_supported(including_emulation=False),
        compiles=recipe.train.compile != "none",
        teacher_share=teacher / (teacher + step) if teacher and step else 0.0,
        cached_latents=cache is not None,
        cached_frames=cache is not None and CLIP in cache.streams,
        caches_ram=bool(found.ram_cache_mb),
    )


def _look_at_disk(recipe: Recipe, report: Report, found: Preflight) -> None:
    folder = Path(recipe.run.dir).absolute()
    there = _nearest(RunDirectory.of(recipe).path.absolute())
    free = found.disk_free_gb = free_disk(there) / 1e9
    why = _cannot_write(there)
    if why:
        message = f"the run cannot write to {folder}: a file in {there} cannot be made ({why})"
        fix = "Choose another directory with run.dir, or see to its permissions."
        report.findings.append(Finding("error", "run.dir", message, fix))
        return
    wanted = report.facts.disk_gb
    if wanted is None or wanted <= free:
        return
    least = _least_disk(recipe, report.facts) / 1e9
    if least > free:
        what = f"one checkpoint and the finished student will take {least:.3g} GB"
        severity, fix = "error", "Make room, or choose another disk with run.dir."
    else:
        what = f"checkpoints will take {wanted:.3g} GB"
        severity, fix = "warning", "Make room, choose another disk, or lower train.keep_checkpoints."
    report.findings.append(Finding(severity, "run.dir", f"{what}, and {folder} has room for {free:.3g} GB", fix))


def _nearest(path: Path) -> Path:
    """The path, or the nearest of its parents that is there; what may not be looked into counts as not there."""
    return next(parent for parent in (path, *path.parents) if os.path.exists(parent))


def _cannot_write(directory: Path) -> str | None:
    """Why no file can be made in a directory; None where one could, of which nothing is left."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError as error:
        return error.strerror


def _least_disk(recipe: Recipe, facts: Facts) -> int:
    """Bytes of a single checkpoint and of the finished student, below which no run can end."""
    student, predictor = (Cost(number or 0, 0) for number in (facts.student_parameters, facts.predictor_parameters))
    # As if no older checkpoint were kept: the arithmetic adds the one that is being written.
    alone = replace(recipe, train=recipe.train.model_copy(update={"keep_checkpoints": 0, "keep_every": None}))
    return checkpoint_disk(alone, TrainedCosts(student, predictor, None), None)


def _look_at_memory(report: Report, loader: LoaderFacts, ram_cache_mb: int) -> None:
    wanted, available = loader.memory_gb + ram_cache_mb / 1e3, loader.available_gb
    if wanted > available:
        message = f"the loader will hold {wanted:.3g} GB, and {available:.3g} GB of memory were available"
        fix = "Lower loader.ram_cache_mb, loader.prefetch or train.batch_size, or end other programs."
        report.findings.append(Finding("warning", "loader", message, fix))


def _look_at_shared_memory(report: Report, found: Preflight, before: tuple[int, int] | None) -> None:
    after = shared_memory()
    if before is None or after is None:
        return
    taken = max(0, before[1] - after[1])
    found.shared_memory = SharedMemory(size_gb=after[0] / 1e9, free_gb=after[1] / 1e9, taken_gb=taken / 1e9)
    if torch.cuda.device_count() > 1 and after[1] < SMALL_SHARED_MEMORY:
        message = f"/dev/shm has {after[1] / 1e6:.0f} MB left, and several GPUs talk through it"
        report.findings.append(Finding("warning", "", message, "Give the container more, such as --shm-size=8g."))


def _tell_bad_clips(trial: Trial, report: Report, found: Preflight) -> None:
    bad = trial.data.quarantine.reasons
    found.bad_clips = [BadClipFacts(clip_id, reason) for clip_id, reason in bad.items()]
    if bad:
        clip_id, reason = next(iter(bad.items()))
        noun = trial.recipe.noun
        count = f"1 {noun} that was read is bad" if len(bad) == 1 else f"{len(bad)} {noun}s that were read are bad"
        fix = f"Fix or remove them; the run replaces each with another {noun}."
        report.findings.append(Finding("warning", "dataset", f"{count}; {clip_id}: {reason}", fix))


@contextmanager
def _findings(report: Report, key: str) -> Iterator[None]:
    """Turns what goes wrong into findings."""
    try:
        yield
    except BaseException as error:
        if is_out_of_memory(error):
            fix = "Lower train.batch_size, and raise train.accumulate as much; or take a smaller predictor."
            found = [Finding("error", "train.batch_size", "a batch does not fit into memory", fix)]
        else:
            found = findings_of("cache" if isinstance(error, CacheError) else key, error, whole_recipe=True)
    else:
        return
    told = {finding.message for finding in report.findings}
    report.findings += [finding for finding in found if finding.message not in told]
