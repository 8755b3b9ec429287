"""On which line of a TOML text each key was written; tomllib does not say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

Key = tuple[str, ...]

_BARE_OR_QUOTED = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_BARE_OR_QUOTED}(?:\s*\.\s*{_BARE_OR_QUOTED})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")


def key_lines(text: str) -> dict[Key, int]:
    """The line, counted from 1, on which each table and key of a valid TOML text begins.

    tomllib gives no positions. Keys inside an inline table have the line of their statement. No section of a recipe is
    an array of tables: what is in one has the line on which the array begins.
    """
    lines = text.split("\n")  # TOML's only line end; str.splitlines() knows others
    found: dict[Key, int] = {}
    table: Key = ()
    number = 0
    while number < len(lines):
        if header := _HEADER.match(lines[number]):
            table = _split(header[1])
            found.setdefault(table, number + 1)
        elif assignment := _ASSIGNMENT.match(lines[number]):
            length, value = _statement(lines, number)
            for key in _paths(value):
                found.setdefault((*table, *key), number + 1)
            found.setdefault((*table, *_split(assignment[1])), number + 1)
            number += length - 1
        number += 1
    return found


def _split(dotted: str) -> Key:
    """``a."b.c"`` to ``("a", "b.c")``, by TOML's own rules."""
    value: Any = tomllib.loads(f"{dotted} = 0")
    key: list[str] = []
    while isinstance(value, dict):
        ((name, value),) = value.items()
        key.append(name)
    return tuple(key)


def _statement(lines: Sequence[str], start: int) -> tuple[int, dict[str, Any]]:
    """How many lines an assignment takes (arrays and strings may span several), and its value."""
    for end in range(start + 1, len(lines) + 1):
        try:
            return end - start, tomllib.loads("\n".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
    raise AssertionError("key_lines() was given a text that is no TOML")


def _paths(value: Any) -> Iterable[Key]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (name,)
            for rest in _paths(inner):
                yield (name, *rest)
