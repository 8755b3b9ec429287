"""Writes image_models.json: what timm's image teachers are made of, so that recipes need no timm to be checked.

Only models whose cost follows from the table are taken: each is run on torch's meta device at two sizes.

python plugins/vit/tools/make_image_table.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from module_counts import attention_flops, count_parameters, linear_weights
from salt_vit.image_models import CHANNELS, PIXELS, ImageArchitecture
from salt_vit.image_network import ImageModel, create, cut_to_encoder, last_norm
from salt_vit.labels import labels_of
from timm.layers.helpers import to_2tuple
from timm.models import get_arch_pretrained_cfgs
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

TABLE = Path(__file__).parents[1] / "salt_vit" / "image_models.json"
# C-RADIO brings positions for 128 x 128 patches and its own way to resample them, which timm's files apply on loading.
LEFT_OUT = "radio"


def candidates() -> list[str]:
    """Models of the installed timm that might be teachers."""
    names = [name for module in ("vision_transformer", "deit", "eva") for name in timm.list_models(module=module)]
    return [name for name in names if LEFT_OUT not in name]


def image_rows(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The supported ones of these models: their sizes, counted on the built model, and their weights."""
    rows = {}
    for name in names:
        with torch.device("meta"):
            model = create(name).eval()
        row = _row(model)
        if row is not None and _is_proven(model, ImageArchitecture.of(name, row)):
            rows[name] = {**row, **_weights(name)}
    return rows


def _row(model: ImageModel) -> dict[str, Any] | None:
    """The sizes of one model; None where its parts are not those that the table can describe."""
    projection = getattr(model.patch_embed, "proj", None)
    blocks = {count_parameters(block) for block in model.blocks}
    height, width = to_2tuple(model.patch_embed.img_size)
    if not isinstance(projection, nn.Conv2d) or len(blocks) > 1 or height != width:
        return None
    norm = None if isinstance(last_norm(model), nn.Identity) else "norm"
    if norm and last_norm(model) is model.fc_norm:
        norm = "fc_norm"
    dim = model.embed_dim
    sizes = {
        "dim": dim,
        "depth": len(model.blocks),
        "patch": projection.kernel_size[0],
        "size": height,
        "prefix": model.num_prefix_tokens,
        "class_token": model.cls_token is not None,
        "positions": model.pos_embed is not None,
        "norm": norm,
    }
    cut_to_encoder(model, len(model.blocks))
    at_patches = model.patch_embed.num_patches * dim if sizes["positions"] else 0
    return {
        **sizes,
        "around_parameters": count_parameters(model) - count_parameters(model.blocks) - at_patches,
        "block_parameters": blocks.pop(),
        "block_weights": linear_weights(model.blocks[0]),
        "attention_flops": attention_flops(model.blocks[0], dim),
    }


def _is_proven(model: ImageModel, made: ImageArchitecture) -> bool:
    """Whether the row's arithmetic is what torch counts, for two blocks at two sizes that are not the native one."""
    num_blocks = min(2, made.depth)
    cut_to_encoder(model, num_blocks)
    for side in (2, 3):
        size = side * made.patch
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            model.set_input_size((size, size))
            model.forward_intermediates(torch.empty(1, CHANNELS, size, size), indices=1)
        around, block = made.around(size, frames=1), made.block(size, frames=1)
        if counter.get_total_flops() != around.forward_flops + num_blocks * block.forward_flops:
            return False
        if count_parameters(model) != around.parameters + num_blocks * block.parameters:
            return False
    return True


def _weights(name: str) -> dict[str, Any]:
    """The model's normalisation, and its published weights by tag, timm's own choice first."""
    cfgs = {full.partition(".")[2]: cfg for full, cfg in get_arch_pretrained_cfgs(name).items()}
    chosen: Any = timm.get_pretrained_cfg(name)  # every model has one
    tags = sorted((tag for tag, cfg in cfgs.items() if cfg.hf_hub_id), key=lambda tag: tag != chosen.tag)
    pixels = _pixels(cfgs[tags[0]] if tags else chosen)
    weights = {}
    for tag in tags:
        cfg = cfgs[tag]
        weights[tag] = {"licence": cfg.license or "unknown", "labels": labels_of(name, tag)}
        if _pixels(cfg) != pixels:
            weights[tag]["pixels"] = _pixels(cfg)
        if any("natively QuickGELU" in note for note in cfg.notes or ()) and "quickgelu" not in name:
            weights[tag]["instead"] = f"{name.replace('_clip_', '_clip_quickgelu_')}.{tag}"
        if cfg.hf_hub_id != f"timm/{name}.{tag}":
            weights[tag]["repository"] = cfg.hf_hub_id
    return {"pixels": pixels, "weights": weights}


def _pixels(cfg: Any) -> str:
    """The name of a normalisation."""
    return next(name for name, known in PIXELS.items() if known == (tuple(cfg.mean), tuple(cfg.std)))


if __name__ == "__main__":
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in image_rows(candidates()).items())
    TABLE.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
