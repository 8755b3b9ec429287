"""timm's image models as frozen teachers: every frame of a clip is a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from salt_toolkit import ClipSpec
from salt_toolkit.teaching.encoder import FrozenEncoder, untrained
from salt_vit.image_config import TimmImageConfig
from salt_vit.image_network import ImageModel, create, cut_to_encoder
from salt_vit.image_weights import full_name, loaded


class ImageTeacher(FrozenEncoder):
    """Latents of every frame's patches, frame after frame.

    Raises:
        GeometryError: The clip's size does not fit the patches.
        MissingArtifact: The weights are not here, and cannot be downloaded.
        CheckpointError: They are not the whole of the model that they claim to be.
    """

    def __init__(self, config: TimmImageConfig, clip: ClipSpec) -> None:
        super().__init__(config, clip)
        self.model = _random(config) if config.weights == "random" else loaded(config)
        with torch.no_grad():
            self.model.set_input_size((self.spec.size, self.spec.size))
        cut_to_encoder(self.model, max(self.layers))
        self.freeze()

    def hidden(
        self, pixels: Float[Tensor, "batch channels frames height width"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Runs the blocks over all frames at once; what the recipe keeps beside the patches is appended to each."""
        num_clips = len(pixels)
        found: Any = self.model.forward_intermediates(  # its type depends on the arguments
            pixels.transpose(1, 2).flatten(0, 1),
            indices=[number - 1 for number in layers],
            return_prefix_tokens=self.spec.beside > 0,
            norm=False,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        ascending = dict(zip(sorted(layers), found, strict=True))  # timm's order, whatever was asked
        return [self._tokens(ascending[number], num_clips) for number in layers]

    def own_norm(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The model's last norm; of models that pool by the mean, the one behind that."""
        return self.model.norm(tokens)

    def _tokens(self, found: Tensor | tuple[Tensor, Tensor], num_clips: int) -> Float[Tensor, "batch token dim"]:
        """One row for each patch of all frames: its own numbers, then those of the tokens beside it."""
        if isinstance(found, Tensor):
            return found.unflatten(0, (num_clips, -1)).flatten(1, 2)
        patches, prefix = found
        beside = prefix[:, : self.spec.beside].flatten(1).unsqueeze(1).expand(-1, patches.shape[1], -1)
        return torch.cat([patches, beside], dim=-1).unflatten(0, (num_clips, -1)).flatten(1, 2)


def _random(config: TimmImageConfig) -> ImageModel:
    with untrained():
        return create(full_name(config))
