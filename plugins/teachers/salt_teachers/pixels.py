"""The pixel teacher: what VideoMAE and the first stage of SALT predict."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from salt_teachers.config import PixelsConfig
from salt_toolkit import ClipSpec
from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.tokens import cut_tubelets

EPSILON = 1e-6
"""Added to variances, of pixels from 0 to 1, so that a plain patch stays finite (MAE's value)."""


class PixelTeacher(Teacher):
    """Gives each token's pixels: channels, then frames, then rows, then columns."""

    def __init__(self, config: PixelsConfig, clip: ClipSpec) -> None:
        super().__init__()
        self.token_spec = config.token_spec(clip)
        self.config = config

    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """Cuts and normalises the clips' pixels."""
        cut = cut_tubelets(batch.clip, tubelet=self.config.tubelet, patch=self.config.patch)
        pixels = cut.float() / 255
        if self.config.norm == "clip":
            pixels = _standardised(pixels, axes=(1, 3, 4, 5))
        elif self.config.norm == "tubelet":
            pixels = _standardised(pixels, axes=(2, 3, 4, 5))
        return pixels.flatten(2)


def _standardised(pixels: Tensor, axes: tuple[int, ...]) -> Tensor:
    variance, mean = torch.var_mean(pixels, dim=axes, keepdim=True)
    return (pixels - mean) / (variance + EPSILON).sqrt()
