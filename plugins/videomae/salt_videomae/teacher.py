"""VideoMAE and VideoMAEv2 as frozen teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from salt_toolkit import CheckpointError, ClipSpec
from salt_toolkit.teaching.encoder import FrozenEncoder, untrained
from salt_toolkit.weights.loading import load_whole, read_weights
from salt_toolkit.weights.locate import fetch_checkpoint
from salt_videomae.catalog import hub_ids
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig
from salt_videomae.layouts import joined_projections
from salt_videomae.network import VideoMAEEncoder, sinusoid_positions


class VideoMAETeacher(FrozenEncoder):
    """Dense latents of a VideoMAE encoder that sees every token.

    Raises:
        MissingArtifact: The checkpoint is not here, and cannot be downloaded.
        CheckpointError: It does not match the encoder that it claims to be.
    """

    positions: Tensor

    def __init__(self, config: VideoMAEConfig | VideoMAE2Config, clip: ClipSpec) -> None:
        encoder = _random(config) if config.weights == "random" else _loaded(config)
        super().__init__(config, clip)
        self.encoder = encoder
        del self.encoder.blocks[max(self.layers) :]
        positions = sinusoid_positions(self.spec.grid.num_tokens, self.spec.dim)
        self.register_buffer("positions", positions, persistent=False)
        self.freeze()

    def hidden(
        self, pixels: Float[Tensor, "batch channels frames height width"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Runs the blocks, and keeps the outputs of those wanted."""
        outputs = {
            number: tokens
            for number, tokens in enumerate(self.encoder(pixels, self.positions), start=1)
            if number in layers
        }
        return [outputs[number] for number in layers]

    def own_norm(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """``norm`` of pre-trained files; ``fc_norm`` of the others, token by token."""
        return self.encoder.fc_norm(self.encoder.norm(tokens))


def _random(config: VideoMAEConfig | VideoMAE2Config) -> VideoMAEEncoder:
    with untrained():
        return VideoMAEEncoder(config.architecture())


def _loaded(config: VideoMAEConfig | VideoMAE2Config) -> VideoMAEEncoder:
    config.refuse_other_names()
    files = fetch_checkpoint(config.checkpoint, known=hub_ids(config.published), hint=config.hint)
    made, layout = config.architecture(), config.layout(files)
    with torch.device("meta"):  # no time for random numbers that the file replaces
        encoder = VideoMAEEncoder(made)
    native = layout.native_keys(config.checkpoint, read_weights(files))
    weights = joined_projections(native, lambda *parts: torch.cat(parts))
    load_whole(encoder, weights, what=made.label, name=config.checkpoint)
    _refuse_lost_biases(config.checkpoint, weights)
    return encoder


def _refuse_lost_biases(name: str, weights: Mapping[str, Tensor]) -> None:
    """Refuses what transformers 5.6 to 5.17 make of a published checkpoint, and write when asked to save it."""
    biases = [weight for key, weight in weights.items() if key.endswith(("attn.q_bias", "attn.v_bias"))]
    if biases and not any(bias.any() for bias in biases):
        raise CheckpointError(
            f"{name} has nothing but zeros for the biases of all queries and values, which no training leaves: "
            "transformers 5.6 to 5.17 lose them when they load a published checkpoint, and save it without them. Get "
            "the published checkpoint again"
        )
