"""What the two kinds of config.json say of a VideoMAE; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from salt_toolkit import CheckpointError
from salt_videomae.architecture import Architecture


def from_transformers(name: str, config: Mapping[str, Any]) -> Architecture:
    """Reads transformers' settings; a key that is absent means what it means there.

    Raises:
        CheckpointError: They describe another model.
    """
    if config.get("model_type") != "videomae":
        raise CheckpointError(
            f"{name} is a model of type {config.get('model_type')!r}, not a 'videomae'; name another checkpoint"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(
            f"{name} was made with hidden_act = {config['hidden_act']!r}, and VideoMAE has 'gelu'; name another"
        )
    count = partial(_count, name, config)
    dim, depth, heads = count("hidden_size", 768), count("num_hidden_layers", 12), count("num_attention_heads", 12)
    mlp_dim = count("intermediate_size", 3072)
    if (dim, depth, mlp_dim, heads) == (384, 12, 1536, 16):
        heads = 6  # the hub's small files were converted with 16 in their settings, and trained with 6
    return _sized(
        name,
        config.get("image_size", 224),
        config.get("patch_size", 16),
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim,
        frames=count("num_frames", 16),
        tubelet=count("tubelet_size", 2),
        qv_bias=config.get("qkv_bias", config.get("qv_bias", True)),  # transformers renamed it
    )


def from_videomae2(name: str, config: Mapping[str, Any]) -> Architecture:
    """Reads the settings of VideoMAEv2's repositories on the hub, under ``model_config``.

    Raises:
        CheckpointError: They describe another model, or a variant that was never published.
    """
    found = config.get("model_config")
    if not isinstance(found, Mapping) or "embed_dim" not in found:
        raise CheckpointError(
            f"{name} has no model_config with embed_dim in its config.json (model_type "
            f"{config.get('model_type')!r}), so it is no VideoMAEv2; name another checkpoint"
        )
    for key in ("cos_attn", "use_learnable_pos_emb", "init_values"):
        if found.get(key):
            raise CheckpointError(
                f"{name} was made with {key} = {found[key]!r}, which no published VideoMAEv2 has and salt does not know"
            )
    count = partial(_count, name, found)
    dim, ratio = count("embed_dim", 768), found.get("mlp_ratio", 4)
    if not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
        raise CheckpointError(f"{name} says mlp_ratio = {ratio!r} in its config.json, which is no positive number")
    return _sized(
        name,
        found.get("img_size", 224),
        found.get("patch_size", 16),
        dim=dim,
        depth=count("depth", 12),
        heads=count("num_heads", 12),
        mlp_dim=int(dim * ratio),
        frames=count("num_frames", 16),
        tubelet=count("tubelet_size", 2),
        qv_bias=found.get("qkv_bias", True),
    )


def _sized(name: str, size: Any, patch: Any, *, dim: int, heads: int, **settings: Any) -> Architecture:
    if dim % heads:
        raise CheckpointError(f"{name} says {heads} attention heads, which do not divide its width of {dim}")
    made = Architecture(dim=dim, heads=heads, size=_side(name, size), patch=_side(name, patch), **settings)
    if made.size % made.patch or made.frames % made.tubelet:
        raise CheckpointError(
            f"{name} has clips of {made.frames} frames of {made.size} pixels in its config.json, which tokens of "
            f"{made.tubelet} frames of {made.patch} pixels do not tile; download it again"
        )
    return made


def _count(name: str, config: Mapping[str, Any], key: str, default: int) -> int:
    """A setting that counts something."""
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{name} says {key} = {value!r} in its config.json, which is no positive whole number")
    return value


def _side(name: str, size: Any) -> int:
    """The side of a square that is given as one number, or as height and width."""
    sides = size if isinstance(size, list) else [size]
    if not sides or any(type(side) is not int or side < 1 or side != sides[0] for side in sides):
        raise CheckpointError(f"{name} has pictures or patches of {size} pixels, which are not square; name another")
    return sides[0]
