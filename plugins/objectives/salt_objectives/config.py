"""Settings of the objectives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from salt_toolkit import ObjectiveConfig

CALIBRATED = ("channel", "position")
"""The normalisations that need statistics of the teacher's latents."""


class LatentLossConfig(ObjectiveConfig):
    """Settings of every loss between latents."""

    target_norm: Literal["none", "layer", "channel", "position"] = Field(
        "none",
        description=(
            "What is taken out of the teacher's latents. none: nothing. layer: each token's own mean and "
            "standard deviation (eps 1e-6), as V-JEPA. channel: each channel's, over all tokens of the calibration "
            "clips. position: each channel's at each place of the grid, over the calibration clips."
        ),
    )
    calibration_clips: int = Field(
        256, ge=2, description="Clips whose latents give the statistics of target_norm = channel or position."
    )

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> LatentLossConfig:
        # The default is let through, so that a recipe with every default written out is still valid.
        default = type(self).model_fields["calibration_clips"].default
        if self.target_norm not in CALIBRATED and self.calibration_clips != default:
            raise ValueError(
                f"calibration_clips = {self.calibration_clips} has no effect with target_norm = {self.target_norm!r}; "
                "leave it out, or choose target_norm = 'channel' or 'position'"
            )
        return self


class SmoothL1Config(LatentLossConfig):
    """Settings of the smooth L1 loss."""

    beta: float = Field(
        1.0,
        gt=0,
        description="Difference at which the loss turns from squared to absolute, in units of the normalised latents.",
    )
