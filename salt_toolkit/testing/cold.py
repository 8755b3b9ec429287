"""Asks a component's config what `salt check` asks, and says which heavy libraries that imported.

It is run by its path in an interpreter of its own: `salt_toolkit.testing` imports torch, and so this module
must not be imported from there. Its argument, in JSON, is a `ComponentContract.circumstances`; its last line of
output is a JSON object with the libraries that came at each question.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from functools import partial
from typing import Any, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from salt_toolkit.component import Component
from salt_toolkit.errors import GeometryError, MissingArtifact, SaltError
from salt_toolkit.kinds import Kind, asked_for
from salt_toolkit.registry import Registry

HEAVY = {"torch", "torchvision", "timm", "transformers", "av", "decord", "sklearn", "matplotlib"}

Question = tuple[str, Callable[[], object]]


def questions(kind: Kind, component: Component, config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    """What `salt check` may ask, each with its name: every public method that the kind's base defines.

    Args:
        kind: The component's kind.
        component: The component, which is built as well if its kind is light.
        config: Its config.
        given: `ComponentContract.circumstances`: a method's arguments are looked up by their names.
    """
    for name, method in _methods(kind.config):
        question = getattr(config, name)
        parameters = list(inspect.signature(method).parameters)[1:]
        hints = get_type_hints(method)
        optional = {
            each.name for each in inspect.signature(method).parameters.values() if each.default is not each.empty
        }
        try:
            arguments = {each: _typed(hints[each], given[each]) for each in parameters if each in given}
        except ValidationError:
            if given["clip"] is not None or "clip" not in parameters:
                raise
            continue  # it is about clips of video, and there are none
        if unknown := set(parameters) - set(arguments) - optional:
            raise SaltError(f"{name}() asks for {', '.join(sorted(unknown))}: add it to the test's circumstances()")
        yield f"{name}()", partial(question, **{each: arguments[each] for each in arguments if each not in optional})
        if optional & set(arguments):
            yield f"{name}() of {', '.join(sorted(optional & set(arguments)))}", partial(question, **arguments)
    if kind.light:
        context = {name: given[name] for name in asked_for(component.build, kind.context)}
        yield "build()", lambda: _values(component.build(config, **context), given.get("steps", ()))


def _methods(base: type[Any]) -> Iterator[tuple[str, Any]]:
    """The public methods of a base of configs, without those of pydantic."""
    known: set[str] = set()
    for owner in base.__mro__[: base.__mro__.index(BaseModel)]:
        for name, found in vars(owner).items():
            function = found.__func__ if isinstance(found, classmethod) else found
            if not name.startswith("_") and inspect.isfunction(function) and name not in known:
                known.add(name)
                yield name, function


def _typed(hint: Any, value: Any) -> Any:
    return TypeAdapter(hint).validate_json(json.dumps(value))


def _values(built: Any, steps: list[int]) -> list[float]:
    return [built(step) for step in steps]


def main(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """Asks everything; the heavy libraries that came, by the question at which they did."""
    plugin, section = given["plugin"], dict(given["section"])
    came: dict[str, list[str]] = {}
    known: set[str] = set()

    def note(question: str) -> None:
        new = (HEAVY & sys.modules.keys()) - known
        if new:
            came[question] = sorted(new)
            known.update(new)

    registry = Registry.from_modules({plugin: importlib.import_module(plugin)})
    kind = registry.kinds[given["kind"]]
    component = registry.get(kind.name, section.pop("use")).component
    note("import")
    config = component.config.model_validate_json(json.dumps(section))
    note("the config's validation")
    for name, question in questions(kind, component, config, given):
        # Answers, too: it lies in a file that is not there, or the question does not fit the component.
        with suppress(MissingArtifact, GeometryError):
            question()
        note(name)
    return came


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        answer = json.dumps(main(json.loads(sys.argv[1])))
    sys.stdout.write(f"{answer}\n")
