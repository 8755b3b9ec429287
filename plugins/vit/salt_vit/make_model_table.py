"""Writes vit_models.json: what timm's plain ViTs are made of, so that recipes need no timm to be checked.

python -m salt_vit.make_model_table
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from salt_toolkit.flops import block_parameters

TABLE = Path(__file__).with_name("vit_models.json")


def model_table() -> dict[str, dict[str, Any]]:
    """Every supported model of the installed timm: its sizes, counted on the built model."""
    return {name: row for name, row in _rows() if row is not None}


def _rows() -> Iterator[tuple[str, dict[str, Any] | None]]:
    for name in [*timm.list_models(module="vision_transformer"), *timm.list_models(module="deit")]:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
        yield name, _row(model)


def _row(model: nn.Module) -> dict[str, Any] | None:
    """The sizes of one model; None where its parts are not those of a plain ViT."""
    if type(model) is not VisionTransformer or not isinstance(model.pos_embed, nn.Parameter):
        return None
    projection = getattr(model.patch_embed, "proj", None)
    if not isinstance(projection, nn.Conv2d) or not isinstance(model.patch_embed.norm, nn.Identity):
        return None
    blocks = [_count(block) for block in model.blocks]
    block = model.blocks[0]
    linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
    attentions = sum(hasattr(module, "fused_attn") for module in block.modules())
    if len(set(blocks)) > 1 or attentions == 0:
        return None
    dim = model.embed_dim
    # The widest Linear output besides q, k, v is the MLP's.
    mlp_dim = max(linear.in_features for linear in linears)
    row = {
        "dim": dim,
        "depth": len(model.blocks),
        "heads": next(module.num_heads for module in block.modules() if hasattr(module, "fused_attn")),
        "patch": projection.kernel_size[0],
        "mlp_dim": mlp_dim,
        "attentions": attentions,
        "block_parameters": blocks[0],
        "block_weights": sum(linear.weight.numel() for linear in linears),
        "norm_parameters": _count(model.norm_pre) + _count(final_norm(model)),
    }
    row["plain"] = blocks[0] == block_parameters(dim, 4 * dim) and row["norm_parameters"] == 2 * dim
    return row


def final_norm(model: VisionTransformer) -> nn.Module:
    """The norm after the last block; models that pool by the mean keep it behind the pooling."""
    return model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in model_table().items())
    TABLE.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
