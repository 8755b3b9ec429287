"""V-JEPA 2 as a frozen teacher, through transformers' encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import VJEPA2Config as TransformersConfig
from transformers import VJEPA2Model
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Encoder

from salt_toolkit import ClipSpec
from salt_toolkit.teaching.config import EncoderSpec
from salt_toolkit.teaching.encoder import FrozenEncoder, untrained
from salt_toolkit.tokens import cut_tubelets
from salt_toolkit.weights.loading import load_whole, read_weights
from salt_toolkit.weights.locate import CheckpointFiles, fetch_checkpoint
from salt_vjepa2.architecture import BESIDE, CLASSIFIER_PREFIX, Architecture
from salt_vjepa2.config import HUB_IDS, VJEPA2Config


class VJEPA2Teacher(FrozenEncoder):
    """Dense latents of a V-JEPA 2 encoder that sees every token.

    Raises:
        MissingArtifact: The checkpoint is not here, and cannot be downloaded.
        CheckpointError: It does not match the encoder that it claims to be.
    """

    def __init__(self, config: VJEPA2Config, clip: ClipSpec) -> None:
        files = None if config.weights == "random" else fetch_checkpoint(config.checkpoint, known=HUB_IDS)
        super().__init__(config, clip)
        settings = _settings(config.architecture(), self.spec)
        self.encoder = _random(settings) if files is None else _loaded(settings, files, config.architecture().label)
        del self.encoder.layer[max(self.layers) :]
        self.freeze()

    def hidden(
        self, pixels: Float[Tensor, "batch channels frames height width"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch token dim"]]:
        """Runs the blocks, and keeps the outputs of those wanted."""
        tokens, outputs = self._embedded(pixels), {}
        for number, block in enumerate(self.encoder.layer, start=1):
            tokens = block(tokens)[0]
            if number in layers:
                outputs[number] = tokens
        return [outputs[number] for number in layers]

    def own_norm(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The norm behind the last block."""
        return self.encoder.layernorm(tokens)

    def _embedded(self, pixels: Float[Tensor, "batch channels frames height width"]) -> Tensor:
        """The patch embedding: a Conv3d whose kernel is its stride, computed as a matrix product."""
        projection = self.encoder.embeddings.patch_embeddings.proj
        tubelet, patch, _ = projection.kernel_size
        cut = cut_tubelets(pixels, tubelet=tubelet, patch=patch)
        return functional.linear(cut.flatten(2), projection.weight.flatten(1), projection.bias)


def _settings(made: Architecture, spec: EncoderSpec) -> TransformersConfig:
    """For transformers; ``crop_size`` decides what rotary positions make of a token's number."""
    settings: dict[str, Any] = {
        "patch_size": made.patch,
        "crop_size": spec.size,
        "frames_per_clip": spec.frames,
        "tubelet_size": made.tubelet,
        "hidden_size": made.dim,
        "num_attention_heads": made.heads,
        "num_hidden_layers": made.depth,
        "mlp_ratio": made.mlp_ratio,
        "layer_norm_eps": made.eps,
        "qkv_bias": made.qkv_bias,
        "attn_implementation": "sdpa",
        # The predictor is not used: as small as can be.
        "pred_hidden_size": 6,
        "pred_num_attention_heads": 1,
        "pred_num_hidden_layers": 1,
    }
    return TransformersConfig(**settings)


def _random(settings: TransformersConfig) -> VJEPA2Encoder:
    with untrained():
        return VJEPA2Model(settings).encoder  # the model draws the weights as V-JEPA does


def _loaded(settings: TransformersConfig, files: CheckpointFiles, what: str) -> VJEPA2Encoder:
    with torch.device("meta"):  # no time for random numbers that the file replaces
        encoder = VJEPA2Encoder(settings)
    weights = {key.removeprefix(CLASSIFIER_PREFIX): value for key, value in read_weights(files).items()}
    load_whole(nn.ModuleDict({"encoder": encoder}), weights, what=what, name=files.name, beside=BESIDE)
    return encoder
