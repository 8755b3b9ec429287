"""Files that are whole or not there: written beside, synced, renamed; and where those of the user's cache lie."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The same numbers as zlib's, three times as fast.
from isal.isal_zlib import crc32

from salt_toolkit.errors import RunError, SaltError, SystemFault

CHUNK = 1 << 20


def write_text(path: Path, text: str) -> None:
    """Writes a text file that a reader finds either whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file; see `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object a line; a line that a kill cut short is left out."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        # Only the line feed ends a line here; str.splitlines knows others, which may stand in a clip's id.
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(text))
    return lines


def sync(path: Path) -> None:
    """Waits until a file's or directory's entry is on the disk."""
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
    """The directory of what can be had again: ``$XDG_CACHE_HOME/salt_toolkit``, or ``~/.cache/salt_toolkit``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salt_toolkit"


@contextlib.contextmanager
def writing(
    path: Path, raising: type[SaltError] = RunError, *, then: str = "The same command goes on where it stopped."
) -> Iterator[None]:
    """Says in the user's words why something cannot be written.

    Args:
        path: What is written, or the directory that it is written to.
        raising: The error to raise.
        then: What is not lost, as a sentence; it follows what to do.

    Raises:
        SaltError: Of the class ``raising``: with the system's reason, and what to do.
    """
    try:
        yield
    except OSError as error:
        fault = SystemFault(error, path)
        raise raising(f"{path} cannot be written ({fault.reason})", f"{fault.fix} {then}".strip()) from error
