"""What is taken out of the teacher's latents before the loss sees them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salt_objectives.moments import Moments
from salt_toolkit import TokenSpec
from salt_toolkit.errors import RunError

LAYER_EPS = 1e-6
"""Added to a token's variance, as in the LayerNorms of VideoMAE and V-JEPA."""

LEAST_RELATIVE_STD = 1e-3
"""The least standard deviation to divide by, as a share of the mean one of all channels (which differ widely)."""

LEAST_POSITION_STD = 0.1
"""The least standard deviation of a channel at one position, as a share of its mean one over positions."""


class NoNormalization(nn.Module):
    """Leaves the latents as they are."""

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The same latents."""
        return latents


class LayerNormalization(nn.Module):
    """Takes each token's own mean and spread out, without learned numbers.

    Source: V-JEPA (app/vjepa/train.py), where it keeps the loss from depending on the latents' scale.
    """

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents with mean 0 and variance 1 over each token's numbers."""
        return functional.layer_norm(latents, latents.shape[-1:], eps=LAYER_EPS)


class Standardization(nn.Module):
    """Takes out mean and spread that were measured over calibration clips.

    Standard deviations below a thousandth of their mean are raised to it; at single positions, those
    below a tenth of the channel's mean one. What (nearly) never varied would otherwise be divided by
    (nearly) zero: a corner that nothing visited in the calibration clips would drown all others later.

    Args:
        teacher: Grid and width of the latents.
        per_position: Statistics for each place of the grid, rather than over all of them.
    """

    mean: Tensor
    std: Tensor
    calibrated: Tensor

    def __init__(self, teacher: TokenSpec, *, per_position: bool) -> None:
        super().__init__()
        self.teacher = teacher
        self.per_position = per_position
        shape = (teacher.grid.num_tokens, teacher.dim) if per_position else (teacher.dim,)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("calibrated", torch.tensor(False))
        # The flag again, on the host: reading the buffer in every step would wait for the device.
        self._ready = False
        self.register_load_state_dict_post_hook(_read_flag)

    @torch.no_grad()
    def calibrate(self, latents: Iterable[Float[Tensor, "batch token dim"]]) -> None:
        """Measures mean and standard deviation, in float64.

        Raises:
            RunError: Fewer than two clips, another shape than the teacher's, latents that are not finite
                or that never vary.
        """
        moments, num_clips = Moments(), 0
        expected = (self.teacher.grid.num_tokens, self.teacher.dim)
        for batch in latents:
            if batch.shape[1:] != expected:
                raise RunError(
                    f"calibration got latents of shape {tuple(batch.shape)}, where the teacher promises "
                    f"{self.teacher}; the teacher's token_spec is wrong"
                )
            moments.update(batch if self.per_position else batch.flatten(0, 1))
            num_clips += batch.shape[0]
        if num_clips < 2:
            raise RunError(
                f"calibration got {num_clips} clips, and needs at least 2; "
                "give the data set more clips, or choose target_norm = 'layer'"
            )
        self._take(moments)

    def _take(self, moments: Moments) -> None:
        mean, std = moments.mean, moments.std
        if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise RunError(
                "the teacher's latents over the calibration clips hold NaN or infinite values; "
                "check its checkpoint and precision"
            )
        typical = std.mean()
        if typical == 0:
            raise RunError(
                "the teacher's latents are the same in all calibration clips, so there is nothing to learn; "
                "check its checkpoint and the clips"
            )
        self.mean.copy_(mean)
        if self.per_position:
            std = std.maximum(LEAST_POSITION_STD * std.mean(dim=0, keepdim=True))
        self.std.copy_(std.clamp_min(LEAST_RELATIVE_STD * typical))
        self.calibrated.fill_(True)
        self._ready = True

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents with mean 0 and variance 1 over the calibration clips.

        Raises:
            RunError: Used before `calibrate`.
        """
        if not self._ready:
            raise RunError(
                "target_norm = 'channel' or 'position' was used before its statistics were taken; call calibrate() "
                "first, or load the state of a run that did"
            )
        return (latents - self.mean) / self.std


def _read_flag(module: nn.Module, incompatible_keys: object) -> None:
    assert isinstance(module, Standardization)
    module._ready = bool(module.calibrated)
