"""What is taken out of the teacher's latents before the loss sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salt_objectives.moments import Moments
from salt_toolkit import TokenSpec
from salt_toolkit.errors import RunError

LAYER_EPS = 1e-6
"""Added to a token's variance, as in the LayerNorms of VideoMAE and V-JEPA."""

NOISE = 1e-12
"""Standard deviation, as a share of the mean, below which latents only vary by rounding."""


class Normalization(nn.Module, ABC):
    """Makes targets of latents."""

    def observe(self, latents: Float[Tensor, "batch token dim"]) -> None:
        """Takes in latents of calibration clips; see `Objective.observe`."""

    def calibrate(self) -> None:
        """Makes statistics of what was observed; see `Objective.calibrate`."""

    @abstractmethod
    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The normalised latents."""


class NoNormalization(Normalization):
    """Leaves the latents as they are."""

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The same latents."""
        return latents


class LayerNormalization(Normalization):
    """Takes each token's own mean and spread out, without learned numbers.

    Source: V-JEPA (app/vjepa/train.py), where it keeps the loss from depending on the latents' scale.
    """

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents with mean 0 and variance 1 over each token's numbers."""
        return functional.layer_norm(latents, latents.shape[-1:], eps=LAYER_EPS)


class MeasuredNormalization(Normalization):
    """Base of those that measure calibration clips, in float64, and keep the statistics in buffers.

    Args:
        teacher: Grid and width of the latents.
    """

    calibrated: Tensor

    def __init__(self, teacher: TokenSpec) -> None:
        super().__init__()
        self.teacher = teacher
        self.register_buffer("calibrated", torch.tensor(False))
        # The flag again, on the host: reading the buffer in every step would wait for the device.
        self._ready = False
        self.register_load_state_dict_post_hook(_read_flag)
        self._moments: Moments | None = None
        self._num_clips = 0

    @abstractmethod
    def new_moments(self) -> Moments:
        """The moments to measure."""

    @abstractmethod
    def samples(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "sample ..."]:
        """What counts as one sample, along the first axis."""

    @abstractmethod
    def take(self, moments: Moments) -> None:
        """Makes buffers of moments that are finite and vary."""

    @abstractmethod
    def normalised(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The normalised latents, by the buffers."""

    @torch.no_grad()
    def observe(self, latents: Float[Tensor, "batch token dim"]) -> None:
        """Adds latents to the moments.

        Raises:
            RunError: They have another shape than the teacher's.
        """
        if latents.shape[1:] != (self.teacher.grid.num_tokens, self.teacher.dim):
            raise RunError(
                f"calibration got latents of shape {tuple(latents.shape)}, where the teacher promises "
                f"{self.teacher}; the teacher's token_spec is wrong"
            )
        self._moments = self._moments or self.new_moments()
        self._moments.update(self.samples(latents))
        self._num_clips += latents.shape[0]

    @torch.no_grad()
    def calibrate(self) -> None:
        """Makes buffers of the moments.

        Raises:
            RunError: Fewer than two clips were observed, or latents that are not finite or never vary.
        """
        moments, num_clips = self._moments, self._num_clips
        self._moments, self._num_clips = None, 0
        if moments is None or num_clips < 2:
            raise RunError(
                f"calibration got {num_clips} clips, and needs at least 2; "
                "give the data set more clips, or choose target_norm = 'layer'"
            )
        variance = moments.variance
        if not bool(torch.isfinite(moments.mean).all() and torch.isfinite(variance).all()):
            raise RunError(
                "the teacher's latents over the calibration clips hold NaN or infinite values; "
                "check its checkpoint and precision"
            )
        if bool(variance.mean().sqrt() <= NOISE * moments.mean.abs().max()):
            raise RunError(
                "the teacher's latents are the same in all calibration clips, so there is nothing to learn; "
                "check its checkpoint and the clips"
            )
        self.take(moments)
        self.calibrated.fill_(True)
        self._ready = True

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The normalised latents.

        Raises:
            RunError: Used before `calibrate`.
        """
        if not self._ready:
            raise RunError(
                "target_norm = 'channel', 'position' or 'phi_s' was used before its statistics were taken; call "
                "observe() and calibrate() first, or load the state of a run that did"
            )
        return self.normalised(latents)


def _read_flag(module: nn.Module, incompatible_keys: object) -> None:
    assert isinstance(module, MeasuredNormalization)
    module._ready = bool(module.calibrated)
