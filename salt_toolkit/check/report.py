"""What `salt check` says of a recipe, as typed values: its text and its JSON are made from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from salt_toolkit.check.findings import Finding, Severity

Limit = Literal["disk", "decode", "bus", "compute"]
"""What holds a run up: reading from disk, decoding, copies to the GPU, or the device itself."""


@dataclass(frozen=True)
class TeacherFacts:
    """One teacher; None where the recipe or this machine does not tell.

    Attributes:
        name: Its name in the recipe.
        weight: Of its loss.
        use: The component.
        grid: Of its latents, for people.
        dim: Numbers in one latent.
        streams: All its outputs, for people, by their names.
        parameters: How many it has.
        gflops_per_clip: Of a forward pass.
        fingerprint: Of what decides its latents.
        licence: Of its weights.
        labels: What labels its weights were trained with.
        resampled: Whether its latents are brought to the student's grid.
    """

    name: str
    weight: float
    use: str
    grid: str | None
    dim: int | None
    streams: dict[str, str] | None
    parameters: int | None
    gflops_per_clip: float | None
    fingerprint: str | None
    licence: str | None
    labels: str | None
    resampled: bool | None


@dataclass(frozen=True)
class Timings:
    """Seconds for one optimizer step's clips, each measured alone.

    Attributes:
        loader: Until they are read.
        loader_cpu: Processor time of that, over all threads.
        step: The step, its clips on the device.
        step_cpu: Processor time of that, over all threads.
        copy: From the host to a GPU; 0 without one.
        workers: Threads that read.
        cpus: Processors.
    """

    loader: float
    loader_cpu: float
    step: float
    step_cpu: float
    copy: float
    workers: int
    cpus: int

    @property
    def per_step(self) -> float:
        """Seconds of a step in a run: what is slowest, and never less than the processors need for all of it."""
        return max(self.loader, self.step, self.copy, (self.loader_cpu + self.step_cpu) / self.cpus)

    @property
    def busy(self) -> float:
        """Share of the processors which readers could use that they did use."""
        return self.loader_cpu / self.loader / min(self.workers, self.cpus)


@dataclass(frozen=True)
class LoaderFacts:
    """The loader alone.

    Attributes:
        clips: Clips that were read.
        workers: Threads that read.
        clips_per_second: Their rate.
        read_ms: Milliseconds of one clip in one thread.
        busy_cpus: Processors kept busy.
        cpus: Processors that there are.
        clip_mb: Megabytes of one clip in a batch.
        memory_gb: Gigabytes of the batches that the loader holds.
        grown_gb: Gigabytes by which this process grew while it read.
        available_gb: Gigabytes that were available before.
    """

    clips: int
    workers: int
    clips_per_second: float
    read_ms: float
    busy_cpus: float
    cpus: int
    clip_mb: float
    memory_gb: float
    grown_gb: float
    available_gb: float


@dataclass(frozen=True)
class SharedMemory:
    """``/dev/shm``, in gigabytes: its size, what was free after reading, and what was taken meanwhile."""

    size_gb: float
    free_gb: float
    taken_gb: float


@dataclass(frozen=True)
class StepFacts:
    """The training step alone, and what it means for the whole run.

    Attributes:
        clips_per_second: Rate of the steps.
        ms_per_step: Milliseconds of one optimizer step.
        loader_ms_per_step: Milliseconds in which the loader reads the clips of one.
        copy_ms_per_step: Milliseconds in which they are copied to the GPU; 0 without one.
        timed_steps: Steps that were timed.
        memory_gb: Most memory that was taken.
        steps: Of the whole run.
        hours: Of the whole run.
        ram_cache_share: Share of the clips that come from memory after the first pass.
        limited_by: What holds the run up.
        advice: What to change, what helps most first.
        timings: What all this was computed from.
    """

    clips_per_second: float
    ms_per_step: float
    loader_ms_per_step: float
    copy_ms_per_step: float
    timed_steps: int
    memory_gb: float
    steps: int
    hours: float
    ram_cache_share: float
    limited_by: Limit
    advice: Sequence[str]
    timings: Timings


@dataclass(frozen=True)
class BadClipFacts:
    """A clip that could not be used, and why."""

    clip_id: str
    reason: str


@dataclass
class Preflight:
    """What `salt check --preflight` measured, as far as it came; None for what it did not come to.

    Attributes:
        device: Of the measurement, for people.
        batches: Batches to read.
        skipped: Why nothing was measured.
        disk_free_gb: Room on the disk of ``run.dir``.
        ram_cache_mb: The recipe's ``loader.ram_cache_mb``.
        latents: Where they come from, for people.
        loader: The loader alone.
        shared_memory: ``/dev/shm``, where there is one.
        step: The training step alone.
        bad_clips: Clips that were read and cannot be used.
    """

    device: str
    batches: int
    skipped: str | None = None
    disk_free_gb: float | None = None
    ram_cache_mb: int = 0
    latents: str | None = None
    loader: LoaderFacts | None = None
    shared_memory: SharedMemory | None = None
    step: StepFacts | None = None
    bad_clips: list[BadClipFacts] | None = None


@dataclass
class Facts:
    """What arithmetic knows of a recipe; None where a part does not say, or it is unknown on this machine.

    Attributes:
        noun: What texts call a sample; clips: how many the data set has.
        batch_clips: Clips of an optimizer step.
        steps: Optimizer steps of the run.
        epochs: Passes over the data set.
        mask_ratios: Least, mean and largest of a scheduled mask ratio.
        grid: Of the student's tokens, for people.
        tokens: Tokens of a clip.
        visible_tokens: Those that the student sees.
        target_tokens: Those whose latents are predicted.
        drawn_target_tokens: Those that the masker hides.
        student_dim: Numbers in a token of the student.
        teacher_dim: Numbers in all teachers' latents of one token.
        passes_per_clip: Masks of each clip.
        teachers: Each teacher.
        teacher_parameters: Of all teachers.
        student_parameters: Of the student.
        predictor_parameters: Of the predictor.
        teacher_gflops_per_clip: Forward pass of all teachers.
        student_gflops_per_clip: Forward passes of the student.
        predictor_gflops_per_clip: Forward passes of the predictor.
        train_step_gflops_per_clip: Forward and backward of student and predictor.
        run_pflops: Of the whole run.
        device_memory_gb: On the device.
        host_memory_gb: Of clips on the host.
        disk_gb: Of checkpoints.
        cache_gb: Of the latent cache.
        preflight: What was measured here.
    """

    noun: str = "clip"
    clips: int | None = None
    batch_clips: int | None = None
    steps: int | None = None
    epochs: float | None = None
    mask_ratios: tuple[float, float, float] | None = None
    grid: str | None = None
    tokens: int | None = None
    visible_tokens: int | None = None
    target_tokens: int | None = None
    drawn_target_tokens: int | None = None
    student_dim: int | None = None
    teacher_dim: int | None = None
    passes_per_clip: int | None = None
    teachers: list[TeacherFacts] = field(default_factory=list)
    teacher_parameters: int | None = None
    student_parameters: int | None = None
    predictor_parameters: int | None = None
    teacher_gflops_per_clip: float | None = None
    student_gflops_per_clip: float | None = None
    predictor_gflops_per_clip: float | None = None
    train_step_gflops_per_clip: float | None = None
    run_pflops: float | None = None
    device_memory_gb: float | None = None
    host_memory_gb: float | None = None
    disk_gb: float | None = None
    cache_gb: float | None = None
    preflight: Preflight | None = None


@dataclass
class Report:
    """What `check_recipe` found out.

    Attributes:
        findings: In the order of the recipe.
        facts: What is known of it; all None for a recipe that cannot be read.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)

    def has(self, *severities: Severity) -> bool:
        """Whether there is a finding of one of these severities."""
        return any(finding.severity in severities for finding in self.findings)


@dataclass(frozen=True)
class PrintedReport:
    """A line of ``salt check --json``.

    Attributes:
        recipe: The recipe's path.
        ok: Whether it can work, on a machine that has what is missing here.
        facts: What is known of it.
        findings: What to know before the run.
    """

    recipe: str
    ok: bool
    facts: Facts
    findings: list[Finding]


def plain_report(path: Path, report: Report) -> dict[str, Any]:
    """The report of one recipe in plain values, as `report_schema` describes them."""
    from pydantic import TypeAdapter

    printed = PrintedReport(str(path), not report.has("error"), report.facts, report.findings)
    return TypeAdapter(PrintedReport).dump_python(printed, mode="json")


def report_schema() -> dict[str, Any]:
    """The JSON Schema of a line of ``salt check --json``."""
    from pydantic import TypeAdapter

    return TypeAdapter(PrintedReport).json_schema(mode="serialization")
