"""Configs of the pixel teacher and of the teacher from an earlier run; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from salt_toolkit import ClipSpec, Cost, GeometryError, Grid, MissingArtifact, StudentConfig, TeacherConfig, TokenSpec
from salt_toolkit.recipe import Recipe
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

    def missing(self) -> Sequence[MissingArtifact]:
        """The run, or its finished student."""
        try:
            find_student(self.path)
        except MissingArtifact as missing:
            return [missing]
        return ()

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The tokens of that run's student, if the clips have the size that it was trained on."""
        recipe = run_recipe(self.path)
        if (clip.frames, clip.size) != (recipe.clip.frames, recipe.clip.size):
            raise GeometryError(
                f"the run in {self.path} learned from clips of {recipe.clip.frames} frames of {recipe.clip.size} "
                f"pixels, and this recipe's clips have {clip.frames} frames of {clip.size}; make them equal"
            )
        return _student(recipe, self.path).token_spec(recipe.clip)

    def cost(self, clip: ClipSpec) -> Cost | None:
        """That student's cost with every token visible."""
        student = _student(run_recipe(self.path), self.path)
        return student.cost(clip, student.token_spec(clip).grid.num_tokens)


def _student(recipe: Recipe, path: str) -> StudentConfig:
    if recipe.student is None:
        raise GeometryError(f"the run in {path} trained no student, so it cannot teach; name another run")
    return recipe.student.config
