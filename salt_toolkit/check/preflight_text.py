"""What `salt check --preflight` measured, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIMITS = {
    "disk": "reading, which waits for the disk or the network",
    "decode": "reading, which keeps the processors busy: decoding",
    "bus": "copies to the GPU: the bus",
    "compute": "computing",
}

_WORTH_A_WORD = 0.064
"""Gigabytes of ``/dev/shm`` that are worth a line."""


def render_preflight(facts: Mapping[str, Any], disk_gb: float | None) -> list[str]:
    """The lines of the section.

    Args:
        facts: ``Report.facts["preflight"]``, as far as the measurement came.
        disk_gb: Of checkpoints, by arithmetic.
    """
    if "skipped" in facts:
        return [f"  preflight   nothing was measured: {facts['skipped']}"]
    rows = [
        ("loader", _loader(facts)),
        ("step", _step(facts)),
        ("copy", f"{facts['copy_ms_per_step']:.3g} ms a step to the GPU" if facts.get("copy_ms_per_step") else ""),
        ("host memory", _memory(facts)),
        ("/dev/shm", _shared(facts)),
        ("disk", _disk(facts, disk_gb)),
        ("bad clips", _bad_clips(facts)),
        ("run", _run(facts)),
        ("limited by", LIMITS[facts["limited_by"]] if "limited_by" in facts else ""),
    ]
    read = f"{facts['batches']} batches read, then steps over the last of them" if "clips" in facts else "nothing read"
    lines = [f"  preflight   measured on {facts['device']}: {read}"]
    lines += [f"    {name:<11} {text}" for name, text in rows if text]
    return lines + [f"                -> {way}" for way in facts.get("advice", ())]


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``5.4 h``, ``3.1 days``."""
    for unit, size, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 72)):
        if seconds < most * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:.3g} days"


def _loader(facts: Mapping[str, Any]) -> str:
    if "loader_clips_per_second" not in facts:
        return ""
    count = facts["workers"]
    return (
        f"{rate(facts['loader_clips_per_second'])} with {count} {'worker' if count == 1 else 'workers'}, "
        f"{facts['read_ms']:.3g} ms a clip, {facts['loader_busy_cpus']:.1f} of {facts['cpus']} processors busy"
    )


def _step(facts: Mapping[str, Any]) -> str:
    if "step_clips_per_second" not in facts:
        return ""
    return (
        f"{rate(facts['step_clips_per_second'])}, {facts['ms_per_step']:.3g} ms a step, latents {facts['latents']}; "
        f"{facts['timed_steps']} steps; at most {facts['step_memory_gb']:.2g} GB"
    )


def _memory(facts: Mapping[str, Any]) -> str:
    if "loader_memory_gb" not in facts:
        return ""
    kept = f" and {facts['ram_cache_mb'] / 1000:.3g} GB of loader.ram_cache_mb" if facts["ram_cache_mb"] else ""
    available = facts["memory_available_gb"]
    there = f"; {available:.3g} GB were available" if available is not None else ""
    return f"{facts['loader_memory_gb']:.2g} GB of batches{kept}; reading took {facts['memory_grown_gb']:.2g} GB{there}"


def _shared(facts: Mapping[str, Any]) -> str:
    """Threads read, and need none of it: only worth a word where something took it all the same."""
    if facts.get("shm_taken_gb", 0.0) < _WORTH_A_WORD:
        return ""
    return f"{facts['shm_taken_gb']:.2g} GB of {facts['shm_gb']:.2g} GB were taken meanwhile, not by the loader"


def _disk(facts: Mapping[str, Any], disk_gb: float | None) -> str:
    wanted = f"{disk_gb:.2g} GB for checkpoints, " if disk_gb is not None else ""
    return f"{wanted}{facts['disk_free_gb']:.3g} GB free"


def _bad_clips(facts: Mapping[str, Any]) -> str:
    if "bad_clips" not in facts or "clips" not in facts:
        return ""
    return f"{len(facts['bad_clips'])} of {facts['clips']:,} read" if facts["bad_clips"] else "none"


def _run(facts: Mapping[str, Any]) -> str:
    if "hours" not in facts:
        return ""
    kept = facts["ram_cache_share"]
    memory = f"; after the first pass {kept:.0%} of the clips come from memory" if kept else ""
    return f"{facts['steps']:,} steps in about {duration(3600 * facts['hours'])}{memory}"


def rate(clips_per_second: float) -> str:
    """``310 clips/s``, ``2.4 clips/s``."""
    return f"{clips_per_second:,.0f} clips/s" if clips_per_second >= 100 else f"{clips_per_second:.3g} clips/s"
