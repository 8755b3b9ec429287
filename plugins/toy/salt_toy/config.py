"""Settings of every component. No torch here: `salt check` reads them without building anything."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from salt_toolkit import (
    ClipSpec,
    Cost,
    DatasetConfig,
    GeometryError,
    Grid,
    Inputs,
    MaskCounts,
    MaskerConfig,
    MethodConfig,
    ObjectiveConfig,
    PredictorConfig,
    ScheduleConfig,
    StudentConfig,
    TeacherConfig,
    TokenSpec,
)
from salt_toolkit.flops import linear_flops, linear_parameters
from salt_toolkit.geometry import share_of


class ProjectionConfig(TeacherConfig):
    """Settings of the teacher ``toy_projection``."""

    tubelet: int = Field(2, ge=1, description="Video frames in one token.")
    patch: int = Field(8, ge=1, description="Height and width of one token, in pixels.")
    dim: int = Field(24, ge=1, description="Numbers in one latent.")

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """See `TeacherConfig`."""
        return TokenSpec(Grid.of(clip, tubelet=self.tubelet, patch=self.patch), self.dim)

    def cost(self, inputs: Inputs) -> Cost:
        """One Linear layer over all tokens."""
        spec, numbers = self.token_spec(inputs.video), self.tubelet * self.patch**2 * 3
        flops = linear_flops(spec.grid.num_tokens, numbers, self.dim)
        return Cost(parameters=linear_parameters(numbers, self.dim), forward_flops=flops, input_flops=flops)


class MixerConfig(StudentConfig):
    """Settings of the student ``toy_mixer``."""

    tubelet: int = Field(2, ge=1, description="Video frames in one token.")
    patch: int = Field(8, ge=1, description="Height and width of one token, in pixels.")
    dim: int = Field(32, ge=1, description="Numbers in one token.")

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """See `StudentConfig`."""
        return TokenSpec(Grid.of(clip, tubelet=self.tubelet, patch=self.patch), self.dim)

    def cost(self, inputs: Inputs, visible: int) -> Cost:
        """Two Linear layers over the visible tokens; the positions only add."""
        numbers = self.tubelet * self.patch**2 * 3
        positions = self.token_spec(inputs.video).grid.num_tokens * self.dim
        embedding = linear_flops(visible, numbers, self.dim)
        return Cost(
            parameters=linear_parameters(numbers, self.dim) + positions + linear_parameters(self.dim, self.dim),
            forward_flops=embedding + linear_flops(visible, self.dim, self.dim),
            input_flops=embedding,
            activations=visible * (numbers + 3 * self.dim),
        )


class RegressorConfig(PredictorConfig):
    """Settings of the predictor ``toy_regressor``."""

    def cost(self, student: TokenSpec, teacher: TokenSpec, counts: MaskCounts) -> Cost:
        """One Linear layer over the mean token, and one over the targets."""
        summary, head = (student.dim, student.dim), (student.dim, teacher.dim)
        return Cost(
            parameters=linear_parameters(*summary) + linear_parameters(*head) + teacher.grid.num_tokens * student.dim,
            forward_flops=linear_flops(1, *summary) + linear_flops(counts.target, *head),
            activations=counts.target * 2 * student.dim,
        )


class WindowConfig(MaskerConfig):
    """Settings of the masker ``toy_window``."""

    ratio: float = Field(0.75, gt=0, lt=1, description="Share of all tokens that are hidden, rounded down.")

    def counts(self, grid: Grid, ratio: float | None = None) -> MaskCounts:
        """See `MaskerConfig`."""
        ratio = self.ratio if ratio is None else ratio
        hidden = share_of(ratio, grid.num_tokens)
        if not 0 < hidden < grid.num_tokens:
            raise GeometryError(f"ratio = {ratio} hides {hidden} of {grid}; choose one that leaves both kinds")
        return MaskCounts(visible=grid.num_tokens - hidden, target=hidden)


class SquaresConfig(DatasetConfig):
    """Settings of the dataset ``toy_squares``; every split is another set of clips."""

    clips: int = Field(64, ge=1, description="Clips in the split.")

    def num_clips(self) -> int:
        """See `DatasetConfig`."""
        return self.clips


class DecayConfig(ScheduleConfig):
    """Settings of the schedule ``toy_decay``."""

    start: float = Field(gt=0, description="Value at step 0, in the unit of what is scheduled.")
    end: float = Field(gt=0, description="Value at the end of the run, in the same unit.")


class LogCoshConfig(ObjectiveConfig):
    """Settings of the objective ``toy_log_cosh``."""

    width: float = Field(1.0, gt=0, description="Error, in units of the latents, at which squares turn into lines.")


class DenseConfig(MethodConfig):
    """Settings of the method ``toy_dense``: none."""

    needs: ClassVar[tuple[str, ...]] = ("teacher", "student", "objective")
