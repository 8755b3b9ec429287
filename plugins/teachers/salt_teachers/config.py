"""Configs of the pixel teacher and of the teacher from an earlier run; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from salt_toolkit import (
    ClipSpec,
    Cost,
    GeometryError,
    Grid,
    MissingArtifact,
    ModelCard,
    SaltError,
    StudentConfig,
    TeacherConfig,
    TokenSpec,
)
from salt_toolkit.recipe import Recipe, Selected
from salt_toolkit.runs import find_student, run_recipe

CHANNELS = 3


class PixelsConfig(TeacherConfig):
    """The clip itself as latents: stage 1 of SALT, where the student learns from pixels."""

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

    def cost(self, clip: ClipSpec) -> Cost:
        """Cutting up pixels takes no matrix product."""
        return Cost(parameters=0, forward_flops=0)


class RunConfig(TeacherConfig):
    """The student of an earlier run, frozen."""

    path: str = Field(description="Directory of a complete run, such as runs/demo/teacher; from the working directory.")
    norm: Literal["none", "layer"] = Field(
        "none", description="What is done to the student's tokens. layer: a LayerNorm without weights."
    )

    def missing(self) -> Sequence[MissingArtifact]:
        """The run, or its finished student."""
        try:
            find_student(self.path)
        except MissingArtifact as missing:
            return [missing]
        return ()

    def run_clip(self) -> ClipSpec:
        """The clip that the run was trained on: its student sees no other."""
        return run_recipe(self.path).clip

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The tokens of that run's student, whatever the recipe's clip: its own fits its positions."""
        recipe = run_recipe(self.path)
        return _student(recipe, self.path).config.token_spec(recipe.clip)

    def cost(self, clip: ClipSpec) -> Cost | None:
        """That student's cost with every token visible."""
        recipe = run_recipe(self.path)
        student = _student(recipe, self.path).config
        return student.cost(recipe.clip, student.token_spec(recipe.clip).grid.num_tokens)

    def weight_files(self) -> Sequence[Path]:
        """The finished student."""
        return () if self.missing() else (find_student(self.path),)

    def identity(self, clip: ClipSpec) -> Mapping[str, Any]:
        """What the student is and sees; not where the run lies."""
        recipe = run_recipe(self.path)
        student = _student(recipe, self.path)
        return {
            "student": {"use": student.use, **student.config.model_dump(mode="json")},
            "norm": self.norm,
            "preprocessing": {"frames": recipe.clip.frames, "size": recipe.clip.size},
        }

    def card(self) -> ModelCard:
        """The terms and the labels of all weights that the run's student came from; "own" where there were none.

        A teacher's licence is carried over because its owner may see its students as derived from it.
        """
        try:
            recipe = run_recipe(self.path)
        except SaltError:
            return ModelCard()
        cards = [teaching.teacher.config.card() for teaching in recipe.teachings()]
        cards.append(recipe.student.config.card() if recipe.student else ModelCard())
        licences = {card.licence for card in cards if card} or {"own"}
        labels = {card.labels for card in cards if card} - {"none"} or {"none"}
        return ModelCard(" and ".join(sorted(licences)), " and ".join(sorted(labels)))


def _student(recipe: Recipe, path: str) -> Selected[StudentConfig]:
    if recipe.student is None:
        raise GeometryError(f"the run in {path} trained no student, so it cannot teach; name another run")
    return recipe.student
