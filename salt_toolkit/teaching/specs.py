"""What a recipe's parts give one another: streams and token grids, by arithmetic; no torch."""

from __future__ import annotations

from salt_toolkit.context import MethodContext
from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.recipe import Recipe, Teaching
from salt_toolkit.streams import SampleSpec, StreamSpec


def teacher_streams(recipe: Recipe, teaching: Teaching) -> SampleSpec:
    """One teacher's outputs for a sample of the recipe's data set.

    Raises:
        GeometryError: It reads a tensor that the samples lack, or they do not fit it.
    """
    inputs, config = recipe.inputs(), teaching.teacher.config
    for name in config.reads():
        inputs.tensor(name)
    return config.streams(inputs)


def student_streams(recipe: Recipe) -> SampleSpec:
    """The student's outputs for a whole sample.

    Raises:
        RecipeError: There is no student.
    """
    return recipe.need("student").config.streams(recipe.inputs())


def student_spec(recipe: Recipe) -> TokenSpec:
    """The student's tokens.

    Raises:
        GeometryError: They lie on no grid.
    """
    return grid_stream(student_streams(recipe), "the student")[2]


def student_grid(recipe: Recipe) -> Grid | None:
    """The grid of the student's tokens; None without a student, and for one whose outputs lie on no grid."""
    streams = student_streams(recipe) if recipe.student else {}
    grids = [stream.grid for stream in streams.values() if stream.tokens]
    return grids[0] if len(grids) == 1 else None


def latent_spec(recipe: Recipe, teaching: Teaching) -> TokenSpec:
    """One teacher's latents, on the student's grid if there is one.

    Raises:
        GeometryError: None of the teacher's streams lies on a grid, or several do.
    """
    own = grid_stream(teacher_streams(recipe, teaching), f"the teacher {teaching.name!r}")[2]
    return TokenSpec(student_grid(recipe) or own.grid, own.dim)


def predicted_spec(recipe: Recipe) -> TokenSpec:
    """The latents of all teachers side by side, on the student's grid."""
    dims = [latent_spec(recipe, teaching).dim for teaching in recipe.teachings()]
    return TokenSpec(student_spec(recipe).grid, sum(dims))


def grid_stream(streams: SampleSpec, whose: str) -> tuple[str, StreamSpec, TokenSpec]:
    """A model's only stream with a vector for every token of a grid: its name, itself, its tokens without the prefix.

    Args:
        streams: Of one model.
        whose: The model, as an error calls it.

    Raises:
        GeometryError: There is none, or there are several.
    """
    found = [(name, stream, stream.tokens) for name, stream in streams.items() if stream.tokens is not None]
    if len(found) != 1:
        listed = ", ".join(f"{name} ({stream})" for name, stream in streams.items()) or "none"
        raise GeometryError(f"{whose} has to give one vector for every token of one grid; its streams are: {listed}")
    name, stream, tokens = found[0]
    assert tokens is not None
    return name, stream, tokens


def method_context(recipe: Recipe) -> MethodContext:
    """The recipe as its method's config sees it.

    Raises:
        SaltError: One of the parts does not fit.
    """
    student = student_streams(recipe) if recipe.student else None
    counts = recipe.masker.config.counts(student_spec(recipe).grid) if recipe.masker and student else None
    return MethodContext(
        inputs=recipe.inputs(),
        teachers={teaching.name: teacher_streams(recipe, teaching) for teaching in recipe.teachings()},
        student=student,
        counts=counts,
        labels=recipe.dataset.config.label_spec(),
        num_clips=recipe.dataset.config.num_clips(),
        batch_size=recipe.train.batch_size,
    )
