"""VideoMAE's encoder, as both generations publish it.

Source: modeling_finetune.py of MCG-NJU/VideoMAE and of OpenGVLab/VideoMAEv2, which compute the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salt_toolkit.tokens import cut_tubelets
from salt_videomae.architecture import CHANNELS, Architecture

EPS = 1e-6
"""Of every LayerNorm; transformers' settings say 1e-12, which changes latents by less than 1e-5."""


class Attention(nn.Module):
    """Attention whose keys have no bias."""

    def __init__(self, dim: int, heads: int, qv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qv_bias else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Attends over all tokens."""
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = functional.linear(tokens, self.qkv.weight, bias)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Transforms each token."""
        return self.fc2(functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(made.dim, eps=EPS)
        self.attn = Attention(made.dim, made.heads, made.qv_bias)
        self.norm2 = nn.LayerNorm(made.dim, eps=EPS)
        self.mlp = Mlp(made.dim, made.mlp_dim)

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Adds attention, then the MLP."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class PatchEmbedding(nn.Module):
    """Turns each tubelet into a token: a Conv3d whose kernel is its stride, computed as a matrix product."""

    def __init__(self, made: Architecture) -> None:
        super().__init__()
        cuboid = (made.tubelet, made.patch, made.patch)
        self.proj = nn.Conv3d(CHANNELS, made.dim, cuboid, cuboid)

    def forward(self, pixels: Float[Tensor, "batch channels frames height width"]) -> Float[Tensor, "batch token dim"]:
        """Embeds normalised pixels, time-major."""
        tubelet, patch, _ = self.proj.kernel_size
        cut = cut_tubelets(pixels, tubelet=tubelet, patch=patch)
        return functional.linear(cut.flatten(2), self.proj.weight.flatten(1), self.proj.bias)


class VideoMAEEncoder(nn.Module):
    """Patch embedding, blocks and last norm; its state_dict has the authors' keys.

    Positions are not among the weights, in no published file: see `sinusoid_positions`.
    """

    def __init__(self, made: Architecture) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(made)
        self.blocks = nn.ModuleList(Block(made) for _ in range(made.depth))
        self.norm = nn.LayerNorm(made.dim, eps=EPS) if made.own_norm == "norm" else nn.Identity()
        self.fc_norm = nn.LayerNorm(made.dim, eps=EPS) if made.own_norm == "fc_norm" else nn.Identity()

    def forward(
        self, pixels: Float[Tensor, "batch channels frames height width"], positions: Float[Tensor, "token dim"]
    ) -> Iterator[Float[Tensor, "batch token dim"]]:
        """Gives the tokens after each block, one block after another, before any last norm."""
        tokens = self.patch_embed(pixels) + positions
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens


def sinusoid_positions(tokens: int, dim: int) -> Float[Tensor, "token dim"]:
    """Sines (even numbers) and cosines (odd ones) of a token's index in the flattened clip.

    Source: get_sinusoid_encoding_table in modeling_finetune.py.
    """
    exponents = 2 * (torch.arange(dim, dtype=torch.float64) // 2) / dim
    angles = torch.arange(tokens, dtype=torch.float64).unsqueeze(1) / 10000.0**exponents
    return torch.where(torch.arange(dim) % 2 == 0, angles.sin(), angles.cos()).float()
