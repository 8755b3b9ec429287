"""From a recipe to the objects of a run: the only place where ``build`` is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from salt_toolkit.contracts import Dataset, Method, Objective, Parts, Predictor, Schedule, Student, Teacher
from salt_toolkit.errors import PluginError, RecipeError, SaltError
from salt_toolkit.errors import Problem as RecipeProblem
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.recipe import Recipe, Teaching
from salt_toolkit.seeding import seed_for
from salt_toolkit.teaching.alignment import AlignedTeacher
from salt_toolkit.teaching.precision import FixedPrecision
from salt_toolkit.teaching.specs import (
    grid_stream,
    latent_spec,
    method_context,
    predicted_spec,
    student_grid,
    student_spec,
    teacher_streams,
)


def build(recipe: Recipe, key: str, **context: Any) -> Any:
    """Builds what one section of a recipe selects.

    Its build function gets what its signature names of its kind's context. Initial weights depend on the recipe's seed
    and the section's key alone, so that changing another part leaves them alone.

    Args:
        recipe: A valid recipe.
        key: Dotted, such as ``student`` or ``teachers.motion``.
        context: What only the caller knows, and what is to be other than the recipe says.

    Raises:
        RecipeError: There is no such section.
        PluginError: The build function asks for something that the caller has to give, and has not.
    """
    selected = recipe.need(key)
    asks = selected.provided.asks
    if unknown := [name for name in asks if name not in context and name not in _CONTEXT]:
        raise PluginError(f"{selected.provided} asks for {', '.join(unknown)}, which whoever builds it has to give")
    given = {name: context[name] if name in context else _CONTEXT[name](recipe) for name in asks}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(recipe.run.seed, "weights", key))
        return selected.build(**given)


def build_dataset(recipe: Recipe, *, split: str | None = None, clip: ClipSpec | None = None) -> Dataset:
    """Builds the recipe's dataset.

    Args:
        recipe: A valid recipe.
        split: Another split than the recipe's own.
        clip: Another clip than the recipe's own, such as ``clip.for_evaluation()``.
    """
    section = recipe.dataset
    if split is not None:
        section = replace(section, config=section.config.model_copy(update={"split": split}))
    return build(recipe.with_component("dataset", section), "dataset", clip=clip or recipe.clip)


def build_student(recipe: Recipe) -> Student:
    """Builds the student with its initial weights, which depend on the recipe's seed alone."""
    return build(recipe, "student")


def build_teacher(recipe: Recipe, teaching: Teaching) -> Teacher:
    """Builds one of the recipe's frozen teachers, with its own grid."""
    teacher = build(recipe, teaching.key)
    precision = teaching.teacher.config.precision()
    return teacher if precision is None else FixedPrecision(teacher, precision)


def build_teachers(recipe: Recipe, stand_ins: Mapping[str, Teacher] | None = None) -> dict[str, Teacher]:
    """Builds all frozen teachers by name; one whose grid is not the student's is resampled to it.

    Args:
        recipe: A valid recipe.
        stand_ins: Teachers to take instead of building them, by name, such as those of a cache.
    """
    built: dict[str, Teacher] = {}
    for teaching in _teachings(recipe):
        teacher = stand_ins[teaching.name] if stand_ins else build_teacher(recipe, teaching)
        built[teaching.name] = _on_the_students_grid(recipe, teaching, teacher)
    return built


def _on_the_students_grid(recipe: Recipe, teaching: Teaching, teacher: Teacher) -> Teacher:
    """The teacher as the method wants it: objectives get one tensor of latents, on the student's grid."""
    streams = teacher_streams(recipe, teaching)
    one = len(streams) == 1 and all(stream.tokens for stream in streams.values())
    if teaching.objective is None and not (one and student_grid(recipe)):
        return teacher
    name, stream, own = grid_stream(streams, f"the teacher {teaching.name!r}")
    grid = student_grid(recipe) or own.grid
    if len(streams) == 1 and grid == own.grid and not (stream.prefix or stream.by_frame):
        return teacher
    return AlignedTeacher(teacher, grid, name, stream).eval()


def build_predictor(recipe: Recipe) -> Predictor:
    """Builds the predictor between the student's tokens and the latents of all teachers."""
    return build(recipe, "predictor")


def build_method(recipe: Recipe, *, total_steps: int, stand_ins: Mapping[str, Teacher] | None = None) -> Method:
    """Builds the method with all the parts that it asks for; see `build_teachers` for ``stand_ins``."""
    needs = recipe.method.config.needs
    schedules = build_schedules(recipe, total_steps=total_steps)
    others = [kind for kind in needs if kind not in _OWN_PARTS]
    parts = Parts(
        seed=recipe.run.seed,
        teachers=build_teachers(recipe, stand_ins) if "teacher" in needs else {},
        objectives=build_objectives(recipe) if "objective" in needs else {},
        weights={teaching.name: teaching.weight for teaching in recipe.teachings()},
        student=build_student(recipe) if "student" in needs else None,
        predictor=build_predictor(recipe) if "predictor" in needs else None,
        masker=build(recipe, "masker") if "masker" in needs else None,
        schedules={name: schedules[name] for name in recipe.method.config.schedules if name in schedules},
        others={kind: build_all(recipe, kind) for kind in others},
        context=method_context(recipe),
    )
    return build(recipe, "method", parts=parts)


def build_all(recipe: Recipe, kind: str, **context: Any) -> dict[str, Any]:
    """Builds every component of a kind, by name; one that has a section of its own is called by the kind's name.

    Args:
        recipe: A valid recipe.
        kind: Such as ``student``, or a kind that a plugin adds.
        context: See `build`.
    """
    keys = {name: f"{kind}s.{name}" for name in recipe.named(kind)}
    keys |= {kind: kind} if kind in recipe.components else {}
    return {name: build(recipe, key, **context) for name, key in keys.items()}


def build_objectives(recipe: Recipe) -> dict[str, Objective]:
    """Builds an objective for the latents of each teacher, by the teacher's name."""
    return {
        teaching.name: build(recipe, teaching.objective_key, teacher=latent_spec(recipe, teaching))
        for teaching in _teachings(recipe)
    }


def build_schedules(recipe: Recipe, *, total_steps: int) -> dict[str, Schedule]:
    """Builds every schedule of the recipe, by name."""
    built: dict[str, Schedule] = {}
    for name in recipe.schedules:
        key = f"schedules.{name}"
        try:
            built[name] = build(recipe, key, total_steps=total_steps)
        except SaltError as error:
            raise RecipeError([RecipeProblem(key, str(error))]) from error
    return built


def _teachings(recipe: Recipe) -> tuple[Teaching, ...]:
    teachings = recipe.teachings()
    if not teachings:
        recipe.need("teacher")
    return teachings


_OWN_PARTS = {entry.name.removesuffix("s") for entry in fields(Parts)}
"""Kinds that `Parts` has a field for."""

_CONTEXT: Mapping[str, Callable[[Recipe], Any]] = {
    "clip": lambda recipe: recipe.clip,
    "inputs": lambda recipe: recipe.inputs(),
    "seed": lambda recipe: recipe.run.seed,
    "student": student_spec,
    "teacher": predicted_spec,
    "grid": lambda recipe: student_spec(recipe).grid,
}
"""What a build function may ask for that the recipe alone decides; the rest is the caller's, such as ``parts``."""
