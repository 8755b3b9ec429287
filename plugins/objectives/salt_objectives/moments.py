"""Mean and standard deviation of a stream, without losing digits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class Moments:
    """Running mean and squared deviations, in float64.

    Batches are joined by the pairwise update of Chan, Golub and LeVeque (1983), which subtracts the mean
    before it squares: a sum of squares would lose the spread of latents that lie far from zero.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._deviations: Tensor | None = None

    def update(self, samples: Float[Tensor, "sample ..."]) -> None:
        """Takes in samples along the first axis."""
        # Some accelerators (Apple's) have no float64.
        device = "cpu" if samples.device.type == "mps" else samples.device
        values = samples.detach().to(device, torch.float64)
        mean = values.mean(dim=0)
        deviations = (values - mean).square().sum(dim=0)
        total = self.count + values.shape[0]
        if self._mean is None or self._deviations is None:
            self._mean, self._deviations = mean, deviations
        else:
            shift = mean - self._mean
            self._mean = self._mean + shift * (values.shape[0] / total)
            self._deviations = self._deviations + deviations + shift.square() * (self.count * values.shape[0] / total)
        self.count = total

    @property
    def mean(self) -> Float64[Tensor, "*shape"]:
        """Mean of the samples so far."""
        assert self._mean is not None, "no samples yet"
        return self._mean

    @property
    def std(self) -> Float64[Tensor, "*shape"]:
        """Standard deviation of the samples so far, with the number of samples as divisor."""
        assert self._deviations is not None, "no samples yet"
        return (self._deviations / self.count).sqrt()
