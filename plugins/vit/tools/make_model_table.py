"""Writes vit_models.json: what timm's plain ViTs are made of, so that recipes need no timm to be checked.

python plugins/vit/tools/make_model_table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from module_counts import attention_flops, count_parameters, linear_weights
from salt_vit.image_network import last_norm
from timm.models import get_arch_pretrained_cfgs
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from salt_toolkit.flops import block_parameters

TABLE = Path(__file__).parents[1] / "salt_vit" / "vit_models.json"


def model_table() -> dict[str, dict[str, Any]]:
    """Every supported model of the installed timm: its sizes, counted on the built model."""
    return {name: row for name, row in _rows() if row is not None}


def _rows() -> Iterator[tuple[str, dict[str, Any] | None]]:
    for name in [*timm.list_models(module="vision_transformer"), *timm.list_models(module="deit")]:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0, weight_init="skip")
        row = _row(model)
        yield name, None if row is None else {**row, "weights": _weights(name)}


def _row(model: nn.Module) -> dict[str, Any] | None:
    """The sizes of one model; None where its parts are not those of a plain ViT."""
    if type(model) is not VisionTransformer or not isinstance(model.pos_embed, nn.Parameter):
        return None
    projection = getattr(model.patch_embed, "proj", None)
    if not isinstance(projection, nn.Conv2d) or not isinstance(model.patch_embed.norm, nn.Identity):
        return None
    blocks = [count_parameters(block) for block in model.blocks]
    block = model.blocks[0]
    linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
    attentions = [module for module in block.modules() if hasattr(module, "fused_attn")]
    if len(set(blocks)) > 1 or not attentions:
        return None
    dim = model.embed_dim
    pairs = attention_flops(block, dim)
    row = {
        "dim": dim,
        "depth": len(model.blocks),
        "heads": attentions[0].num_heads,
        "patch": projection.kernel_size[0],
        "mlp_dim": max(linear.in_features for linear in linears),  # no Linear takes in more than the last of the MLP
        "block_parameters": blocks[0],
        "block_weights": linear_weights(block),
        "attention_flops": pairs,
        "norm_parameters": count_parameters(model.norm_pre) + count_parameters(last_norm(model)),
    }
    plain = block_parameters(dim, 4 * dim), 4 * dim, 2 * dim
    row["plain"] = (blocks[0], pairs, row["norm_parameters"]) == plain
    return row


def _weights(name: str) -> dict[str, str]:
    """The model's pre-trained weights on the hub, timm's own choice first: tag and repository."""
    cfgs = get_arch_pretrained_cfgs(name)
    found = {full.partition(".")[2]: cfg.hf_hub_id for full, cfg in cfgs.items() if cfg.hf_hub_id}
    chosen = getattr(timm.get_pretrained_cfg(name), "tag", None)
    return {tag: found[tag] for tag in sorted(found, key=lambda tag: tag != chosen)}


if __name__ == "__main__":
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in model_table().items())
    TABLE.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
