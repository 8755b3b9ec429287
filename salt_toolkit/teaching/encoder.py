"""Frozen encoders as teachers: pixels in, chosen and normalised latents out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.seeding import seed_for
from salt_toolkit.teaching.alignment import fit_clip
from salt_toolkit.teaching.config import EncoderConfig

LAYER_NORM_EPS = 1e-6
"""Of the LayerNorm without weights that follows the encoder, as in V-JEPA and VideoMAE."""


class FrozenEncoder(Teacher):
    """A frozen encoder whose config is an `EncoderConfig`; a family gives `hidden` and `own_norm`.

    Families build their network within `untrained`, load it, and call `freeze` at the end of ``__init__``.

    Args:
        config: Says which latents to take.
        clip: The clips that will come.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: EncoderConfig, clip: ClipSpec) -> None:
        super().__init__()
        self.spec = config.encoder_spec(clip)
        self.token_spec = config.token_spec(clip)
        self.layers = config.layers(self.spec.depth)
        self.join = config.join
        self.norm = config.norm_of(self.spec)
        mean, std = (torch.tensor(values).reshape(3, 1, 1, 1) for values in (self.spec.mean, self.spec.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)

    @abstractmethod
    def hidden(
        self, pixels: Float[Tensor, "batch channels frames height width"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch token dim"]]:
        """The tokens after each of these blocks (numbered from 1), in grid order, before any last norm."""

    @abstractmethod
    def own_norm(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The checkpoint's own last norm, for single tokens (those beside a token come as further ones)."""

    def freeze(self) -> None:
        """Lets no parameter learn, and switches to evaluation mode."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in evaluation mode, whatever the module around it is switched to."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """Encodes whole clips, in float32 unless autocast says otherwise; the latents are float32."""
        clip = fit_clip(batch.clip, frames=self.spec.frames, size=self.spec.size)
        pixels = clip * self.scale + self.shift
        latents = [self._normalised(tokens) for tokens in self.hidden(pixels, self.layers)]
        if self.join == "mean":
            return torch.stack(latents).mean(dim=0)
        return torch.cat(latents, dim=-1)

    def _normalised(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        # A token and those beside it are normalised each on its own.
        single = tokens.unflatten(-1, (1 + self.spec.beside, self.spec.dim)).flatten(1, 2)
        if self.norm.startswith("own"):
            single = self.own_norm(single)
        single = single.float()
        if self.norm.endswith("layer"):
            single = functional.layer_norm(single, single.shape[-1:], eps=LAYER_NORM_EPS)
        return single.reshape(tokens.shape)


@contextmanager
def untrained() -> Iterator[None]:
    """Within it, initial weights are always the same, whatever was drawn before.

    So a teacher with ``weights = "random"`` is the same teacher in every run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("untrained teacher"))
        yield
