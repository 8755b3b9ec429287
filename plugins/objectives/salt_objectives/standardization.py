"""Mean and standard deviation taken out, channel by channel: measured beforehand, or while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from salt_objectives.moments import Moments, Variance, joined
from salt_objectives.normalization import MeasuredNormalization, Normalization
from salt_toolkit import TokenSpec
from salt_toolkit.distributed import mean_over_processes, num_processes
from salt_toolkit.errors import RunError

LEAST_RELATIVE_STD = 1e-3
"""The least standard deviation to divide by, as a share of the mean one of all channels (which differ widely)."""

LEAST_POSITION_STD = 0.1
"""The least standard deviation of a channel at one position, as a share of its mean one over positions."""

LEAST_RUNNING_STD = 1e-6
"""The least to divide by where nothing at all has varied yet, in the latents' unit."""


class Standardization(MeasuredNormalization):
    """Takes out mean and standard deviation over calibration clips.

    Standard deviations below a thousandth of their mean are raised to it; at single positions, those
    below a tenth of the channel's mean one. What (nearly) never varied would otherwise be divided by
    (nearly) zero: a corner that nothing visited in the calibration clips would drown all others later.

    Args:
        teacher: Grid and width of the latents.
        per_position: Statistics for each place of the grid, rather than over all of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, teacher: TokenSpec, *, per_position: bool) -> None:
        super().__init__(teacher)
        self.per_position = per_position
        shape = _shape(teacher, per_position)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def new_moments(self) -> Moments:
        """The variance of every channel."""
        return Variance()

    def samples(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "sample ..."]:
        """Whole clips, or single tokens."""
        return _samples(latents, self.per_position)

    def take(self, moments: Moments) -> None:
        """Keeps mean and standard deviation."""
        self.mean.copy_(moments.mean)
        self.std.copy_(_raised(moments.variance.sqrt(), self.per_position))

    def normalised(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents with mean 0 and variance 1 over the calibration clips."""
        return (latents - self.mean) / self.std


class RunningStandardization(Normalization):
    """Takes out mean and standard deviation over all latents met in training so far, the present ones included.

    It needs no clips beforehand. Early targets are noisier; and targets drift, less and less, as statistics settle.
    Sums are kept in float64 where the device has it. In evaluation mode nothing is added to them.

    Args:
        teacher: Grid and width of the latents.
        per_position: See `Standardization`, as for what is (nearly) constant.
    """

    count: Tensor
    mean: Tensor
    deviations: Tensor

    def __init__(self, teacher: TokenSpec, *, per_position: bool) -> None:
        super().__init__()
        self.per_position = per_position
        shape = _shape(teacher, per_position)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(shape, dtype=torch.float64))

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents with mean 0 and variance 1 over what was met; in training mode, that includes them.

        Raises:
            RunError: Used in evaluation mode before any training.
        """
        if self.training:
            self._update(latents)
        elif not torch.compiler.is_compiling() and not bool(self.count):
            raise RunError(
                "statistics = 'running' was used in evaluation mode before any training; train first, or load the "
                "state of a run that did"
            )
        std = _raised((self.deviations / self.count).sqrt(), self.per_position).clamp_min(LEAST_RUNNING_STD)
        return (latents - self.mean.to(latents.dtype)) / std.to(latents.dtype)

    @torch.no_grad()
    def _update(self, latents: Float[Tensor, "batch token dim"]) -> None:
        """Adds the latents to the sums, in place and without waiting for the device."""
        samples = _samples(latents, self.per_position)
        # A batch in its own precision, which is one pass without copies; the long sums in the buffers'.
        variance, mean = torch.var_mean(samples, dim=0, correction=0)
        # The whole batch counts, wherever its parts are.
        num_old, num_new = self.count.to(self.mean.dtype), samples.shape[0] * num_processes()
        whole_mean = mean_over_processes(mean)
        whole_variance = mean_over_processes(variance + (mean - whole_mean).square())
        joint, shift = joined(num_old, num_new, self.mean, whole_mean.to(self.mean.dtype))
        deviations = self.deviations + whole_variance.to(self.mean.dtype) * num_new + shift.square()
        # The run skips a step whose numbers are not finite; here they would stay for ever.
        finite = whole_mean.isfinite().all() & whole_variance.isfinite().all()
        self.mean.copy_(torch.where(finite, joint, self.mean))
        self.deviations.copy_(torch.where(finite, deviations, self.deviations))
        self.count.add_(num_new * finite)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        try:
            return super()._apply(fn, recurse)
        except TypeError:  # some devices (Apple's) refuse float64
            self.mean, self.deviations = self.mean.float(), self.deviations.float()
            return super()._apply(fn, recurse)


def _shape(teacher: TokenSpec, per_position: bool) -> tuple[int, ...]:
    return (teacher.grid.num_tokens, teacher.dim) if per_position else (teacher.dim,)


def _samples(latents: Tensor, per_position: bool) -> Tensor:
    return latents if per_position else latents.flatten(0, 1)


def _raised(std: Tensor, per_position: bool) -> Tensor:
    """Standard deviations of which none is far below the others."""
    typical = std.mean()
    if per_position:
        std = std.maximum(LEAST_POSITION_STD * std.mean(dim=0, keepdim=True))
    return std.maximum(LEAST_RELATIVE_STD * typical)
