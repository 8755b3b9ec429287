"""The predictor of V-JEPA and SALT: a narrow transformer over visible tokens and mask tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from salt_toolkit import TokenSpec
from salt_toolkit.contracts import Mask, Predictor
from salt_toolkit.tokens import gather_tokens, sincos_positions
from salt_vit.config import TransformerPredictorConfig
from salt_vit.student import initialise, run_blocks


class PredictorBlock(Block):
    """A transformer block that can leave out what nobody asks for.

    After the last block only the targets are read. Its other tokens are asked for keys and values, and not for
    queries, projections and MLP.
    """

    def forward(self, x: Tensor, num_context: int = 0) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Takes and gives (batch, token, dim); without the first ``num_context`` tokens, which are only looked at."""
        if num_context == 0:
            return super().forward(x)
        asked = x[:, num_context:]
        asked = asked + attend(self.attn, self.norm1(x), num_context)
        mlp: nn.Module = self.mlp
        return asked + mlp(self.norm2(asked))


def attend(
    attention: Any, tokens: Float[Tensor, "batch token dim"], num_context: int
) -> Float[Tensor, "batch asked dim"]:
    """Self-attention of timm, for all but the first tokens, which give keys and values only."""
    dim = tokens.shape[-1]
    weights, biases = attention.qkv.weight.split([dim, 2 * dim]), attention.qkv.bias.split([dim, 2 * dim])
    query = functional.linear(tokens[:, num_context:], weights[0], biases[0])
    key, value = functional.linear(tokens, weights[1], biases[1]).split(dim, dim=-1)
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
    attended = functional.scaled_dot_product_attention(query, key, value)
    return attention.proj(attended.transpose(1, 2).flatten(2))


class TransformerPredictor(Predictor):
    """Visible tokens and one learned token for each target, with fixed positions, through blocks."""

    positions: Tensor

    def __init__(self, config: TransformerPredictorConfig, student: TokenSpec, teacher: TokenSpec) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(student.dim, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        positions = sincos_positions(student.grid, config.dim).unsqueeze(0)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(
            PredictorBlock(config.dim, config.heads, mlp_ratio=config.mlp_ratio, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
            for _ in range(config.depth)
        )
        self.norm = norm(config.dim)
        self.head = nn.Linear(config.dim, teacher.dim)
        self.grad_checkpointing = config.grad_checkpointing
        self.apply(initialise)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, tokens: Float[Tensor, "batch visible student_dim"], mask: Mask
    ) -> Float[Tensor, "batch target teacher_dim"]:
        """Predicts the latents at the targets."""
        batch, num_visible, _ = tokens.shape
        positions = self.positions.expand(batch, -1, -1)
        visible = self.embed(tokens) + gather_tokens(positions, mask.visible)
        target = self.mask_token + gather_tokens(positions, mask.target)
        together = torch.cat([visible, target.to(visible.dtype)], dim=1)
        recompute = self.grad_checkpointing and self.training
        together = run_blocks(self.blocks[:-1], together, recompute)
        target = run_blocks(self.blocks[-1:], together, recompute, num_visible)
        return self.head(self.norm(target))
