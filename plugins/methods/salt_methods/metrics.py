"""How good a prediction is, as numbers that mean the same for every teacher."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

NOISE = 1e-12
"""Share of the targets' mean square below which their variance is float32's rounding noise."""


@torch.no_grad()
def explained_variance(
    predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
) -> Float[Tensor, ""]:
    """1 - MSE / variance, the variance being about each channel's mean over the batch's clips and targets.

    0 is as good as predicting that mean, 1 is perfect, and below 0 the mean would be better. Targets that do
    not vary leave nothing to explain, and give 0.
    """
    predicted, targets = predicted.float(), targets.float()
    error = (predicted - targets).square().mean()
    variance = (targets - targets.mean(dim=(0, 1))).square().mean()
    varies = variance > NOISE * targets.square().mean()
    return torch.where(varies, 1 - error / torch.where(varies, variance, 1.0), 0.0)


@torch.no_grad()
def mean_cosine(
    predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
) -> Float[Tensor, ""]:
    """Cosine between prediction and target, a mean over clips and targets; a zero vector counts as 0."""
    return functional.cosine_similarity(predicted.float(), targets.float(), dim=-1).mean()
