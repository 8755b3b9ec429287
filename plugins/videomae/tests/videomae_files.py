"""Synthetic VideoMAE checkpoints in every layout that people have, with the keys that the originals have."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Of a small encoder; the authors' files hold clips of 16 frames of 224 pixels, whatever the width."""

    dim: int = 24
    depth: int = 3
    heads: int = 4
    mlp_dim: int = 40
    patch: int = 56
    frames: int = 16
    size: int = 224
    own_norm: str | None = "norm"

    def but(self, **changes) -> Shape:
        return replace(self, **changes)


TINY = Shape()
SHORT = Shape(patch=16, frames=4, size=32)
"""For directories, whose config.json tells frames and size."""


def encoder_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The authors' keys of an encoder."""
    dim, mlp = shape.dim, shape.mlp_dim
    shapes = {"patch_embed.proj.weight": (dim, 3, 2, shape.patch, shape.patch), "patch_embed.proj.bias": (dim,)}
    for number in range(shape.depth):
        block = f"blocks.{number}"
        shapes |= {
            f"{block}.norm1.weight": (dim,),
            f"{block}.norm1.bias": (dim,),
            f"{block}.attn.q_bias": (dim,),
            f"{block}.attn.v_bias": (dim,),
            f"{block}.attn.qkv.weight": (3 * dim, dim),
            f"{block}.attn.proj.weight": (dim, dim),
            f"{block}.attn.proj.bias": (dim,),
            f"{block}.norm2.weight": (dim,),
            f"{block}.norm2.bias": (dim,),
            f"{block}.mlp.fc1.weight": (mlp, dim),
            f"{block}.mlp.fc1.bias": (mlp,),
            f"{block}.mlp.fc2.weight": (dim, mlp),
            f"{block}.mlp.fc2.bias": (dim,),
        }
    if shape.own_norm:
        shapes |= {f"{shape.own_norm}.weight": (dim,), f"{shape.own_norm}.bias": (dim,)}
    return shapes


def encoder_weights(shape: Shape, seed: int = 0) -> Weights:
    """Seeded numbers so large that no bias and no norm is negligible; last norms do not change the rest."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, size in encoder_shapes(shape).items():
        drawn = torch.randn(size, generator=generator)
        if len(size) > 1:
            weights[key] = drawn / (drawn[0].numel() ** 0.5)
        else:
            weights[key] = 1 + 0.3 * drawn if key.endswith("weight") else 0.5 * drawn
    return weights


def sized_tensors(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Tensors of full size that take no room: a single number, seen from everywhere."""
    return {key: torch.ones(1).expand(size) for key, size in shapes.items()}


def decoder_weights(dim: int) -> Weights:
    """What a pre-training file holds beside the encoder."""
    decoder = encoder_weights(Shape(dim=16, depth=1, mlp_dim=32), seed=9)
    kept = {f"decoder.{key}": value for key, value in decoder.items() if not key.startswith("patch_embed")}
    head = {"decoder.head.weight": torch.ones(96, 16), "decoder.head.bias": torch.ones(96)}
    return {"mask_token": torch.ones(1, 1, 16), "encoder_to_decoder.weight": torch.ones(16, dim), **kept, **head}


def pretraining(weights: Weights) -> Weights:
    """The keys of modeling_pretrain.py."""
    dim = len(weights["patch_embed.proj.bias"])
    return {f"encoder.{key}": value for key, value in weights.items()} | decoder_weights(dim)


def classifier(dim: int, classes: int) -> Weights:
    """The head of fine-tuned models."""
    return {"head.weight": torch.ones(classes, dim), "head.bias": torch.ones(classes)}


def save_pth(
    path: Path, state: Weights, *, wrapper: str = "", prefix: str = "", arguments: bool = False, legacy: bool = False
) -> Path:
    """What the authors' scripts save, in both of torch's formats."""
    saved: dict = {prefix + key: value for key, value in state.items()}
    if wrapper:
        saved = {wrapper: saved, "epoch": 1599}
    if arguments:
        arguments_of_run = argparse.Namespace(
            model="pretrain", lr=1e-3, tags={"k400"}, window=(8, 14, 14), note=b"1600 epochs"
        )
        saved |= {"optimizer": {"state": {0: {"step": 7}}, "milestones": Counter([3])}, "args": arguments_of_run}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    return path


def save_videomae2(folder: Path, weights: Weights, shape: Shape, **settings) -> Path:
    """A repository of VideoMAEv2 on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "img_size": shape.size,
        "patch_size": shape.patch,
        "embed_dim": shape.dim,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": shape.mlp_dim / shape.dim,
        "qkv_bias": True,
        "init_values": 0,
        "use_learnable_pos_emb": False,
        "tubelet_size": 2,
        "num_frames": shape.frames,
        "use_mean_pooling": True,
        "num_classes": 0,
        "with_cp": False,
        "cos_attn": False,
        "layer_norm_eps": 1e-6,
    }
    config = {"model_type": "VideoMAEv2_Base", "model_config": model | settings}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"model.{key}": value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    return folder


def transformers_keys(weights: Weights, *, prefix: str = "videomae.", old: bool = True) -> Weights:
    """The keys of the hub's files of the first generation, or those that transformers wrote for a while."""
    query, value = ("q_bias", "v_bias") if old else ("query.bias", "value.bias")
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "attn.q_bias": f"attention.attention.{query}",
        "attn.v_bias": f"attention.attention.{value}",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    found = {}
    for key, tensor in weights.items():
        top, _, rest = key.partition(".")
        if top == "fc_norm":
            found[key] = tensor  # beside the encoder, at the classifier
        elif top == "norm":
            found[f"{prefix}layernorm.{rest}"] = tensor
        elif top == "patch_embed":
            found[f"{prefix}embeddings.patch_embeddings.projection.{rest.removeprefix('proj.')}"] = tensor
        else:
            number, _, inner = rest.partition(".")
            layer = f"{prefix}encoder.layer.{number}"
            if inner == "attn.qkv.weight":
                for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    found[f"{layer}.attention.attention.{name}.weight"] = part.clone()
            else:
                known = next(name for name in names if inner.startswith(name))
                found[f"{layer}.{names[known]}{inner.removeprefix(known)}"] = tensor
    return found


def transformers_settings(shape: Shape) -> dict:
    """For config.json, and for transformers' own VideoMAEConfig."""
    return {
        "image_size": shape.size,
        "patch_size": shape.patch,
        "num_frames": shape.frames,
        "tubelet_size": 2,
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.mlp_dim,
        "use_mean_pooling": shape.own_norm != "norm",
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    }


def save_transformers(
    folder: Path,
    state: Weights,
    shape: Shape,
    *,
    kind: str = "safetensors",
    **settings,
) -> Path:
    """A repository of VideoMAE on the hub: one file, two shards, or a pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "videomae", "qkv_bias": True, **transformers_settings(shape), **settings}
    (folder / "config.json").write_text(json.dumps(config))
    state = {key: value.contiguous() for key, value in state.items()}
    if kind == "safetensors":
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    elif kind == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        shards = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
        names = [*shards]
        where = {key: names[number % 2] for number, key in enumerate(state)}
        for key, name in where.items():
            shards[name][key] = state[key]
        for name, part in shards.items():
            save_file(part, folder / name, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
