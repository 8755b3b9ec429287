"""What this machine has of memory, processors and disk; bytes, by the standard library alone."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def num_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory() -> int | None:
    """Memory of the machine, or of the container if that has a limit; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def available_memory() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def resident_memory() -> int:
    """Memory that this process has now; on systems without ``/proc``, the most it ever had."""
    return _status("VmRSS") or _most_ever()


def peak_memory() -> int:
    """The most memory that this process has had, since `forget_peak` where the system can forget."""
    return _status("VmHWM") or _most_ever()


def forget_peak() -> None:
    """Begins `peak_memory` anew; without effect where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def free_disk(path: Path) -> int:
    """Bytes that can be written below a path, which need not be there yet."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def shared_memory() -> tuple[int, int] | None:
    """Size and free bytes of ``/dev/shm``; None where there is none."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return None
    return usage.total, usage.free


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _most_ever() -> int:
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
