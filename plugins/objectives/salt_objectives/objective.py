"""A loss between predicted and normalised latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from salt_objectives.config import CALIBRATED, LatentLossConfig
from salt_objectives.normalization import LayerNormalization, NoNormalization, Standardization
from salt_toolkit import TokenSpec
from salt_toolkit.contracts import Objective


class LatentLoss(Objective):
    """One of the usual losses, after one of the usual normalisations.

    Args:
        config: The objective's settings.
        teacher: Grid and width of the latents.
        loss: Mean loss of predictions and targets of equal shape.
    """

    def __init__(self, config: LatentLossConfig, teacher: TokenSpec, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss
        self.calibration_clips = config.calibration_clips if config.target_norm in CALIBRATED else 0
        if config.target_norm == "none":
            self.normalization = NoNormalization()
        elif config.target_norm == "layer":
            self.normalization = LayerNormalization()
        else:
            self.normalization = Standardization(teacher, per_position=config.target_norm == "position")

    def calibrate(self, latents: Iterable[Float[Tensor, "batch token dim"]]) -> None:
        """See `Objective.calibrate`; nothing to do unless ``calibration_clips`` is above 0.

        Raises:
            RunError: The latents cannot be standardised; see `Standardization.calibrate`.
        """
        if isinstance(self.normalization, Standardization):
            self.normalization.calibrate(latents)

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


def cosine_loss(
    predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
) -> Float[Tensor, ""]:
    """1 minus the cosine between prediction and target, a mean over clips and targets."""
    return 1 - functional.cosine_similarity(predicted, targets, dim=-1).mean()
