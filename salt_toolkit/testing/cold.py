"""Asks a component's config what `salt check` asks, and says which heavy libraries that imported.

It is run by its path in an interpreter of its own: `salt_toolkit.testing` imports torch, and so this module
must not be imported from there. Its argument, in JSON, is a `ComponentContract.circumstances`; its last line of
output is a JSON object with the libraries that came at each question.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from functools import partial
from typing import Any

from salt_toolkit.component import Component
from salt_toolkit.errors import MissingArtifact
from salt_toolkit.geometry import ClipSpec, Grid, MaskCounts, TokenSpec
from salt_toolkit.registry import Registry

HEAVY = {"torch", "torchvision", "timm", "transformers", "av", "decord", "sklearn", "matplotlib"}

Question = tuple[str, Callable[[], object]]


def questions(kind: str, component: Component, config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    """What `salt check` asks of a kind, each with its name.

    Args:
        kind: The component's kind.
        component: The component, whose build is asked of schedules alone.
        config: Its config.
        given: `ComponentContract.circumstances`.
    """
    yield "missing()", lambda: list(config.missing())
    asked = _ASKED.get(kind)
    if asked is not None:
        yield from asked(config, given)
    elif kind == "schedule":
        yield "build()", lambda: _values(component.build(config, total_steps=given["total_steps"]), given)


def _of_teacher(config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    clip = _clip(given)
    yield "token_spec()", partial(config.token_spec, clip)
    yield "cost()", partial(config.cost, clip)
    yield "identity()", partial(config.identity, clip)
    yield "weight_files()", config.weight_files
    yield "card()", config.card
    yield "known_checkpoints()", config.known_checkpoints


def _of_student(config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    clip = _clip(given)
    yield "token_spec()", partial(config.token_spec, clip)
    yield "cost()", partial(config.cost, clip, given["visible"])
    yield "card()", config.card
    yield "identity()", config.identity
    yield "teachable_layers()", config.teachable_layers
    yield "structure()", config.structure


def _of_predictor(config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    student, teacher = _spec(given["student"]), _spec(given["teacher"])
    yield "cost()", partial(config.cost, student, teacher, _counts(given))


def _of_masker(config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    grid = Grid(**given["grid"])
    yield "counts()", partial(config.counts, grid)
    yield "counts() of a scheduled ratio", partial(config.counts, grid, given["ratio"])


def _of_dataset(config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    yield "num_clips()", config.num_clips
    yield "identity()", config.identity


def _of_objective(config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    yield "check()", partial(config.check, _spec(given["teacher"]))


def _of_method(config: Any, given: Mapping[str, Any]) -> Iterator[Question]:
    drawn = _counts(given)
    yield "counts()", partial(config.counts, drawn)
    yield "passes()", config.passes
    yield "without_effect()", partial(config.without_effect, drawn)


_ASKED: Mapping[str, Callable[[Any, Mapping[str, Any]], Iterator[Question]]] = {
    "teacher": _of_teacher,
    "student": _of_student,
    "predictor": _of_predictor,
    "masker": _of_masker,
    "dataset": _of_dataset,
    "objective": _of_objective,
    "method": _of_method,
}


def _clip(given: Mapping[str, Any]) -> ClipSpec:
    return ClipSpec.model_validate_json(json.dumps(given["clip"]))


def _spec(fields: Mapping[str, Any]) -> TokenSpec:
    return TokenSpec(Grid(**fields["grid"]), fields["dim"])


def _counts(given: Mapping[str, Any]) -> MaskCounts:
    return MaskCounts(visible=given["visible"], target=given["target"])


def _values(schedule: Callable[[int], float], given: Mapping[str, Any]) -> list[float]:
    return [schedule(step) for step in (0, given["total_steps"] // 2, given["total_steps"] - 1)]


def main(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """Asks everything; the heavy libraries that came, by the question at which they did."""
    plugin, kind, section = given["plugin"], given["kind"], dict(given["section"])
    came: dict[str, list[str]] = {}
    known: set[str] = set()

    def note(question: str) -> None:
        new = (HEAVY & sys.modules.keys()) - known
        if new:
            came[question] = sorted(new)
            known.update(new)

    registry = Registry.from_modules({plugin: importlib.import_module(plugin)})
    component = registry.get(kind, section.pop("use")).component
    note("import")
    config = component.config.model_validate_json(json.dumps(section))
    note("the config's validation")
    for name, question in questions(kind, component, config, given):
        with suppress(MissingArtifact):  # an answer too: it lies in a file that is not there
            question()
        note(name)
    return came


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        answer = json.dumps(main(json.loads(sys.argv[1])))
    sys.stdout.write(f"{answer}\n")
