"""A loss between predicted and normalised latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from salt_objectives.config import LatentLossConfig
from salt_objectives.normalization import LayerNormalization, NoNormalization, Normalization
from salt_objectives.phi_s import PhiStandardization
from salt_objectives.standardization import RunningStandardization, Standardization
from salt_toolkit import TokenSpec
from salt_toolkit.contracts import Objective


class LatentLoss(Objective):
    """One of the usual losses, after one of the usual normalisations.

    Args:
        config: The objective's settings.
        teacher: Grid and width of the latents.
        loss: Mean loss of predictions and targets of equal shape.

    Raises:
        GeometryError: The normalisation does not work for latents of this width.
    """

    def __init__(self, config: LatentLossConfig, teacher: TokenSpec, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        config.check(teacher)
        self.loss = loss
        self.calibration_clips = config.calibration_clips if config.calibrates else 0
        self.normalization = _normalization(config, teacher)

    def observe(self, latents: Float[Tensor, "batch token dim"]) -> None:
        """See `Objective.observe`; nothing to do unless ``calibration_clips`` is above 0.

        Raises:
            RunError: The latents have another shape than the teacher promises.
        """
        self.normalization.observe(latents.float())

    def calibrate(self) -> None:
        """See `Objective.calibrate`.

        Raises:
            RunError: The latents cannot be standardised; see `MeasuredNormalization.calibrate`.
        """
        self.normalization.calibrate()

    def targets(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The normalised latents, in float32.

        Raises:
            RunError: The statistics have not been taken yet.
        """
        return self.normalization(latents.float())

    def forward(
        self, predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
    ) -> Float[Tensor, ""]:
        """The mean loss, computed in float32 whatever autocast says."""
        with torch.autocast(predicted.device.type, enabled=False):
            return self.loss(predicted.float(), targets.float())


def _normalization(config: LatentLossConfig, teacher: TokenSpec) -> Normalization:
    if config.target_norm == "none":
        return NoNormalization()
    if config.target_norm == "layer":
        return LayerNormalization()
    if config.target_norm == "phi_s":
        return PhiStandardization(teacher)
    kind = Standardization if config.calibrates else RunningStandardization
    return kind(teacher, per_position=config.target_norm == "position")


def cosine_loss(
    predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
) -> Float[Tensor, ""]:
    """1 minus the cosine between prediction and target, a mean over clips and targets."""
    return 1 - functional.cosine_similarity(predicted, targets, dim=-1).mean()
