"""The numbers of the file formats that salt writes. A file with another number is refused, never guessed at."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from salt_toolkit.errors import SaltError

FORMATS: Mapping[str, int] = {"run": 1, "checkpoint": 1, "student": 1, "bench": 1, "demo": 1}
"""The present formats; a number goes up when a reader of the one before would misread the file, or fail."""

_NUMBER, _WRITER = "format", "salt_toolkit"


class FormatError(SaltError):
    """A file in a format that this version of salt does not read."""


def stamp(kind: str) -> dict[str, Any]:
    """What a file of some kind says of itself: its format's number, and the version of salt that wrote it."""
    return {_NUMBER: FORMATS[kind], _WRITER: version("salt-toolkit")}


def stamped(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a JSON file, with its stamp first."""
    return {**stamp(kind), **values}


def check_format(kind: str, values: Mapping[str, Any], path: Path) -> None:
    """Refuses a file in another format.

    Args:
        kind: A key of `FORMATS`.
        values: What the file says, its stamp among it.
        path: Of the file, for the message.

    Raises:
        FormatError: The file's number is another one, or it has none.
    """
    found = values.get(_NUMBER)
    if found == FORMATS[kind]:
        return
    number = "no format number" if found is None else f"the {kind} format {found}"
    writer = values.get(_WRITER)
    raise FormatError(
        f"{path} has {number}, and this salt_toolkit ({version('salt-toolkit')}) reads {kind} format {FORMATS[kind]}",
        f"Use salt_toolkit {writer}, which wrote it, or recreate it." if writer else "Recreate it.",
    )
