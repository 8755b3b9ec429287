"""Configs of the pixel teacher and of the teacher from an earlier run; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from salt_toolkit import (
    ClipSpec,
    Cost,
    GeometryError,
    Grid,
    Inputs,
    MissingArtifact,
    ModelCard,
    SaltError,
    StudentConfig,
    TeacherConfig,
    TokenSpec,
)
from salt_toolkit.recipe import Recipe, Selected
from salt_toolkit.runs.directory import check_student, find_student, run_recipe, stored_cards
from salt_toolkit.teaching.code import code_stamps
from salt_toolkit.teaching.config import LayersConfig

CHANNELS = 3
AND = " and "
"""Between the licences of several weights."""


class PixelsConfig(TeacherConfig):
    """The clip itself as latents: stage 1 of SALT, where the student learns from pixels."""

    revision: ClassVar[int | None] = 1

    patch: int = Field(16, ge=1, description="Height and width of a token in pixels, as the student's.")
    tubelet: int = Field(2, ge=1, description="Video frames in one token, as the student's.")
    norm: Literal["none", "tubelet", "clip"] = Field(
        "tubelet",
        description="none: pixels from 0 to 1. tubelet: less the mean of the token's pixels, over their standard "
        "deviation, as MAE's norm_pix_loss. clip: the same with each colour's mean and deviation over the clip.",
    )

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """A token's latent is all its pixels."""
        grid = Grid.of(clip, tubelet=self.tubelet, patch=self.patch)
        return TokenSpec(grid, CHANNELS * self.tubelet * self.patch**2)

    def cost(self, inputs: Inputs) -> Cost:
        """Cutting up pixels takes no matrix product."""
        return Cost(parameters=0, forward_flops=0)


class RunConfig(LayersConfig):
    """The student of an earlier run, frozen."""

    revision: ClassVar[int | None] = 1
    movable: ClassVar[tuple[str, ...]] = ("path",)

    path: str = Field(description="Directory of a complete run, such as runs/demo/teacher; from the working directory.")
    norm: Literal["none", "layer"] = Field(
        "none",
        description="What is done to each layer's tokens, which come from behind the student's own last norm. layer: a "
        "LayerNorm without weights.",
    )

    def missing(self) -> Sequence[MissingArtifact]:
        """The run, or its finished student."""
        try:
            find_student(self.path)
        except MissingArtifact as missing:
            return [_own_teacher(self.path) if _names_itself(self.path) else missing]
        return ()

    def run_clip(self) -> ClipSpec:
        """The clip that the run was trained on: its student sees no other."""
        return run_recipe(self.path).inputs().video

    def blocks(self) -> tuple[int, ...] | None:
        """Numbers of the student's blocks whose tokens are taken; None for what the student itself gives.

        Raises:
            GeometryError: The student has no such blocks, or does not give their tokens.
        """
        if self.layer in ("last", -1):
            return None
        depth = _student(run_recipe(self.path), self.path).config.teachable_layers()
        if not depth:
            shown = list(self.layer) if isinstance(self.layer, tuple) else self.layer
            raise GeometryError(
                f"layer = {shown}, and the student of the run in {self.path} gives no tokens but its last ones; "
                'choose layer = "last"'
            )
        numbers = self.layers(depth)
        return None if numbers == (depth,) else numbers

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The tokens of that run's student, whatever the recipe's clip: its own fits its positions."""
        recipe = run_recipe(self.path)
        spec = _student(recipe, self.path).config.token_spec(recipe.inputs().video)
        if not self.missing():
            check_student(self.path)
        num_joined = len(self.blocks() or (1,)) if self.join == "concat" else 1
        return TokenSpec(spec.grid, spec.dim * num_joined)

    def cost(self, inputs: Inputs) -> Cost | None:
        """That student's cost with every token visible, up to the last block that is used; later ones are dropped."""
        recipe = run_recipe(self.path)
        blocks = self.blocks()
        student = _student(recipe, self.path).config.structure(max(blocks) if blocks else None)
        return student.cost(recipe.inputs(), student.token_spec(recipe.inputs().video).grid.num_tokens)

    def weight_files(self) -> Sequence[Path]:
        """The finished student."""
        return () if self.missing() else (find_student(self.path),)

    def identity(self, inputs: Inputs) -> Mapping[str, Any]:
        """What the student is and sees, and what is taken of it; not where the run lies."""
        recipe = run_recipe(self.path)
        student = _student(recipe, self.path)
        blocks = self.blocks()
        taken = {"layers": list(blocks), "join": self.join if len(blocks) > 1 else "concat"} if blocks else {}
        return {
            "student": {"use": student.use, **student.config.identity(recipe.inputs())},
            "code": code_stamps(student.config, student.provided.component.build),
            **taken,
            "norm": self.norm,
            "preprocessing": {"frames": recipe.inputs().video.frames, "size": recipe.inputs().video.size},
        }

    def card(self) -> ModelCard:
        """The terms and the labels of all weights that the run's student came from; "own" where there were none.

        A teacher's licence is carried over because its owner may see its students as derived from it. The run wrote
        it down when it was made; one of an earlier version is asked for its recipe's teachers, where they still lie.

        Raises:
            MissingArtifact: By its recipes the run has learned from itself.
        """
        cards = [card for card in _origins(self.path, ()) if card]
        licences = {licence for card in cards for licence in card.licence.split(AND)} - {"own"} or {"own"}
        labels = {label for card in cards for label in card.labels.split(AND)} - {"none"} or {"none"}
        return ModelCard(AND.join(sorted(licences)), AND.join(sorted(labels)))


def _student(recipe: Recipe, path: str) -> Selected[StudentConfig]:
    if recipe.student is None:
        raise GeometryError(f"the run in {path} trained no student, so it cannot teach; name another run")
    return recipe.student


def _origins(path: str, passed: tuple[Path, ...]) -> Iterator[ModelCard | None]:
    """The cards of all weights that a run has come from; ``passed`` are the runs that it has taught."""
    stored, here = stored_cards(path), Path(path).resolve()
    if stored is not None:
        yield from stored
        return
    if here in passed:
        raise _own_teacher(path)
    try:
        recipe = run_recipe(path)
    except SaltError:
        yield ModelCard()
        return
    for teaching in recipe.teachings():
        config = teaching.teacher.config
        if isinstance(config, RunConfig):
            yield from _origins(config.path, (*passed, here))
        else:
            yield config.card()
    yield recipe.student.config.card() if recipe.student else ModelCard()


def _names_itself(path: str) -> bool:
    """Whether a run is named by its own recipe as its teacher."""
    try:
        configs = [teaching.teacher.config for teaching in run_recipe(path).teachings()]
    except SaltError:
        return False
    here = Path(path).resolve()
    return any(isinstance(config, RunConfig) and Path(config.path).resolve() == here for config in configs)


def _own_teacher(path: str) -> MissingArtifact:
    return MissingArtifact(
        f"the run in {path} is its own teacher, by its recipe", "Name another run, or give this one another name."
    )
