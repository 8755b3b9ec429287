"""From TOML files and ``--set`` overrides to one table of plain values, each with its origin."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salt_toolkit.errors import Problem, RecipeError

Key = tuple[str, ...]
Table = dict[str, Any]

OVERRIDE = "--set"
"""What stands in place of a file name for values from the command line."""

ALTERNATIVES: tuple[frozenset[Key], ...] = (frozenset({("train", "epochs"), ("train", "max_steps")}),)
"""Keys that say the same thing in different ways: a layer that gives one takes the others of lower layers away."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and a line counted from 1 (None for an override)."""

    file: str
    line: int | None = None


@dataclass
class Source:
    """Values merged from a file, what it extends, and overrides; with the origin of every key."""

    values: Table = field(default_factory=dict)
    origins: dict[Key, Origin] = field(default_factory=dict)

    def origin(self, key: Key) -> Origin:
        """The origin of a key, else of something in it, else of the closest table around it."""
        if key and key not in self.origins:
            inside = [origin for known, origin in self.origins.items() if known[: len(key)] == key]
            if inside:
                return inside[0]
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return self.origins[key[:length]]
        return self.origins.get((), Origin(""))

    def problem(self, key: Key, message: str) -> Problem:
        """A problem with a key, placed where the key was written."""
        origin = self.origin(key)
        return Problem(".".join(key), message, origin.file, origin.line)

    def merge(self, values: Mapping[str, Any], origins: Mapping[Key, Origin]) -> None:
        """Lays further values over these: tables merge, anything else is replaced.

        A table that names another component (``use``) starts afresh, since the settings of the
        component that it replaces mean nothing to it.
        """
        for keys in ALTERNATIVES:
            if any(_holds(values, key) for key in keys):
                for key in keys:
                    self._remove(key)
        self._merge_table(self.values, values, ())
        self.origins.update(origins)

    def _merge_table(self, base: Table, over: Mapping[str, Any], prefix: Key) -> None:
        for name, value in over.items():
            key = (*prefix, name)
            old = base.get(name)
            if not (isinstance(old, dict) and isinstance(value, Mapping)):
                self._forget(key)
                base[name] = dict(value) if isinstance(value, Mapping) else value
            elif "use" in value and "use" in old and value["use"] != old["use"]:
                self._forget(key)
                base[name] = dict(value)
            else:
                self._merge_table(old, value, key)

    def _remove(self, key: Key) -> None:
        table: Any = self.values
        for part in key[:-1]:
            table = table.get(part, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict):
            table.pop(key[-1], None)
        self._forget(key)

    def _forget(self, key: Key) -> None:
        for known in [known for known in self.origins if known[: len(key)] == key]:
            del self.origins[known]


def _holds(values: Any, key: Key) -> bool:
    for part in key:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


@dataclass(frozen=True)
class Override:
    """One ``--set key=value``.

    Attributes:
        key: The dotted key, split.
        value: The text read as TOML (``3``, ``true``, ``[1, 2]``), or the bare text where it is none.
        text: The text itself, for keys that the recipe types as strings.
    """

    key: Key
    value: Any
    text: str

    @classmethod
    def parse(cls, argument: str) -> Override:
        """Reads ``masker.ratio=0.9``.

        Raises:
            RecipeError: There is no ``=``, or the key is not dotted names.
        """
        dotted, equals, text = argument.partition("=")
        key = tuple(part.strip() for part in dotted.split("."))
        if not equals or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in key):
            message = f"found {argument!r}; expected key=value, such as masker.ratio=0.9"
            raise RecipeError([Problem("", message, OVERRIDE)])
        text = text.strip()
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        return cls(key, value, text)

    def as_table(self, value: Any) -> Table:
        """The nested table that sets just this key."""
        for part in reversed(self.key):
            value = {part: value}
        return value


def read_source(path: Path, overrides: Iterable[Override] = ()) -> Source:
    """Reads a recipe, the recipes that it extends (first), and the overrides (last).

    Args:
        path: The recipe; a relative path counts from the working directory.
        overrides: From the command line, in their order.

    Raises:
        RecipeError: A file is missing or no TOML, or the files extend one another in a circle.
    """
    source = Source()
    for file, values, origins in _chain(path, ()):
        source.merge(values, origins)
        source.origins[()] = Origin(file)
    lay_over(source, [(override, override.value) for override in overrides])
    return source


def lay_over(source: Source, settings: Iterable[tuple[Override, Any]]) -> None:
    """Lays overrides over a source, together, so that their order among themselves says nothing."""
    together = Source()
    for override, value in settings:
        together.merge(override.as_table(value), {override.key: Origin(OVERRIDE)})
    source.merge(together.values, together.origins)


def _chain(path: Path, above: Sequence[Path]) -> list[tuple[str, Table, dict[Key, Origin]]]:
    """The files of a recipe from the most basic to the recipe itself."""
    resolved = path.resolve()
    if resolved in above:
        circle = " -> ".join(str(link.name) for link in (*above, resolved))
        raise RecipeError([Problem("extends", f"the recipes extend one another in a circle: {circle}", str(path))])
    text = _read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([_syntax_problem(path, error)]) from error
    origins = {key: Origin(str(path), line) for key, line in key_lines(text).items()}
    base = values.pop("extends", None)
    if base is None:
        return [(str(path), values, origins)]
    if not isinstance(base, str):
        problem = Problem("extends", f"found {base!r}; expected one file name", str(path), origins[("extends",)].line)
        raise RecipeError([problem])
    base_path = path.parent / base
    if not base_path.is_file():
        message = f"extends {base!r}, which does not exist (looked for {base_path}; it counts from this file's folder)"
        raise RecipeError([Problem("extends", message, str(path), origins[("extends",)].line)])
    return [*_chain(base_path, (*above, resolved)), (str(path), values, origins)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError([Problem("", "there is no such recipe; check the path", str(path))]) from None
    except IsADirectoryError:
        raise RecipeError([Problem("", "is a directory; name a .toml file in it", str(path))]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Problem("", f"cannot be read as a text file: {error}", str(path))]) from error


def _syntax_problem(path: Path, error: tomllib.TOMLDecodeError) -> Problem:
    place = re.search(r"\(at line (\d+), column \d+\)", str(error))
    message = re.sub(r" \(at .*\)$", "", str(error))
    return Problem("", f"is not valid TOML: {message}", str(path), int(place[1]) if place else None)


_BARE_OR_QUOTED = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_BARE_OR_QUOTED}(?:\s*\.\s*{_BARE_OR_QUOTED})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]\]?")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")


def key_lines(text: str) -> dict[Key, int]:
    """The line, counted from 1, on which each table and key of a valid TOML text begins.

    tomllib gives no positions. Keys inside an inline table have the line of their statement; those
    of the n-th table of an array have n (from 0) in their path.
    """
    lines = text.split("\n")  # TOML's only line end; str.splitlines() knows others
    found: dict[Key, int] = {}
    arrays: dict[Key, int] = {}
    table: Key = ()
    number = 0
    while number < len(lines):
        if header := _HEADER.match(lines[number]):
            table = _split(header[2])
            if header[1] == "[[":
                arrays[table] = arrays.get(table, -1) + 1
                table = (*table, str(arrays[table]))
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


def _statement(lines: Sequence[str], start: int) -> tuple[int, Table]:
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
