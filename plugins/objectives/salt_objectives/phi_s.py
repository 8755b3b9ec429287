"""PHI-S: latents rotated so that all channels vary alike, and divided by one number."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from salt_objectives.hadamard import hadamard_matrix
from salt_objectives.moments import Covariance, Moments
from salt_objectives.normalization import MeasuredNormalization
from salt_toolkit import TokenSpec


class PhiStandardization(MeasuredNormalization):
    """Gives every channel variance 1 by a rotation and a single scale, measured over calibration clips.

    ``y = H U^T (x - mean) / phi``: U turns to the principal axes of the latents' covariance, the normalised
    Hadamard matrix H mixes those evenly into all channels, and phi squared is the mean of the variances. Errors
    keep their proportions in every direction, for nothing is stretched: the squared error is that of the latents
    themselves, over phi squared. The covariance settles the rotation only up to signs, and up to rotations among
    axes of equal variance; here each axis points to the side where its largest number is positive.

    Source: PHI-S (arXiv 2410.01680, the section on PHI Standardization).

    Args:
        teacher: Grid and width of the latents.
    """

    mean: Tensor
    rotation: Tensor

    def __init__(self, teacher: TokenSpec) -> None:
        super().__init__(teacher)
        self.register_buffer("mean", torch.zeros(teacher.dim))
        self.register_buffer("rotation", torch.eye(teacher.dim))

    def new_moments(self) -> Moments:
        """The covariance of the channels."""
        return Covariance()

    def samples(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "sample ..."]:
        """Single tokens."""
        return latents.flatten(0, 1)

    def take(self, moments: Moments) -> None:
        """Keeps the mean, and rotation and scale as one matrix."""
        assert isinstance(moments, Covariance)
        dim = self.teacher.dim
        axes = _principal_axes(moments.covariance)
        mixing = torch.from_numpy(hadamard_matrix(dim)).to(axes) / dim**0.5
        phi = moments.variance.mean().sqrt()
        self.mean.copy_(moments.mean)
        self.rotation.copy_(mixing @ axes.T / phi)

    def normalised(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents with mean 0 and variance 1 in every channel over the calibration clips, in float32."""
        with torch.autocast(latents.device.type, enabled=False):
            return (latents - self.mean) @ self.rotation.T


def _principal_axes(covariance: Float64[Tensor, "dim dim"]) -> Float64[Tensor, "dim dim"]:
    """The axes as columns, the one of the largest variance first."""
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return axes * largest.sign()
