"""From TOML files and ``--set`` overrides to one table of plain values."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salt_toolkit.errors import Problem, RecipeError
from salt_toolkit.kinds import KINDS, Kind
from salt_toolkit.recipe.layers import EXTENDS, OVERRIDE, REMOVE, Origin, Source, Table
from salt_toolkit.recipe.lines import Key, key_lines

DEEPEST = 50
"""How many tables and arrays may lie in one another; every key that there is takes far fewer."""

_NAME = r"[A-Za-z0-9_-]+"
DOTTED = rf"{_NAME}(\.{_NAME})*"
"""A dotted key, as ``remove`` lists them."""


@dataclass(frozen=True)
class Override:
    """One ``--set key=value``; or ``--set key=``, which takes the key away.

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
        if not equals or len(key) > DEEPEST or not all(re.fullmatch(_NAME, part) for part in key):
            message = f"found {argument!r}; expected key=value, such as masker.ratio=0.9"
            raise RecipeError([Problem("", message, OVERRIDE, kind="override")])
        text = text.strip()
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            value = text
        return cls(key, text if _is_too_deep(value) else value, text)

    @property
    def removes(self) -> bool:
        """Whether it sets nothing (``train.ema=``), which takes away what is set."""
        return not self.text

    def as_table(self, value: Any) -> Table:
        """The nested table that sets just this key."""
        for part in reversed(self.key):
            value = {part: value}
        return value


def read_source(path: Path, overrides: Iterable[Override] = (), kinds: Mapping[str, Kind] = KINDS) -> Source:
    """Reads a recipe, the recipes that it extends (first), and the overrides (last).

    Each layer takes away from those below it before it lays its own values over them.

    Args:
        path: The recipe; a relative path counts from the working directory.
        overrides: From the command line; their order says nothing.
        kinds: The kinds of components that sections may name.

    Raises:
        RecipeError: A file is missing or no TOML, or the files extend one another in a circle.
    """
    source = Source(kinds)
    for layer in _chain(path):
        source.problems += layer.problems
        _take_away(source, layer.removed, layer.origins.get((REMOVE,), Origin(layer.file)))
        source.merge(layer.values, layer.origins)
        source.origins[()] = Origin(layer.file)
    overrides = list(overrides)
    _take_away(source, [override.key for override in overrides if override.removes], Origin(OVERRIDE))
    lay_over(source, [(override, override.value) for override in overrides if not override.removes])
    return source


def lay_over(source: Source, settings: Iterable[tuple[Override, Any]]) -> None:
    """Lays overrides over a source, together, so that their order among themselves says nothing."""
    together = Source(source.kinds)
    # The shortest key first: a whole section, then what changes a key of it.
    for override, value in sorted(settings, key=lambda setting: len(setting[0].key)):
        together.merge(override.as_table(value), {override.key: Origin(OVERRIDE)})
    source.problems += together.problems
    source.merge(together.values, together.origins)


def _take_away(source: Source, keys: Iterable[Key], origin: Origin) -> None:
    # A setting before its section, so that their order says nothing.
    for key in sorted(dict.fromkeys(keys), key=len, reverse=True):
        source.remove(key, origin)


@dataclass(frozen=True)
class _Layer:
    """One file of a chain: what it takes away from the files below it, and what it then sets."""

    file: str
    values: Table
    origins: dict[Key, Origin]
    removed: list[Key]
    problems: list[Problem]


def _chain(path: Path) -> list[_Layer]:
    """The files of a recipe from the most basic to the recipe itself."""
    layers: list[_Layer] = []
    files: list[Path] = []
    below: Path | None = path
    while below is not None:
        values, origins = _read_toml(below)
        files.append(below.resolve())
        base = values.pop(EXTENDS, None)
        removed, problems = _removed(values.pop(REMOVE, []), origins.get((REMOVE,), Origin(str(below))))
        layers.append(_Layer(str(below), values, origins, removed, problems))
        below = None if base is None else _base(below, base, origins[EXTENDS,], files)
    return layers[::-1]


def _base(path: Path, base: Any, origin: Origin, above: Sequence[Path]) -> Path:
    """The file that a recipe extends.

    Args:
        path: The recipe.
        base: What it says.
        origin: Where it says so.
        above: The files from the topmost recipe to this one, resolved.
    """

    def refused(message: str) -> RecipeError:
        return RecipeError([Problem(EXTENDS, message, origin.file, origin.line, "file")])

    if not isinstance(base, str):
        raise refused(f"found {base!r}; expected one file name")
    found = path.parent / base
    if not found.is_file():
        raise refused(f"extends {base!r}, which does not exist (looked for {found}; it counts from this file's folder)")
    if (resolved := found.resolve()) in above:
        circle = " -> ".join(link.name for link in (*above, resolved))
        raise refused(f"the recipes extend one another in a circle: {circle}")
    return found


def _removed(found: Any, origin: Origin) -> tuple[list[Key], list[Problem]]:
    """The keys that a file's ``remove`` lists, and what is wrong with it."""
    listed = found if isinstance(found, list) else [found]
    good = [entry for entry in listed if isinstance(entry, str) and re.fullmatch(DOTTED, entry)]
    if isinstance(found, list) and good == listed:
        return [tuple(entry.split(".")) for entry in good], []
    message = f'found {found!r}; expected a list of dotted keys, such as ["train.ema", "masker"]'
    return [], [Problem(REMOVE, message, origin.file, origin.line, "remove")]


def _read_toml(path: Path) -> tuple[Table, dict[Key, Origin]]:
    """The values of one file, and where each was written."""
    text = _read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([_syntax_problem(path, error)]) from error
    except ValueError as error:  # such as a number of thousands of digits
        raise RecipeError([_file_problem(path, f"cannot be read: {error}")]) from error
    except RecursionError:
        raise RecipeError([_depth_problem(path)]) from None
    if _is_too_deep(values):
        raise RecipeError([_depth_problem(path)])
    return values, {key: Origin(str(path), line) for key, line in key_lines(text).items()}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except FileNotFoundError:
        raise RecipeError([_file_problem(path, "there is no such recipe; check the path")]) from None
    except IsADirectoryError:
        raise RecipeError([_file_problem(path, "is a directory; name a .toml file in it")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([_file_problem(path, f"cannot be read as a text file: {error}")]) from error


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST + 1):
        outer = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [inner for each in outer for inner in each]
    return bool(level)


def _depth_problem(path: Path) -> Problem:
    return _file_problem(path, f"tables and arrays lie more than {DEEPEST} deep in one another; no key takes that")


def _syntax_problem(path: Path, error: tomllib.TOMLDecodeError) -> Problem:
    place = re.search(r"\(at line (\d+), column \d+\)", str(error))
    message = re.sub(r" \(at .*\)$", "", str(error))
    return _file_problem(path, f"is not valid TOML: {message}", int(place[1]) if place else None)


def _file_problem(path: Path, message: str, line: int | None = None) -> Problem:
    return Problem("", message, str(path), line, "file")
