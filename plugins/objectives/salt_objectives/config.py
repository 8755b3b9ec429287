"""Settings of the objectives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from salt_objectives.hadamard import known_order
from salt_toolkit import GeometryError, ObjectiveConfig, SettingError, TokenSpec

MEASURED = ("channel", "position", "phi_s")
"""The normalisations that need statistics of the teacher's latents."""

RUNNING = ("channel", "position")
"""Those whose statistics may also be taken while training goes on."""


class LatentLossConfig(ObjectiveConfig):
    """Settings of every loss between latents."""

    target_norm: Literal["none", "layer", "channel", "position", "phi_s"] = Field(
        "none",
        description=(
            "What is taken out of the teacher's latents. none: nothing. layer: each token's own mean and "
            "standard deviation (eps 1e-6), as V-JEPA. channel: each channel's, over all tokens of the calibration "
            "clips. position: each channel's at each place of the grid, over the calibration clips. phi_s: their mean "
            "and one common scale, after a rotation that gives all channels the same variance (PHI-S)."
        ),
    )
    statistics: Literal["calibration", "running"] = Field(
        "calibration",
        description="Where target_norm = channel or position gets its statistics. calibration: from clips read before "
        "the first step. running: from all clips trained on so far.",
    )
    calibration_clips: int = Field(
        256, ge=2, description="Clips whose latents give the statistics of target_norm = channel, position or phi_s."
    )

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> LatentLossConfig:
        if self.statistics == "running" and self.target_norm not in RUNNING:
            raise SettingError(
                f"statistics = 'running' does not work with target_norm = {self.target_norm!r}; "
                "leave it out, or choose target_norm = 'channel' or 'position'",
                fields=["target_norm"],
                leave_out=["statistics"],
            )
        # The default is let through, so that a recipe with every default written out is still valid.
        default = type(self).model_fields["calibration_clips"].default
        if not self.calibrates and self.calibration_clips != default:
            why = "statistics = 'running'" if self.statistics == "running" else f"target_norm = {self.target_norm!r}"
            raise SettingError(
                f"calibration_clips = {self.calibration_clips} has no effect with {why}; leave it out, "
                "or choose target_norm = 'channel', 'position' or 'phi_s' with statistics = 'calibration'",
                fields=["target_norm", "statistics"],
                leave_out=["calibration_clips"],
            )
        return self

    @property
    def calibrates(self) -> bool:
        """Whether clips are read for statistics before the first step."""
        return self.target_norm in MEASURED and self.statistics == "calibration"

    def check(self, teacher: TokenSpec) -> None:
        """PHI-S needs a Hadamard matrix of the latents' width.

        Raises:
            GeometryError: None can be made.
        """
        if self.target_norm == "phi_s" and not known_order(teacher.dim):
            raise GeometryError(
                f"target_norm = 'phi_s' needs a Hadamard matrix as wide as the teacher's latents, and none of width "
                f"{teacher.dim} can be made here; choose target_norm = 'channel' (a scale for each channel) or "
                "'layer', or other layers of the teacher"
            )


class SmoothL1Config(LatentLossConfig):
    """Settings of the smooth L1 loss."""

    beta: float = Field(
        1.0,
        gt=0,
        description="Difference at which the loss turns from squared to absolute, in units of the normalised latents.",
    )
