"""Mean, variance and covariance of a stream, without losing digits."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def joined(
    num_old: int | Tensor, num_new: int, old: Float[Tensor, "*shape"], new: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Joins the means of two parts of a stream.

    This is the pairwise update of Chan, Golub and LeVeque (1983), which subtracts means before it squares: a sum
    of squares would lose the spread of latents that lie far from zero.

    Args:
        num_old: Samples so far, possibly none.
        num_new: Further samples.
        old: Mean of the samples so far; anything finite for none.
        new: Mean of the further ones.

    Returns:
        The joint mean; and a shift. The squared deviations from the joint mean sum to those of each part from its
        own, and the shift's square.
    """
    share, shift = num_new / (num_old + num_new), new - old
    return old + shift * share, shift * (num_old * share) ** 0.5


class Moments(ABC):
    """Mean of a stream of samples, and sums of products of their deviations from it, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Float64[Tensor, "*shape"] = torch.zeros((), dtype=torch.float64)
        self._products = torch.zeros((), dtype=torch.float64)

    @abstractmethod
    def products_of(self, deviations: Float64[Tensor, "sample ..."]) -> Float64[Tensor, ...]:
        """Products of the numbers of each sample, summed over samples."""

    def update(self, samples: Float[Tensor, "sample ..."]) -> None:
        """Takes in samples along the first axis."""
        # Some accelerators (Apple's) have no float64.
        device = "cpu" if samples.device.type == "mps" else samples.device
        values = samples.detach().to(device, torch.float64)
        mean, old = values.mean(dim=0), self.mean.to(device)
        self.mean, shift = joined(self.count, values.shape[0], old.expand_as(mean), mean)
        products = self.products_of(values - mean) + self.products_of(shift.unsqueeze(0))
        self._products = self._products.to(device) + products
        self.count += values.shape[0]

    @property
    @abstractmethod
    def variance(self) -> Float64[Tensor, "*shape"]:
        """Variance of each number, with the number of samples as divisor."""


class Variance(Moments):
    """The variance of every number on its own."""

    def products_of(self, deviations: Float64[Tensor, "sample ..."]) -> Float64[Tensor, ...]:
        """The squares."""
        return deviations.square().sum(dim=0)

    @property
    def variance(self) -> Float64[Tensor, "*shape"]:
        """See `Moments.variance`."""
        return self._products / self.count


class Covariance(Moments):
    """The covariance of vectors."""

    def products_of(self, deviations: Float64[Tensor, "sample dim"]) -> Float64[Tensor, "dim dim"]:
        """The products of every pair of numbers."""
        return deviations.T @ deviations

    @property
    def variance(self) -> Float64[Tensor, " dim"]:
        """See `Moments.variance`."""
        return self.covariance.diagonal()

    @property
    def covariance(self) -> Float64[Tensor, "dim dim"]:
        """With the number of samples as divisor."""
        return self._products / self.count
