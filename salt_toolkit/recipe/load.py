"""Validation of a recipe: every problem at once, in the user's words, with its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from salt_toolkit.errors import GeometryError, PluginError, Problem, RecipeError, SettingError
from salt_toolkit.kinds import NAME, Kind
from salt_toolkit.recipe.core_sections import CORE_SECTIONS, OPTIONAL_SECTIONS, Section
from salt_toolkit.recipe.layers import EXTENDS, OVERRIDE, REMOVE, Source, suggest
from salt_toolkit.recipe.lines import Key
from salt_toolkit.recipe.model import Recipe, Selected
from salt_toolkit.recipe.reading import Override, lay_over, read_source
from salt_toolkit.recipe.section import ModelT, read_section, shown
from salt_toolkit.registry import Provided, Registry

LOOP_SCHEDULES = ("lr", "weight_decay")
"""Schedules that the training loop reads; a method may name further ones."""
CACHING = ("dataset", "teacher", "cache")
"""What a recipe needs to fill a cache, and no more."""
_TRAINING = ("train", "method", "student", "schedules")
"""Sections that a recipe has only to train."""


def load_recipe(
    path: Path | str,
    registry: Registry,
    overrides: Sequence[str] = (),
    needs: Collection[str] | None = None,
    *,
    may_only_cache: bool = False,
) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: A TOML file.
        registry: Where components are looked up.
        overrides: ``key=value`` texts, as ``--set`` takes them.
        needs: The sections that the recipe must have, by their names or kinds, such as ``("dataset", "teacher")``;
            others may be there. None: what it takes to train, which is what the method needs.
        may_only_cache: Take a recipe with ``[cache]`` and no section for training as one that only fills a cache.

    Raises:
        RecipeError: With all problems of the recipe.
    """
    parsed = [Override.parse(argument) for argument in overrides]
    source = read_source(Path(path), parsed, registry.kinds)
    if may_only_cache and "cache" in source.values and source.values.keys().isdisjoint(_TRAINING):
        needs = CACHING
    validation = _Validation(source, registry, needs)
    recipe = validation.recipe()
    if validation.problems and (texts := _as_texts(parsed, validation.problems)):
        # `--set run.name=3`: the recipe wants a string, so the bare text is what was meant.
        lay_over(source, texts)
        validation = _Validation(source, registry, needs)
        recipe = validation.recipe()
    if recipe is None or validation.problems:
        raise RecipeError(validation.problems)
    return recipe


def _as_texts(overrides: Iterable[Override], problems: Iterable[Problem]) -> list[tuple[Override, str]]:
    wants_text = {problem.key for problem in problems if problem.kind == "string_type"}
    return [
        (override, override.text)
        for override in overrides
        if ".".join(override.key) in wants_text and not isinstance(override.value, str)
    ]


def _cuts_video(dataset: Selected[Any] | None) -> bool:
    """Whether the samples depend on ``[clip]``, whose defaults then count where the section is left out."""
    try:
        return dataset is None or not dataset.config.sample_spec(None)
    except GeometryError:
        return True
    except Exception:  # a plugin's mistake; `salt check` asks again, and reports it
        return True


class _Validation:
    """One pass over a source; collects problems instead of stopping at the first."""

    def __init__(self, source: Source, registry: Registry, needs: Collection[str] | None) -> None:
        self.source = source
        self.registry = registry
        self.needs = needs
        self.method: Selected[Any] | None = None
        # A text that was tried as two types may have met one problem twice.
        self.problems: list[Problem] = list(dict.fromkeys(source.problems))

    def recipe(self) -> Recipe | None:
        """The recipe, or None where problems were found."""
        sections = {name: self._core(name) for name in CORE_SECTIONS}
        components: dict[str, Selected[Any]] = {}
        # The method first: it says what else is needed.
        for kind in sorted(self.registry.kinds.values(), key=lambda kind: kind.name != "method"):
            components |= self._kind(kind)
            self.method = components.get("method")
        self._refuse_unknown_sections()
        if "clip" not in self.source.values and not _cuts_video(components.get("dataset")):
            sections["clip"] = None
        return None if self.problems else Recipe(**sections, components=components)

    def _core(self, name: str) -> Any:
        """One of the core's own sections."""
        wanted = self.needs is None or name in self.needs
        if name in OPTIONAL_SECTIONS and name not in self.source.values and not (self.needs and wanted):
            return None
        table = self._table((name,))
        found = None if table is None else self._model((name,), table, CORE_SECTIONS[name])
        if isinstance(found, Section) and wanted:
            try:
                found.require()
            except SettingError as error:
                key = (name, *error.fields) if len(error.fields) == 1 else (name,)
                self._problem(key, str(error), "missing")
        return found

    def _wanted(self, kind: Kind) -> bool:
        """Whether the recipe must have a component of the kind."""
        if self.needs is not None:
            return kind.name in self.needs
        return kind.presence == "always" or kind.name in self._method_needs()

    def _refused(self, kind: Kind) -> bool:
        """Whether the recipe must have none. Without a known method, sections are judged and none is refused."""
        known = self.needs is None and self.method is not None
        return known and kind.presence == "needed" and kind.name not in self._method_needs()

    def _method_needs(self) -> Collection[str]:
        return self.method.config.needs if self.method else ()

    def _kind(self, kind: Kind) -> dict[str, Selected[Any]]:
        """The components of a kind, by their sections' dotted keys."""
        values, found = self.source.values, {}
        present = [name for name in kind.sections if name in values]
        for name in present:
            found |= self._named(kind) if name == kind.plural else self._alone(kind)
            if self._refused(kind):
                self._refuse((name,), kind)
        if len(present) > 1:
            message = f"found beside [{kind.name}]; write one as [{kind.name}], or several as [{kind.plural}.NAME]"
            self._problem((kind.plural,), message, "section")
        # Which of the sections that may hold it lacks one has been said.
        held = any(kind.name in other.nested and other.plural in values for other in self.registry.kinds.values())
        if not present and self._wanted(kind) and not held and kind.name != "schedule":
            found |= self._alone(kind) if kind.name in kind.sections else self._named(kind)
        if kind.name == "schedule":
            self._check_schedules(self._wanted(kind))
        return found

    def _alone(self, kind: Kind) -> dict[str, Selected[Any]]:
        selected = self._component((kind.name,), kind)
        return {kind.name: selected} if selected else {}

    def _named(self, kind: Kind) -> dict[str, Selected[Any]]:
        """The components of a kind's named sections, ``[teachers.motion]``."""
        tables = self.source.values.get(kind.plural)
        if not isinstance(tables, dict) or not tables:
            wrong = "missing" if tables is None else f"found {shown(tables)}"
            message = f"{wrong}; expected a table for each {kind.name}, [{kind.plural}.NAME] with use"
            self._problem((kind.plural,), message, "section")
            return {}
        found: dict[str, Selected[Any]] = {}
        for name in tables:
            if not re.fullmatch(NAME, name):
                rule = "lowercase letters, digits and underscores, a letter first"
                self._problem((kind.plural, name), f"found the name {shown(name)}; expected {rule}", "name")
            found |= self._member(kind, (kind.plural, name))
        return found

    def _member(self, kind: Kind, key: Key) -> dict[str, Selected[Any]]:
        """One named section, with the components that lie in it."""
        found: dict[str, Selected[Any]] = {}
        selected, table = self._component(key, kind, kind.extra_keys), self._peek(key)
        extra = None
        if kind.extra is not None:
            values = {name: table[name] for name in kind.extra.model_fields if name in table}
            extra = self._model(key, values, kind.extra)
        if selected:
            found[".".join(key)] = replace(selected, extra=extra)
        for name in kind.nested if table else ():
            inner, place = self.registry.kinds[name], (*key, name)
            if name in table:
                nested = self._component(place, inner)
                found |= {".".join(place): nested} if nested else {}
                if self._refused(inner):
                    self._refuse(place, inner)
            elif self._wanted(inner) and name not in self.source.values:
                message = f"missing; give the {kind.name} its own [{'.'.join(place)}], or the recipe an [{name}]"
                self._problem(place, message, "missing")
        return found

    def _check_schedules(self, wanted: bool) -> None:
        names = self._peek(("schedules",))
        allowed = (*LOOP_SCHEDULES, *(self.method.config.schedules if self.method else ()))
        if wanted and "lr" not in names:
            message = "missing; every recipe that trains needs a learning rate, [schedules.lr] with use"
            self._problem(("schedules", "lr"), message, "section")
        for name in names if self.method else ():
            if name not in allowed:
                message = f"nothing reads this schedule; {suggest(name, allowed)}"
                self._problem(("schedules", name), message, "section")

    def _refuse_unknown_sections(self) -> None:
        kinds = self.registry.kinds.values()
        known = (*CORE_SECTIONS, *(name for kind in kinds for name in kind.sections))
        for name in self.source.values:
            if name in (EXTENDS, REMOVE):
                # Files say it at their top, where it was read; so this is an override.
                message = f"stands in files alone; {OVERRIDE} KEY= takes a key or a section away"
                self._problem((name,), message, "override")
            elif name not in known:
                self._problem((name,), f"unknown section; {suggest(name, (*known, EXTENDS, REMOVE))}", "section")

    def _refuse(self, key: Key, kind: Kind) -> None:
        article = "an" if kind.name[0] in "aeiou" else "a"
        message = f"the method does not use {article} {kind.name}; remove the section"
        self._problem(key, message, "section", [key])

    def _peek(self, key: Key) -> dict[str, Any]:
        """A section's values; empty where there is none, or no table."""
        value = self._value(key)
        return value if isinstance(value, dict) else {}

    def _table(self, key: Key) -> dict[str, Any] | None:
        """A section's values; empty where there is none. Anything but a table is a problem."""
        value = self._value(key)
        if isinstance(value, dict):
            return value
        self._problem(key, f"found {shown(value)}; expected a section, [{'.'.join(key)}]", "section")
        return None

    def _value(self, key: Key) -> Any:
        value: Any = self.source.values
        for part in key:
            value = value.get(part, {}) if isinstance(value, dict) else {}
        return value

    def _component(self, key: Key, kind: Kind, beside: Sequence[str] = ()) -> Selected[Any] | None:
        """A component's section.

        Args:
            key: Of the section.
            kind: Of the component.
            beside: Keys of the section that are no settings of the component.
        """
        table = self._table(key)
        if table is None:
            return None
        use = table.get("use", kind.default)
        if not isinstance(use, str):
            names = ", ".join(each.component.name for each in self.registry.of_kind(kind.name)) or "none is installed"
            found = "missing" if use is None else f"found {shown(use)}"
            message = f"{found}; [{'.'.join(key)}] needs use = one of: {names}{self._sibling(key)}"
            self._problem((*key, "use"), message, "missing" if use is None else "component")
            return None
        try:
            provided = self.registry.get(kind.name, use)
        except PluginError as error:
            self._problem((*key, "use"), str(error), "component")
            return None
        settings = {name: value for name, value in table.items() if name not in ("use", *beside)}
        config = self._model(key, settings, provided.component.config, beside, provided)
        return None if config is None else Selected(provided, config)

    def _sibling(self, key: Key) -> str:
        """A named section of nearly the same name: `--set teachers.motin.weight=2` meant that one."""
        around = self._peek(key[:-1]) if len(key) == 2 else {}
        near = get_close_matches(key[-1], [name for name in around if name != key[-1]], n=1)
        return f"; or did you mean [{key[0]}.{near[0]}]?" if near else ""

    def _model(
        self,
        key: Key,
        values: Mapping[str, Any],
        model: type[ModelT],
        beside: Sequence[str] = (),
        provided: Provided | None = None,
    ) -> ModelT | None:
        found, faults = read_section(values, model, beside, None if provided is None else str(provided))
        for fault in faults:
            leave_out = [(*key, name) for name in fault.leave_out]
            self._problem((*key, *fault.place), fault.message, fault.kind, leave_out)
        return found

    def _problem(self, key: Key, message: str, kind: str, leave_out: Sequence[Key] = ()) -> None:
        self.problems.append(self.source.problem(key, message, kind, leave_out))
