"""A timm ViT that sees the visible tubelets of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from salt_toolkit import ClipSpec, SaltError
from salt_toolkit.contracts import ClipBatch, Student
from salt_toolkit.tokens import cut_tubelets, gather_tokens, sincos_positions
from salt_vit.config import CHANNELS, FROM_SCRATCH, TimmViTConfig
from salt_vit.hub import fetch_weights
from salt_vit.image_network import last_norm


class TubeletEmbedding(nn.Module):
    """Normalises uint8 clips and turns each tubelet into a token.

    Its weight is a Conv3d's, so that inflated and published weights fit; since the kernel is as
    large as its stride, a matrix product over cut tubelets computes the same, faster.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, dim: int, tubelet: int, patch: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(CHANNELS, dim, (tubelet, patch, patch), (tubelet, patch, patch))
        shape = (CHANNELS, 1, 1, 1)
        self.register_buffer("scale", (1 / (255 * torch.tensor(std))).reshape(shape), persistent=False)
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std)).reshape(shape), persistent=False)

    def forward(
        self,
        clip: UInt8[Tensor, "batch channels frames height width"],
        visible: Int64[Tensor, "batch visible"] | None = None,
    ) -> Float[Tensor, "batch visible dim"]:
        """Embeds the visible tubelets of the clips; None means all."""
        tubelet, patch, _ = self.proj.kernel_size
        cut = cut_tubelets(clip, tubelet=tubelet, patch=patch)
        if visible is not None:
            # As bytes, so that hidden pixels are never turned into numbers, which are four times as large.
            cut = gather_tokens(cut.flatten(2), visible).unflatten(2, cut.shape[2:])
        pixels = cut * self.scale + self.shift
        return functional.linear(pixels.flatten(2), self.proj.weight.flatten(1), self.proj.bias)


class TimmViT(Student):
    """The blocks and norms of a timm ViT, behind a tubelet embedding and positions in space and time."""

    def __init__(self, config: TimmViTConfig, clip: ClipSpec) -> None:
        super().__init__()
        self.token_spec = config.token_spec(clip)
        model = _create(config)
        sizes = config.sizes
        cfg: Any = model.pretrained_cfg  # timm leaves it untyped
        self.embed = TubeletEmbedding(sizes["dim"], config.tubelet, sizes["patch"], cfg["mean"], cfg["std"])
        # Sines and cosines stay as they are, as in MAE and V-JEPA; positions of an image model go on learning.
        self.positions = nn.Parameter(
            sincos_positions(self.token_spec.grid, sizes["dim"]).unsqueeze(0), requires_grad=config.pretrained
        )
        self.norm_pre = model.norm_pre
        self.blocks = model.blocks
        self.norm = last_norm(model)
        self.grad_checkpointing = config.grad_checkpointing
        if config.loads_weights:
            self._inflate(model)
        else:
            self.apply(initialise)

    def forward(
        self, batch: ClipBatch, visible: Int64[Tensor, "batch visible"] | None = None
    ) -> Float[Tensor, "batch visible dim"]:
        """Encodes the visible tokens; None means all."""
        tokens = self._embedded(batch, visible)
        return self.norm(run_blocks(self.blocks, tokens, self.grad_checkpointing and self.training))

    def tokens_after(self, batch: ClipBatch, layers: Sequence[int]) -> list[Float[Tensor, "batch token dim"]]:
        """The tokens after some blocks, each behind the last norm; blocks behind the last of these do not run."""
        tokens = self._embedded(batch, None)
        found: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks[: max(layers)], start=1):
            tokens = block(tokens)
            if number in layers:
                found[number] = self.norm(tokens)
        return [found[number] for number in layers]

    def _embedded(
        self, batch: ClipBatch, visible: Int64[Tensor, "batch visible"] | None
    ) -> Float[Tensor, "batch visible dim"]:
        """What goes into the first block."""
        tokens = self.embed(batch.clip, visible)
        positions = self.positions.expand(tokens.shape[0], -1, -1)
        return self.norm_pre(tokens + (positions if visible is None else gather_tokens(positions, visible)))

    @torch.no_grad()
    def _inflate(self, model: VisionTransformer) -> None:
        """Takes over an image model's embedding and positions, so that a still clip looks like its image."""
        kernel = model.patch_embed.proj.weight
        tubelet = self.embed.proj.kernel_size[0]
        self.embed.proj.weight.copy_((kernel / tubelet).unsqueeze(2).expand_as(self.embed.proj.weight))
        bias = model.patch_embed.proj.bias  # CLIP's models have none
        assert self.embed.proj.bias is not None
        self.embed.proj.bias.copy_(torch.zeros_like(self.embed.proj.bias) if bias is None else bias)
        grid = self.token_spec.grid
        old = model.patch_embed.grid_size
        assert model.pos_embed is not None  # the table of models holds none without positions
        image_positions = model.pos_embed[:, -old[0] * old[1] :]  # class and register tokens come first
        resampled = resample_abs_pos_embed(
            image_positions, new_size=[grid.rows, grid.columns], old_size=list(old), num_prefix_tokens=0
        )
        self.positions.copy_(resampled.repeat(1, grid.frames, 1))


def initialise(module: nn.Module) -> None:
    """Xavier's uniform weights and zero biases, as MAE and VideoMAE begin; for `nn.Module.apply`.

    timm and V-JEPA draw with a deviation of 0.02 whatever the width. That suits ViT-B, and starves a
    narrow student: at width 96 the first thousand steps bring a third of the progress.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Conv3d):
        nn.init.xavier_uniform_(module.weight.view(module.out_channels, -1))  # as the matrix that it is
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def run_blocks(
    blocks: nn.ModuleList | nn.Sequential, tokens: Float[Tensor, "batch token dim"], recompute: bool, *more: Any
) -> Float[Tensor, "batch left dim"]:
    """Runs transformer blocks, keeping their activations or computing them again when needed."""
    for block in blocks:
        tokens = checkpoint(block, tokens, *more, use_reentrant=False) if recompute else block(tokens, *more)
    return tokens


def _create(config: TimmViTConfig) -> VisionTransformer:
    if config.loads_weights:
        return _load(config)
    names = {"dim": "embed_dim", "depth": "depth", "heads": "num_heads", "patch": "patch_size"}
    changes: dict[str, Any] = {
        theirs: getattr(config, ours) for ours, theirs in names.items() if getattr(config, ours) is not None
    }
    model = timm.create_model(config.timm_name, num_classes=0, drop_path_rate=config.drop_path, **changes)
    assert isinstance(model, VisionTransformer)  # as every model of the table
    return model


def _load(config: TimmViTConfig) -> VisionTransformer:
    """The model with its pre-trained weights, all of them: from the hub's cache, or else from the hub."""
    name, repository = config.weights
    file = fetch_weights(name, repository, FROM_SCRATCH)
    try:
        # With its own classifier the model takes the whole file, and timm checks that every weight is there.
        model = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(file), "custom_load": False},
            drop_path_rate=config.drop_path,
        )
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise SaltError(f"{file} does not hold the weights of {name}; download it again ({reason})") from error
    assert isinstance(model, VisionTransformer)
    return model
