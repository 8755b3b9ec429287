"""Validation of a recipe: every problem at once, in the user's words, with its place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from salt_toolkit.errors import PluginError, Problem, RecipeError
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.recipe.model import LoaderSection, OptimizerSection, Recipe, RunSection, Selected, TrainSection
from salt_toolkit.recipe.sources import Key, Override, Source, lay_over, read_source
from salt_toolkit.registry import Registry

CORE_SECTIONS: dict[str, type[BaseModel]] = {
    "run": RunSection,
    "clip": ClipSpec,
    "train": TrainSection,
    "optimizer": OptimizerSection,
    "loader": LoaderSection,
}
METHOD_SECTIONS = ("teacher", "student", "predictor", "masker", "objective")
"""Component sections that a recipe has if its method asks for them."""
LOOP_SCHEDULES = ("lr", "weight_decay")
"""Schedules that the training loop reads; a method may name further ones."""
DEFAULT_METHOD = "masked_latent"

ModelT = TypeVar("ModelT", bound=BaseModel)


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
    wrong_types = {problem.key for problem in problems if "a valid string" in problem.message}
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
        self.problems: list[Problem] = []

    def recipe(self) -> Recipe | None:
        """The recipe, or None where problems were found."""
        sections: dict[str, Any] = {
            name: self._model((name,), self._table((name,)), model) for name, model in CORE_SECTIONS.items()
        }
        self.source.values.setdefault("method", {"use": DEFAULT_METHOD})
        method = sections["method"] = self._component(("method",), "method")
        sections["dataset"] = self._component(("dataset",), "dataset")
        for name in METHOD_SECTIONS:
            # Without a known method, judge the sections that are there, and miss none.
            if name in self.source.values or (method and name in method.config.needs):
                sections[name] = self._component((name,), name)
        sections["schedules"] = self._schedules(method.config.schedules if method else None)
        self._refuse_strangers(method.config.needs if method else METHOD_SECTIONS)
        return None if self.problems else Recipe(**sections)

    def _refuse_strangers(self, needed: Sequence[str]) -> None:
        sections = (*CORE_SECTIONS, "dataset", "method", "schedules", *METHOD_SECTIONS)
        for name in self.source.values:
            if name not in sections:
                self._problem((name,), f"unknown section; {_suggest(name, sections)}")
            elif name in METHOD_SECTIONS and name not in needed:
                self._problem((name,), f"the method does not use a {name}; remove the section")

    def _schedules(self, extra: Sequence[str] | None) -> dict[str, Selected[Any] | None]:
        table = self._table(("schedules",))
        allowed = (*LOOP_SCHEDULES, *(extra or ()))
        if "lr" not in table:
            self._problem(("schedules", "lr"), "missing; every recipe needs a learning rate, [schedules.lr] with use")
        found: dict[str, Selected[Any] | None] = {}
        for name in table:
            if extra is not None and name not in allowed:
                self._problem(("schedules", name), f"nothing reads this schedule; {_suggest(name, allowed)}")
            found[name] = self._component(("schedules", name), "schedule")
        return found

    def _table(self, key: Key) -> dict[str, Any]:
        value: Any = self.source.values
        for part in key:
            value = value.get(part, {})
        if isinstance(value, dict):
            return value
        self._problem(key, f"found {_shown(value)}; expected a section, [{'.'.join(key)}]")
        return {}

    def _component(self, key: Key, kind: str) -> Selected[Any] | None:
        table = self._table(key)
        use = table.get("use")
        names = ", ".join(provided.component.name for provided in self.registry.of_kind(kind)) or "none is installed"
        if not isinstance(use, str):
            found = "missing" if use is None else f"found {_shown(use)}"
            self._problem((*key, "use"), f"{found}; [{'.'.join(key)}] needs use = one of: {names}")
            return None
        try:
            provided = self.registry.get(kind, use)
        except PluginError as error:
            self._problem((*key, "use"), str(error))
            return None
        settings = {name: value for name, value in table.items() if name != "use"}
        config = self._model(key, settings, provided.component.config)
        return None if config is None else Selected(provided, config)

    def _model(self, key: Key, values: Mapping[str, Any], model: type[ModelT]) -> ModelT | None:
        try:
            # JSON mode: strict, and yet arrays become tuples; see pydantic's strict mode.
            return model.model_validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            for details in error.errors(include_url=False):
                place = tuple(str(part) for part in details["loc"])
                self._problem((*key, *place), _message(details, model))
            return None

    def _problem(self, key: Key, message: str) -> None:
        self.problems.append(self.source.problem(key, message))


def _message(details: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One of pydantic's errors in the user's words."""
    name = str(details["loc"][0]) if details["loc"] else ""
    field = model.model_fields.get(name)
    about = f" ({field.description})" if field and field.description else ""
    if details["type"] == "extra_forbidden":
        return f"unknown key; {_suggest(name, list(model.model_fields))}"
    if details["type"] == "missing":
        return f"missing{about}"
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    expected = details["msg"].replace("Input should be", "expected")
    return f"found {_shown(details['input'])}; {expected}{about}"


def _suggest(name: str, allowed: Sequence[str]) -> str:
    near = get_close_matches(name, allowed, n=1)
    did_you_mean = f"did you mean {near[0]!r}? " if near else ""
    return f"{did_you_mean}Allowed: {', '.join(allowed)}" if allowed else "none is allowed here"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
