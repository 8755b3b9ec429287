"""Settings of the methods."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar

from pydantic import Field

from salt_toolkit import MaskCounts, MethodConfig


class MaskedLatentConfig(MethodConfig):
    """Settings of masked latent regression, apart from those of its components."""

    needs: ClassVar[tuple[str, ...]] = ("teacher", "student", "predictor", "masker", "objective")
    schedules: ClassVar[tuple[str, ...]] = ("mask_ratio",)

    target_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "Share of each mask's targets to predict, drawn at random for each mask and rounded to whole tokens, at "
            "least one. The predictor does not see the others."
        ),
    )
    masks_per_clip: int = Field(
        1,
        ge=1,
        description=(
            "Masks of each clip in a step, each with a pass of student and predictor of its own; the teachers see the "
            "clip once. The loss is the mean over all masks."
        ),
    )

    def counts(self, drawn: MaskCounts) -> MaskCounts:
        """All visible tokens, and ``target_fraction`` of the targets; see `MethodConfig.counts`."""
        # The fraction as the decimal that was written, as ratios of masks are taken.
        num_target = round(Fraction(str(self.target_fraction)) * drawn.target)
        return MaskCounts(visible=drawn.visible, target=max(1, num_target))

    def passes(self) -> int:
        """One for each mask; see `MethodConfig.passes`."""
        return self.masks_per_clip

    def without_effect(self, drawn: MaskCounts) -> Mapping[str, str]:
        """A fraction that rounds to everything; see `MethodConfig.without_effect`."""
        if self.target_fraction == 1 or self.counts(drawn) != drawn:
            return {}
        return {"target_fraction": f"{self.target_fraction} of {drawn.target} targets rounds to all of them"}
