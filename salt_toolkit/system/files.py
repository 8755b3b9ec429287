"""Atomic file writes (temporary file, fsync, rename), checksums, and the location of the user's cache."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Same results as zlib's crc32, three times as fast.
from isal.isal_zlib import crc32

from salt_toolkit.errors import RunError, SaltError, SystemFault

CHUNK = 1 << 20


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically: a reader sees the complete file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file; see `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file; a line that a kill truncated is skipped."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        # Not str.splitlines: it also splits at characters that can occur in a clip's id.
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
    return lines


def sync(path: Path) -> None:
    """Flushes a file or a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """The crc32 of a file, as eight hexadecimal digits."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = crc32(chunk, crc)
    return f"{crc:08x}"


def user_cache() -> Path:
    """The directory for files that can be recreated: ``$XDG_CACHE_HOME/salt_toolkit``, or ``~/.cache/salt_toolkit``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt_toolkit"


@contextlib.contextmanager
def writing(
    path: Path, raising: type[SaltError] = RunError, *, then: str = "The same command continues where it stopped."
) -> Iterator[None]:
    """Explains to the user why something cannot be written.

    Args:
        path: The file being written, or its directory.
        raising: The error to raise.
        then: What is preserved, as a sentence; it follows the advice.

    Raises:
        SaltError: Of class ``raising``, with the system's reason and advice.
    """
    try:
        yield
    except OSError as error:
        fault = SystemFault(error, path)
        raise raising(f"{path} cannot be written ({fault.reason})", f"{fault.fix} {then}".strip()) from error
