"""Shared building blocks of video models: cutting tubelets, position embeddings, gathering tokens."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import Grid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def gather_tokens(
    tokens: Shaped[Tensor, "batch token dim"], index: Int64[Tensor, "batch picked"]
) -> Shaped[Tensor, "batch picked dim"]:
    """Gathers each clip's tokens by index, in the given order."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def cut_tubelets(
    clip: Shaped[Tensor, "batch channels frames height width"], *, tubelet: int, patch: int
) -> Shaped[Tensor, "batch token channels tubelet_frames patch_height patch_width"]:
    """Cuts clips into one cuboid of pixels per token, time-major."""
    batch, channels, frames, height, width = clip.shape
    grid = (frames // tubelet, height // patch, width // patch)
    cut = clip.reshape(batch, channels, grid[0], tubelet, grid[1], patch, grid[2], patch)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, math.prod(grid), channels, tubelet, patch, patch)


def sincos_positions(grid: Grid, dim: int) -> Float[Tensor, "token dim"]:
    """Fixed position embeddings: sines and cosines of each token's frame, row and column.

    Each axis gets a third of the channels, rounded up to even and truncated at ``dim``; each third is half sines and
    half cosines (V-JEPA's ``uniform_power`` layout, src/models/utils/pos_embs.py).

    Raises:
        GeometryError: ``dim`` is so small that rounding up could leave no channels for the columns.
    """
    if dim < 9:
        raise GeometryError(f"dim = {dim} is too narrow for positions of frame, row and column; choose 9 or more")
    share = 2 * math.ceil(dim / 6)
    frequencies = 10000.0 ** -(torch.arange(share // 2, dtype=torch.float64) / (share // 2))
    axes = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) for size in (grid.frames, grid.rows, grid.columns)), indexing="ij"
    )
    parts = []
    for axis in axes:
        angles = axis.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)[:, :dim].float()
