"""Memory, CPU cores and disk of this machine, in bytes: psutil's figures, limited by the container's (cgroup v2)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def num_cpus() -> int:
    """CPU cores that this process may use."""
    process = psutil.Process()
    # macOS, for one, has no CPU affinity.
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def total_memory() -> int:
    """Memory of the machine, or of the container if that has a limit."""
    total = psutil.virtual_memory().total
    limit = _cgroup("memory.max")
    return total if limit is None else min(total, limit)


def available_memory() -> int:
    """Memory available without swapping, within the container's limit if there is one."""
    available = psutil.virtual_memory().available
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is None or used is None:
        return available
    # A container's usage includes its page cache, which the kernel drops when memory is needed.
    files = _figure(_CGROUP / "memory.stat", "inactive_file") or 0
    return min(available, max(0, limit - used + files))


def resident_memory() -> int:
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """Peak memory of this process, since `forget_peak` if the system supports resetting it."""
    most = _figure(Path("/proc/self/status"), "VmHWM:")
    return _most_ever() if most is None else 1024 * most


def forget_peak() -> None:
    """Resets `peak_memory`; without effect if the system does not support it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def free_disk(path: Path) -> int:
    """Bytes that can be written below a path, which need not exist yet."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def shared_memory() -> tuple[int, int] | None:
    """Size and free bytes of ``/dev/shm``; None where there is none."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return None
    return usage.total, usage.free


def _cgroup(name: str) -> int | None:
    """A figure of this process's container (cgroup v2); None where there is none, or no limit."""
    try:
        text = (_CGROUP / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _figure(path: Path, name: str) -> int | None:
    """The number after a name, in a kernel file with one ``name number`` per line."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(words[1]) for words in lines if words and words[0] == name), None)


def _most_ever() -> int:
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
