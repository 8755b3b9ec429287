"""How good a prediction is, as numbers that mean the same for every teacher."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from salt_toolkit.distributed import mean_over_processes

NOISE = 1e-12
"""Share of the targets' mean square below which their variance is float32's rounding noise."""


@torch.no_grad()
def explained_variance(
    predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
) -> Float[Tensor, ""]:
    """1 - MSE / variance, the variance being about each channel's mean over the batch's clips and targets.

    0 is as good as predicting that mean, 1 is perfect, and below 0 the mean would be better. Targets that do
    not vary leave nothing to explain, and give 0. The batch is that of all processes together.
    """
    predicted, targets = predicted.float(), targets.float()
    mean = mean_over_processes(targets.mean(dim=(0, 1)))
    error, variance, square = mean_over_processes(
        torch.stack([part.square().mean() for part in (predicted - targets, targets - mean, targets)])
    )
    varies = variance > NOISE * square
    return torch.where(varies, 1 - error / torch.where(varies, variance, 1.0), 0.0)


@torch.no_grad()
def mean_cosine(
    predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
) -> Float[Tensor, ""]:
    """Cosine between prediction and target, a mean over clips and targets; a zero vector counts as 0."""
    return functional.cosine_similarity(predicted.float(), targets.float(), dim=-1).mean()
