"""From a recipe to the objects of a run: the only place where ``build`` is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from salt_toolkit.component import DatasetConfig
from salt_toolkit.contracts import Dataset, Method, Objective, Parts, Predictor, Schedule, Student, Teacher
from salt_toolkit.errors import Problem as RecipeProblem
from salt_toolkit.errors import RecipeError, SaltError
from salt_toolkit.geometry import ClipSpec, TokenSpec
from salt_toolkit.recipe import Recipe, Selected, Teaching
from salt_toolkit.seeding import seed_for
from salt_toolkit.teaching.alignment import AlignedTeacher


def build_dataset(recipe: Recipe, *, split: str | None = None, clip: ClipSpec | None = None) -> Dataset:
    """Builds the recipe's dataset.

    Args:
        recipe: A valid recipe.
        split: Another split than the recipe's own.
        clip: Another clip than the recipe's own, such as ``clip.for_evaluation()``.
    """
    config: DatasetConfig = recipe.dataset.config
    if split is not None:
        config = config.model_copy(update={"split": split})
    return Selected(recipe.dataset.provided, config).build(clip=clip or recipe.clip, seed=recipe.run.seed)


def build_student(recipe: Recipe) -> Student:
    """Builds the student with its initial weights, which depend on the recipe's seed alone."""
    section = _required(recipe.student, "student")
    with _seeded(recipe, "student"):
        return section.build(clip=recipe.clip)


def build_teacher(recipe: Recipe, teaching: Teaching) -> Teacher:
    """Builds one of the recipe's frozen teachers, with its own grid."""
    with _seeded(recipe, teaching.key):
        return teaching.teacher.build(clip=recipe.clip)


def build_teachers(recipe: Recipe, stand_ins: Mapping[str, Teacher] | None = None) -> dict[str, Teacher]:
    """Builds all frozen teachers by name; one whose grid is not the student's is resampled to it.

    Args:
        recipe: A valid recipe.
        stand_ins: Teachers to take instead of building them, by name, such as those of a cache.
    """
    built: dict[str, Teacher] = {}
    for teaching in _teachings(recipe):
        teacher = stand_ins[teaching.name] if stand_ins else build_teacher(recipe, teaching)
        grid = latent_spec(recipe, teaching).grid
        same = teacher.token_spec.grid == grid
        built[teaching.name] = teacher if same else AlignedTeacher(teacher, grid).eval()
    return built


def build_predictor(recipe: Recipe) -> Predictor:
    """Builds the predictor between the student's tokens and the latents of all teachers."""
    student, teacher = student_spec(recipe), predicted_spec(recipe)
    with _seeded(recipe, "predictor"):
        return _required(recipe.predictor, "predictor").build(student=student, teacher=teacher)


def build_method(recipe: Recipe, *, total_steps: int, stand_ins: Mapping[str, Teacher] | None = None) -> Method:
    """Builds the method with all the parts that it asks for; see `build_teachers` for ``stand_ins``."""
    needs = recipe.method.config.needs
    schedules = build_schedules(recipe, total_steps=total_steps)
    parts = Parts(
        seed=recipe.run.seed,
        teachers=build_teachers(recipe, stand_ins) if "teacher" in needs else {},
        objectives=build_objectives(recipe) if "objective" in needs else {},
        weights={teaching.name: teaching.weight for teaching in recipe.teachings()},
        student=build_student(recipe) if "student" in needs else None,
        predictor=build_predictor(recipe) if "predictor" in needs else None,
        masker=_required(recipe.masker, "masker").build(grid=student_spec(recipe).grid) if "masker" in needs else None,
        schedules={name: schedules[name] for name in recipe.method.config.schedules if name in schedules},
    )
    with _seeded(recipe, "method"):
        return recipe.method.build(parts=parts)


def build_objectives(recipe: Recipe) -> dict[str, Objective]:
    """Builds an objective for the latents of each teacher, by the teacher's name."""
    return {
        teaching.name: _required(teaching.objective, "objective").build(teacher=latent_spec(recipe, teaching))
        for teaching in _teachings(recipe)
    }


def build_schedules(recipe: Recipe, *, total_steps: int) -> dict[str, Schedule]:
    """Builds every schedule of the recipe, by name."""
    built: dict[str, Schedule] = {}
    for name, selected in recipe.schedules.items():
        try:
            built[name] = selected.build(total_steps=total_steps)
        except SaltError as error:
            raise RecipeError([RecipeProblem(f"schedules.{name}", str(error))]) from error
    return built


def student_spec(recipe: Recipe) -> TokenSpec:
    """The student's tokens for the recipe's clip, by arithmetic."""
    return _required(recipe.student, "student").config.token_spec(recipe.clip)


def latent_spec(recipe: Recipe, teaching: Teaching) -> TokenSpec:
    """One teacher's latents for the recipe's clip, on the student's grid if there is a student; by arithmetic."""
    own = teaching.teacher.config.token_spec(recipe.clip)
    return own if recipe.student is None else TokenSpec(student_spec(recipe).grid, own.dim)


def predicted_spec(recipe: Recipe) -> TokenSpec:
    """The latents of all teachers side by side, on the student's grid; by arithmetic."""
    dims = [latent_spec(recipe, teaching).dim for teaching in _teachings(recipe)]
    return TokenSpec(student_spec(recipe).grid, sum(dims))


def _teachings(recipe: Recipe) -> tuple[Teaching, ...]:
    teachings = recipe.teachings()
    if not teachings:
        raise RecipeError([RecipeProblem("teacher", "missing; this method needs the section")])
    return teachings


def _required(section: Selected[Any] | None, name: str) -> Selected[Any]:
    if section is None:
        raise RecipeError([RecipeProblem(name, "missing; this method needs the section")])
    return section


class _seeded:
    """Seeds torch for one part, so that changing another part leaves its initial weights alone."""

    def __init__(self, recipe: Recipe, part: str) -> None:
        self.seed = seed_for(recipe.run.seed, "weights", part)
        self.fork = torch.random.fork_rng(devices=[])

    def __enter__(self) -> None:
        self.fork.__enter__()
        torch.manual_seed(self.seed)

    def __exit__(self, *details: Any) -> None:
        self.fork.__exit__(*details)
