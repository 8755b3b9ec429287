"""From TOML files and ``--set`` overrides to one table of plain values, each with its origin."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from salt_toolkit.errors import Problem, RecipeError
from salt_toolkit.recipe.lines import Key, key_lines

Table = dict[str, Any]

OVERRIDE = "--set"
"""What stands in place of a file name for values from the command line."""

ALTERNATIVES: tuple[frozenset[Key], ...] = (
    frozenset({("train", "epochs"), ("train", "max_steps")}),
    frozenset({("teacher",), ("teachers",)}),
)
"""Keys that say the same thing in different ways: a layer that gives one takes the others of lower layers away."""

TEACHERS = "teachers"
"""The array whose tables have names: a table of that key changes those of them that it names."""

TEACHER_NAME = r"[a-z][a-z0-9_]*"
"""What a teacher may be called: it becomes part of metrics' and checkpoints' keys."""

TEACHER_KEYS = ("name", "weight", "objective")
"""Keys of one of ``[[teachers]]`` that are not its component's settings, and stay when the component changes."""


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
    problems: list[Problem] = field(default_factory=list)

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
        return Problem(self._shown(key), message, origin.file, origin.line)

    def _shown(self, key: Key) -> str:
        """The dotted key, with a teacher's name in place of its number in the array: ``teachers.motion.use``."""
        teachers = self.values.get(TEACHERS)
        if key[:1] != (TEACHERS,) or len(key) < 2 or not isinstance(teachers, list) or not key[1].isdecimal():
            return ".".join(key)
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in teachers]
        name = names[int(key[1])]
        if isinstance(name, str) and is_teacher_name(name) and names.count(name) == 1:
            return ".".join((TEACHERS, name, *key[2:]))
        return ".".join((f"{TEACHERS}[{key[1]}]", *key[2:]))

    def merge(self, values: Mapping[str, Any], origins: Mapping[Key, Origin]) -> None:
        """Lays further values over these: tables merge, anything else is replaced.

        A table that names another component (``use``) starts afresh, since the settings of the
        component that it replaces mean nothing to it. A table ``teachers`` changes those teachers of the
        array below that it names.
        """
        if isinstance(values.get(TEACHERS), Mapping) and isinstance(self.values.get(TEACHERS), list):
            self._merge_teachers(values[TEACHERS], origins)
            values = {name: value for name, value in values.items() if name != TEACHERS}
            origins = {key: origin for key, origin in origins.items() if key[:1] != (TEACHERS,)}
        for keys in ALTERNATIVES:
            given = {key for key in keys if _gives(values, key)}
            for key in keys - given if given else ():
                self._remove(key)
        self._merge_table(self.values, values, ())
        self.origins.update(origins)

    def _merge_teachers(self, changes: Mapping[str, Any], origins: Mapping[Key, Origin]) -> None:
        """Lays tables over those teachers of the array that have their names."""
        teachers = self.values[TEACHERS]
        numbers = {entry["name"]: number for number, entry in enumerate(teachers) if _is_named(entry)}
        for name, change in changes.items():
            if name not in numbers or not isinstance(change, Mapping):
                origin = next((found for key, found in origins.items() if key[:2] == (TEACHERS, name)), Origin(""))
                message = f"there is no teacher of that name to change; {suggest(name, list(numbers))}"
                self.problems.append(Problem(f"{TEACHERS}.{name}", message, origin.file, origin.line))
                continue
            number = numbers[name]
            key, entry = (TEACHERS, str(number)), teachers[number]
            if "use" in change and change["use"] != entry.get("use"):
                # Another component starts afresh; what is no setting of it stays.
                for setting in entry.keys() - set(TEACHER_KEYS):
                    del entry[setting]
                    self._forget((*key, setting))
            self._merge_table(entry, change, key)
            inside = {known: origin for known, origin in origins.items() if known[:2] == (TEACHERS, name)}
            self.origins.update({(*key, *known[2:]): origin for known, origin in inside.items() if known[2:]})

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


def _gives(values: Any, key: Key) -> bool:
    for part in key:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    # A table `teachers` changes some of an array; it gives none.
    return key != (TEACHERS,) or not isinstance(values, Mapping)


def is_teacher_name(name: str) -> bool:
    """Whether a name will do for one of ``[[teachers]]``."""
    return re.fullmatch(TEACHER_NAME, name) is not None


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


def suggest(name: str, allowed: Sequence[str]) -> str:
    """What might have been meant, and what is allowed."""
    near = get_close_matches(name, allowed, n=1)
    did_you_mean = f"did you mean {near[0]!r}? " if near else ""
    return f"{did_you_mean}Allowed: {', '.join(allowed)}" if allowed else "none is allowed here"


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
    # The shortest key first: a whole array, then what changes one of its tables.
    for override, value in sorted(settings, key=lambda setting: len(setting[0].key)):
        together.merge(override.as_table(value), {override.key: Origin(OVERRIDE)})
    source.problems += together.problems
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
