"""What `salt check --preflight` measured, as text."""

from __future__ import annotations

from collections.abc import Mapping

from salt_toolkit.check.report import Limit, LoaderFacts, Preflight, SharedMemory, StepFacts

LIMITS: Mapping[Limit, str] = {
    "disk": "reading, which waits for the disk or the network",
    "decode": "reading, which keeps the processors busy: decoding",
    "bus": "copies to the GPU: the bus",
    "compute": "computing",
}

_WORTH_A_WORD = 0.064
"""Gigabytes of ``/dev/shm`` that are worth a line."""


def render_preflight(found: Preflight, disk_gb: float | None, noun: str = "clip") -> list[str]:
    """The lines of the section.

    Args:
        found: What was measured, as far as it came.
        disk_gb: Of checkpoints, by arithmetic.
        noun: What a sample is called.
    """
    if found.skipped is not None:
        return [f"  preflight   nothing was measured: {found.skipped}"]
    loader, step = found.loader, found.step
    rows = [
        ("loader", _loader(loader, noun) if loader else ""),
        ("step", _step(step, found.latents, noun) if step else ""),
        ("copy", f"{step.copy_ms_per_step:.3g} ms a step to the GPU" if step and step.copy_ms_per_step else ""),
        ("host memory", _memory(loader, found.ram_cache_mb) if loader else ""),
        ("/dev/shm", _shared(found.shared_memory) if found.shared_memory else ""),
        ("disk", _disk(found.disk_free_gb, disk_gb)),
        (f"bad {noun}s", _bad_clips(found)),
        ("run", _run(step, noun) if step else ""),
        ("limited by", LIMITS[step.limited_by] if step else ""),
    ]
    read = f"{found.batches} batches read, then steps over the last of them" if loader else "nothing read"
    lines = [f"  preflight   measured on {found.device}: {read}"]
    lines += [f"    {name:<11} {text}" for name, text in rows if text]
    return lines + [f"                -> {way}" for way in (step.advice if step else ())]


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``5.4 h``, ``3.1 days``."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72)):
        if seconds < most * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.3g} days"


def _loader(loader: LoaderFacts, noun: str) -> str:
    workers = f"{loader.workers} {'worker' if loader.workers == 1 else 'workers'}"
    return (
        f"{rate(loader.clips_per_second, noun)} with {workers}, {loader.read_ms:.3g} ms a {noun}, "
        f"{loader.busy_cpus:.1f} of {loader.cpus} processors busy"
    )


def _step(step: StepFacts, latents: str | None, noun: str) -> str:
    return (
        f"{rate(step.clips_per_second, noun)}, {step.ms_per_step:.3g} ms a step, latents {latents}; "
        f"{step.timed_steps} steps; at most {step.memory_gb:.2g} GB"
    )


def _memory(loader: LoaderFacts, ram_cache_mb: int) -> str:
    kept = f" and {ram_cache_mb / 1000:.3g} GB of loader.ram_cache_mb" if ram_cache_mb else ""
    return (
        f"{loader.memory_gb:.2g} GB of batches{kept}; reading took {loader.grown_gb:.2g} GB; "
        f"{loader.available_gb:.3g} GB were available"
    )


def _shared(memory: SharedMemory) -> str:
    """Threads read, and need none of it: only worth a word where something took it all the same."""
    if memory.taken_gb < _WORTH_A_WORD:
        return ""
    return f"{memory.taken_gb:.2g} GB of {memory.size_gb:.2g} GB were taken meanwhile, not by the loader"


def _disk(free_gb: float | None, disk_gb: float | None) -> str:
    if free_gb is None:
        return ""
    wanted = f"{disk_gb:.2g} GB for checkpoints, " if disk_gb is not None else ""
    return f"{wanted}{free_gb:.3g} GB free"


def _bad_clips(found: Preflight) -> str:
    if found.bad_clips is None or found.loader is None:
        return ""
    return f"{len(found.bad_clips)} of {found.loader.clips:,} read" if found.bad_clips else "none"


def _run(step: StepFacts, noun: str) -> str:
    kept = step.ram_cache_share
    memory = f"; after the first pass {kept:.0%} of the {noun}s come from memory" if kept else ""
    return f"{step.steps:,} steps in about {duration(3600 * step.hours)}{memory}"


def rate(per_second: float, noun: str = "clip") -> str:
    """``310 clips/s``, ``2.4 clips/s``."""
    return f"{per_second:,.0f} {noun}s/s" if per_second >= 100 else f"{per_second:.3g} {noun}s/s"
