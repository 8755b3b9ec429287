"""Values laid over one another, and taken away: one table of plain values, each with its origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from salt_toolkit.errors import Problem
from salt_toolkit.kinds import KINDS, Kind
from salt_toolkit.recipe.lines import Key

Table = dict[str, Any]

OVERRIDE = "--set"
"""What stands in place of a file name for values from the command line."""

EXTENDS = "extends"
"""The key of a file that names the recipe below it."""

REMOVE = "remove"
"""The key of a file that lists keys and sections to take away from the recipe below it."""

LENGTHS: frozenset[Key] = frozenset({("train", "epochs"), ("train", "max_steps")})
"""Two ways to say how long a run is."""


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and a line counted from 1 (None for an override)."""

    file: str
    line: int | None = None


@dataclass
class Source:
    """Values merged from a file, what it extends, and overrides; with the origin of every key.

    Attributes:
        kinds: The kinds of components that sections may name.
        values: The merged tables.
        origins: Where each key was written.
        problems: What went wrong while merging.
    """

    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)
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

    def problem(self, key: Key, message: str, kind: str, leave_out: Sequence[Key] = ()) -> Problem:
        """A problem with a key, placed where the key was written; one that is missing, where its table was.

        Args:
            key: Of the setting or section.
            message: What is wrong with it.
            kind: See `Problem`.
            leave_out: Keys that the message advises to leave out; how to do so is appended to it.
        """
        origin = self.origin(key[:-1] if kind == "missing" and key not in self.origins and len(key) > 1 else key)
        listed = tuple(".".join(each) for each in leave_out)
        text = message + self._how_to_remove(leave_out)
        return Problem(".".join(key), text, origin.file, origin.line, kind, listed)

    def _how_to_remove(self, keys: Sequence[Key]) -> str:
        """How to take away what the recipe's own file does not write, or --set stands over; else nothing."""
        own = self.origin(()).file
        overridden = any(origin.file == OVERRIDE for origin in self.origins.values())
        files = {key: self._files(key) for key in keys}
        inherited = [".".join(key) for key in keys if files[key] - {own, OVERRIDE}]
        names = inherited or [".".join(key) for key in keys if overridden and own in files[key]]
        if not names:
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

    def remove(self, key: Key, origin: Origin) -> None:
        """Takes a key or a section away, as if nothing so far had set it.

        Args:
            key: As its author writes it; that nothing has set it is a problem.
            origin: Where that was asked for.
        """
        tables: list[Table] = [self.values]
        for part in key:
            if part not in tables[-1]:
                message = f"nothing below sets it, so it cannot be taken away{_set_below(part, list(tables[-1]))}"
                if origin.file == OVERRIDE:
                    message += f"""; an empty text is written {OVERRIDE} '{".".join(key)}=""'"""
                self.problems.append(Problem(".".join(key), message, origin.file, origin.line, "remove"))
                return
            tables.append(_table(tables[-1][part]))
        del tables[-2][key[-1]]
        if len(key) == 2 and self._named_kind(key) and not tables[-2]:
            # Without its only component, nothing is left of [teachers].
            key = key[:1]
            del self.values[key[0]]
        self._forget(key)
        # What is missing from now on is missing because of this line.
        self.origins[key] = origin

    def merge(self, values: Mapping[str, Any], origins: Mapping[Key, Origin]) -> None:
        """Lays further values over these: tables merge, anything else is replaced.

        A table that names another component (``use``) starts afresh, since the settings of the component that it
        replaces mean nothing to it; what belongs to the kind, such as a teacher's weight, stays.
        """
        alternatives = [LENGTHS, *(frozenset((name,) for name in kind.sections) for kind in self.kinds.values())]
        for keys in alternatives:
            given = {key for key in keys if _gives(values, key)}
            for key in keys - given if given else ():
                self._drop(key)
        self._merge_table(self.values, values, ())
        self.origins.update(origins)

    def _merge_table(self, base: Table, over: Mapping[str, Any], prefix: Key) -> None:
        for name, value in over.items():
            key = (*prefix, name)
            old = base.get(name)
            if not (isinstance(old, dict) and isinstance(value, Mapping)):
                self._forget(key)
                base[name] = dict(value) if isinstance(value, Mapping) else value
                continue
            if "use" in value and "use" in old and value["use"] != old["use"]:
                kind = self._named_kind(key)
                for setting in old.keys() - set(kind.extra_keys if kind else ()):
                    del old[setting]
                    self._forget((*key, setting))
            self._merge_table(old, value, key)

    def _named_kind(self, key: Key) -> Kind | None:
        """The kind whose named section this key is, such as ``teachers.motion``."""
        kinds = (kind for kind in self.kinds.values() if kind.section != "one" and kind.plural == key[0])
        return next(kinds, None) if len(key) == 2 else None

    def _drop(self, key: Key) -> None:
        table: Any = self.values
        for part in key[:-1]:
            table = _table(table.get(part))
        table.pop(key[-1], None)
        self._forget(key)

    def _forget(self, key: Key) -> None:
        for known in [known for known in self.origins if known[: len(key)] == key]:
            del self.origins[known]


def _table(value: Any) -> Table:
    return value if isinstance(value, dict) else {}


def _gives(values: Any, key: Key) -> bool:
    for part in key:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _set_below(name: str, names: Sequence[str]) -> str:
    """What is set in a table, the nearest first."""
    near = get_close_matches(name, names, n=1)
    did_you_mean = f"did you mean {near[0]!r}? " if near else ""
    return f"; {did_you_mean}Set below: {', '.join(names)}" if names else ""


def suggest(name: str, allowed: Sequence[str]) -> str:
    """What might have been meant, and what is allowed."""
    near = get_close_matches(name, allowed, n=1)
    did_you_mean = f"did you mean {near[0]!r}? " if near else ""
    return f"{did_you_mean}Allowed: {', '.join(allowed)}" if allowed else "none is allowed here"
