"""Synthetic V-JEPA 2 checkpoints in the hub's layout, written by transformers' own classes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

TINY = {
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 8,
    "tubelet_size": 2,
    "hidden_size": 52,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "mlp_ratio": 48 / 11,
    "num_pooler_layers": 1,
    "pred_hidden_size": 12,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}
"""Heads of 26 numbers, of which 24 are turned and 2 are not, and an MLP whose width is rounded, as in the giant."""


def model_of(kind: type = VJEPA2Model, *, seed: int = 0, **settings) -> VJEPA2Model | VJEPA2ForVideoClassification:
    """Seeded numbers so large that no bias and no norm is negligible."""
    model = kind(VJEPA2Config(**{**TINY, **settings})).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            if value.dim() > 1:
                value.copy_(drawn / value[0].numel() ** 0.5)
            else:
                value.copy_(1 + 0.3 * drawn if name.endswith("weight") else 0.5 * drawn)
    return model


def save(folder: Path, *, classes: int = 0, depth: int = 3, **saving) -> Path:
    """A directory as on the hub: the pre-trained model with its predictor, or one with a classifier."""
    if classes:
        model = model_of(VJEPA2ForVideoClassification, num_hidden_layers=depth, num_labels=classes)
    else:
        model = model_of(num_hidden_layers=depth)
    model.save_pretrained(folder, **saving)
    return folder


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a directory, by their keys."""
    return {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}


def change(folder: Path, weights: dict[str, Tensor] | None = None, **settings) -> Path:
    """Writes other weights, or other settings, into a directory."""
    if weights is not None:
        save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder
