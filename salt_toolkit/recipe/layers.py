"""Values laid over one another, and taken away: one table of plain values, each with its origin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from salt_toolkit.errors import Problem
from salt_toolkit.recipe.lines import Key

Table = dict[str, Any]

OVERRIDE = "--set"
"""What stands in place of a file name for values from the command line."""

EXTENDS = "extends"
"""The key of a file that names the recipe below it."""

REMOVE = "remove"
"""The key of a file that lists keys and sections to take away from the recipe below it."""

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

    def how_to_remove(self, keys: Sequence[Key]) -> str:
        """How to take away what the recipe's own file does not write, or --set stands over; else nothing.

        Args:
            keys: Of settings or sections that a message advises to leave out.
        """
        own = self.origin(()).file
        overridden = any(origin.file == OVERRIDE for origin in self.origins.values())
        files = {key: self._files(key) for key in keys}
        inherited = [self._shown(key) for key in keys if files[key] - {own, OVERRIDE}]
        names = inherited or [self._shown(key) for key in keys if overridden and own in files[key]]
        if not names or any("[" in name for name in names):
            return ""
        settings = f"{OVERRIDE} {f' {OVERRIDE} '.join(f'{name}=' for name in names)}"
        if not inherited:
            return f" (or {settings})"
        listed = ", ".join(f'"{name}"' for name in names)
        return f" (inherited: {REMOVE} = [{listed}] at the top of {own}, or {settings})"

    def _files(self, key: Key) -> set[str]:
        """Everywhere that a key, or something in it, was written."""
        inside = {origin.file for known, origin in self.origins.items() if known[: len(key)] == key}
        return inside or {self.origin(key).file}

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

    def remove(self, key: Key, origin: Origin) -> None:
        """Takes a key or a section away, as if nothing so far had set it; one of ``[[teachers]]`` by its name.

        Args:
            key: As its author writes it; that nothing has set it is a problem.
            origin: Where that was asked for.
        """
        parent: Any = {}
        position: Any = None
        container: Any = self.values
        place: Key = ()
        for part in key:
            positions = _positions(container, place)
            if part not in positions:
                message = f"nothing below sets it, so it cannot be taken away{_set_below(part, list(positions))}"
                if origin.file == OVERRIDE:
                    message += f"""; an empty text is written {OVERRIDE} '{".".join(key)}=""'"""
                self.problems.append(Problem(".".join(key), message, origin.file, origin.line))
                return
            parent, position = container, positions[part]
            container, place = parent[position], (*place, str(position))
        if isinstance(parent, list) and len(parent) > 1:
            self._remove_teacher(position)
            return
        if isinstance(parent, list):
            # Without its only teacher, nothing is left of the array.
            parent, position, place = self.values, TEACHERS, (TEACHERS,)
        del parent[position]
        self._forget(place)
        # What is missing from now on is missing because of this line.
        self.origins[place] = origin

    def _remove_teacher(self, number: int) -> None:
        """Takes one of the array away, which renumbers those behind it."""
        del self.values[TEACHERS][number]
        self._forget((TEACHERS, str(number)))
        for behind in range(number + 1, len(self.values[TEACHERS]) + 1):
            moved = {key: origin for key, origin in self.origins.items() if key[:2] == (TEACHERS, str(behind))}
            self._forget((TEACHERS, str(behind)))
            self.origins.update({(TEACHERS, str(behind - 1), *key[2:]): origin for key, origin in moved.items()})

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
                self._drop(key)
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

    def _drop(self, key: Key) -> None:
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


def _positions(container: Any, place: Key) -> dict[str, Any]:
    """The names of what is in a table, or in the array of teachers, with what to index it by."""
    if isinstance(container, dict):
        return {name: name for name in container}
    if isinstance(container, list) and place == (TEACHERS,):
        return {entry["name"]: number for number, entry in enumerate(container) if _is_named(entry)}
    return {}


def _set_below(name: str, names: Sequence[str]) -> str:
    """What is set in a table, the nearest first."""
    near = get_close_matches(name, names, n=1)
    did_you_mean = f"did you mean {near[0]!r}? " if near else ""
    return f"; {did_you_mean}Set below: {', '.join(names)}" if names else ""


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
