"""The predictor of V-JEPA and SALT: a narrow transformer over visible tokens and mask tokens."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from salt_toolkit import TokenSpec
from salt_toolkit.contracts import Mask, Predictor
from salt_toolkit.tokens import gather_tokens, sincos_positions
from salt_vit.config import TransformerPredictorConfig
from salt_vit.student import initialise, run_blocks


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
            Block(config.dim, config.heads, mlp_ratio=config.mlp_ratio, qkv_bias=True, norm_layer=norm)  # pyright: ignore[reportArgumentType]
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
        together = run_blocks(self.blocks, together, self.grad_checkpointing and self.training)
        return self.head(self.norm(together[:, num_visible:]))
