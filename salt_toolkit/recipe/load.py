"""Validation of a recipe: every problem at once, in the user's words, with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from salt_toolkit.errors import PluginError, Problem, RecipeError
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.recipe.layers import EXTENDS, OVERRIDE, REMOVE, TEACHER_KEYS, TEACHERS, Source, suggest
from salt_toolkit.recipe.lines import Key
from salt_toolkit.recipe.model import (
    CacheSection,
    LoaderSection,
    OptimizerSection,
    Recipe,
    RunSection,
    Selected,
    Teaching,
    TeachingSection,
    TrainSection,
)
from salt_toolkit.recipe.reading import Override, lay_over, read_source
from salt_toolkit.recipe.section import TEXT_WANTED, ModelT, read_section, shown
from salt_toolkit.registry import Provided, Registry

CORE_SECTIONS: dict[str, type[BaseModel]] = {
    "run": RunSection,
    "clip": ClipSpec,
    "train": TrainSection,
    "optimizer": OptimizerSection,
    "loader": LoaderSection,
}
OPTIONAL_SECTIONS: dict[str, type[BaseModel]] = {"cache": CacheSection}
"""Sections that change what a run does by being there."""
METHOD_SECTIONS = ("teacher", "student", "predictor", "masker", "objective")
"""Component sections that a recipe has if its method asks for them."""
LOOP_SCHEDULES = ("lr", "weight_decay")
"""Schedules that the training loop reads; a method may name further ones."""
DEFAULT_METHOD = "masked_latent"


def load_recipe(path: Path | str, registry: Registry, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: A TOML file.
        registry: Where components are looked up.
        overrides: ``key=value`` texts, as ``--set`` takes them.

    Raises:
        RecipeError: With all problems of the recipe.
    """
    parsed = [Override.parse(argument) for argument in overrides]
    source = read_source(Path(path), parsed)
    validation = _Validation(source, registry)
    recipe = validation.recipe()
    if validation.problems and (texts := _as_texts(parsed, validation.problems)):
        # `--set run.name=3`: the recipe wants a string, so the bare text is what was meant.
        lay_over(source, texts)
        validation = _Validation(source, registry)
        recipe = validation.recipe()
    if recipe is None or validation.problems:
        raise RecipeError(validation.problems)
    return recipe


def _as_texts(overrides: Iterable[Override], problems: Iterable[Problem]) -> list[tuple[Override, str]]:
    wrong_types = {problem.key for problem in problems if TEXT_WANTED in problem.message}
    return [
        (override, override.text)
        for override in overrides
        if ".".join(override.key) in wrong_types and not isinstance(override.value, str)
    ]


class _Validation:
    """One pass over a source; collects problems instead of stopping at the first."""

    def __init__(self, source: Source, registry: Registry) -> None:
        self.source = source
        self.registry = registry
        # A text that was tried as two types may have met one problem twice.
        self.problems: list[Problem] = list(dict.fromkeys(source.problems))

    def recipe(self) -> Recipe | None:
        """The recipe, or None where problems were found."""
        sections: dict[str, Any] = {
            name: self._model((name,), self._table((name,)), model) for name, model in CORE_SECTIONS.items()
        }
        for name, model in OPTIONAL_SECTIONS.items():
            if name in self.source.values:
                sections[name] = self._model((name,), self._table((name,)), model)
        if isinstance(chosen := self.source.values.setdefault("method", {}), dict):
            chosen.setdefault("use", DEFAULT_METHOD)
        method = sections["method"] = self._component(("method",), "method")
        sections["dataset"] = self._component(("dataset",), "dataset")
        needs: Sequence[str] = method.config.needs if method else ()
        if TEACHERS in self.source.values:
            sections[TEACHERS] = self._teachers(needs if method else None)
            # Which teacher lacks an objective has been said.
            needs = [name for name in needs if name not in ("teacher", "objective")]
        for name in METHOD_SECTIONS:
            # Without a known method, judge the sections that are there, and miss none.
            if name in self.source.values or name in needs:
                sections[name] = self._component((name,), name)
        sections["schedules"] = self._schedules(method.config.schedules if method else None)
        self._refuse_strangers(method.config.needs if method else METHOD_SECTIONS)
        return None if self.problems else Recipe(**sections)

    def _refuse_strangers(self, needed: Sequence[str]) -> None:
        sections = (*CORE_SECTIONS, *OPTIONAL_SECTIONS, "dataset", "method", "schedules", *METHOD_SECTIONS, TEACHERS)
        for name in self.source.values:
            kind = "teacher" if name == TEACHERS else name
            if name in (EXTENDS, REMOVE):
                # Files say it at their top, where it was read; so this is an override.
                self._problem((name,), f"stands in files alone; {OVERRIDE} KEY= takes a key or a section away")
            elif name not in sections:
                self._problem((name,), f"unknown section; {suggest(name, (*sections, EXTENDS, REMOVE))}")
            elif kind in METHOD_SECTIONS and kind not in needed:
                self._refuse_section((name,), kind)

    def _refuse_section(self, key: Key, kind: str) -> None:
        article = "an" if kind == "objective" else "a"
        how = self.source.how_to_remove([key])
        self._problem(key, f"the method does not use {article} {kind}; remove the section{how}")

    def _teachers(self, needs: Sequence[str] | None) -> tuple[Teaching, ...]:
        """The array ``[[teachers]]``, for a method that needs these sections; None: it is unknown."""
        tables = self.source.values[TEACHERS]
        if isinstance(tables, dict):
            self._problem((TEACHERS,), f"found {shown(tables)}, to change [[teachers]] of these names; there are none")
            return ()
        if "teacher" in self.source.values:
            message = "found beside [teacher]; write one teacher as [teacher], or several as [[teachers]]"
            self._problem((TEACHERS,), message)
        if not isinstance(tables, list) or not tables:
            message = f"found {shown(tables)}; expected [[teachers]], once for each teacher, with a name"
            self._problem((TEACHERS,), message)
            return ()
        found: list[Teaching | None] = []
        names: list[Any] = []
        for number, table in enumerate(tables):
            key = (TEACHERS, str(number))
            if not isinstance(table, dict):
                self._problem(key, f"found {shown(table)}; expected a table, [[teachers]], with a name")
                continue
            found.append(self._teaching(key, table, needs))
            if "name" in table and table["name"] in names:
                self._problem((*key, "name"), f"{shown(table['name'])} is another teacher's name; choose a new one")
            names.append(table.get("name"))
        return tuple(teaching for teaching in found if teaching is not None)

    def _teaching(self, key: Key, table: Mapping[str, Any], needs: Sequence[str] | None) -> Teaching | None:
        section = self._model(key, {name: table[name] for name in ("name", "weight") if name in table}, TeachingSection)
        teacher = self._component(key, "teacher", TEACHER_KEYS)
        objective, objective_key = None, (*key, "objective")
        if "objective" in table:
            objective = self._component(objective_key, "objective")
            if needs is not None and "objective" not in needs:
                self._refuse_section(objective_key, "objective")
        elif needs is not None and "objective" in needs and "objective" not in self.source.values:
            message = "missing; give the teacher its own [teachers.objective], or the recipe an [objective]"
            self._problem(objective_key, message)
        if section is None or teacher is None:
            return None
        dotted = f"{TEACHERS}.{section.name}"
        return Teaching(section.name, section.weight, teacher, objective, dotted, f"{dotted}.objective")

    def _schedules(self, extra: Sequence[str] | None) -> dict[str, Selected[Any] | None]:
        table = self._table(("schedules",))
        allowed = (*LOOP_SCHEDULES, *(extra or ()))
        if "lr" not in table:
            self._problem(("schedules", "lr"), "missing; every recipe needs a learning rate, [schedules.lr] with use")
        found: dict[str, Selected[Any] | None] = {}
        for name in table:
            if extra is not None and name not in allowed:
                self._problem(("schedules", name), f"nothing reads this schedule; {suggest(name, allowed)}")
            found[name] = self._component(("schedules", name), "schedule")
        return found

    def _table(self, key: Key) -> dict[str, Any]:
        value: Any = self.source.values
        for part in key:
            value = value[int(part)] if isinstance(value, list) else value.get(part, {})
        if isinstance(value, dict):
            return value
        self._problem(key, f"found {shown(value)}; expected a section, {_header(key)}")
        return {}

    def _component(self, key: Key, kind: str, beside: Sequence[str] = ()) -> Selected[Any] | None:
        """A component's section.

        Args:
            key: Of the section.
            kind: Of the component.
            beside: Keys of the section that are no settings of the component.
        """
        table = self._table(key)
        use = table.get("use")
        names = ", ".join(provided.component.name for provided in self.registry.of_kind(kind)) or "none is installed"
        if not isinstance(use, str):
            found = "missing" if use is None else f"found {shown(use)}"
            self._problem((*key, "use"), f"{found}; {_header(key)} needs use = one of: {names}")
            return None
        try:
            provided = self.registry.get(kind, use)
        except PluginError as error:
            self._problem((*key, "use"), str(error))
            return None
        settings = {name: value for name, value in table.items() if name not in ("use", *beside)}
        config = self._model(key, settings, provided.component.config, beside, provided)
        return None if config is None else Selected(provided, config)

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
            how = self.source.how_to_remove([(*key, name) for name in fault.advised]) if fault.advised else ""
            self._problem((*key, *fault.place), fault.message + how)
        return found

    def _problem(self, key: Key, message: str) -> None:
        self.problems.append(self.source.problem(key, message))


def _header(key: Key) -> str:
    """A section as TOML writes it."""
    if key[0] == TEACHERS:
        return "[[teachers]]" if len(key) == 2 else ".".join(("[teachers", *key[2:])) + "]"
    return f"[{'.'.join(key)}]"
