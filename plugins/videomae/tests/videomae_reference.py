"""VideoMAE's encoder in float64, written from its equations, and the mistakes that parity tests must notice.

Nothing here comes from the code under test. Sources: the papers' section on the architecture,
modeling_finetune.py and modeling_pretrain.py of MCG-NJU/VideoMAE and OpenGVLab/VideoMAEv2, and
transformers' convert_videomae_to_pytorch.py for the names of its layout.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

EPS = 1e-6


def stored_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file or a directory, by the names under which they are stored."""
    if path.is_dir():
        (index,) = [*path.glob("*.index.json")] or [None]
        names = set(json.loads(index.read_text())["weight_map"].values()) if index else {
            file.name for file in path.iterdir() if file.suffix in (".safetensors", ".bin")
        }  # fmt: skip
        return {key: value for name in names for key, value in stored_tensors(path / name).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        stored = torch.load(path, weights_only=True)
    while wrapped := [stored[name] for name in ("model", "module", "state_dict") if isinstance(stored.get(name), dict)]:
        stored = wrapped[0]
    return stored


def encoder_tensors(path: Path) -> dict[str, Tensor]:
    """The encoder's tensors in float64, by the authors' names without prefixes; whatever layout stores them."""
    stored = stored_tensors(path)
    found = {}
    for key, value in stored.items():
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", key)
        if re.match(r"decoder\.|encoder_to_decoder\.|mask_token|head\.|model\.head\.|classifier\.", name):
            continue
        found[re.sub(r"^(model\.|videomae\.|encoder\.(?=blocks|norm|patch_embed))", "", name)] = value.double()
    return _from_transformers(found) if "embeddings.patch_embeddings.projection.weight" in found else found


def _from_transformers(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    native = {
        f"patch_embed.proj.{kind}": stored[f"embeddings.patch_embeddings.projection.{kind}"]
        for kind in ("weight", "bias")
    }
    depth = sum(key.endswith("layernorm_before.weight") for key in stored)
    for number in range(depth):
        theirs, ours = f"encoder.layer.{number}", f"blocks.{number}"
        attention = f"{theirs}.attention.attention"
        parts = [stored[f"{attention}.{name}.weight"] for name in ("query", "key", "value")]
        native[f"{ours}.attn.qkv.weight"] = torch.cat(parts, dim=0)
        for name, old in (("query", "q_bias"), ("value", "v_bias")):
            new_key, old_key = f"{attention}.{name}.bias", f"{attention}.{old}"
            native[f"{ours}.attn.{old}"] = stored[old_key] if old_key in stored else stored[new_key]
        for kind in ("weight", "bias"):
            native[f"{ours}.norm1.{kind}"] = stored[f"{theirs}.layernorm_before.{kind}"]
            native[f"{ours}.norm2.{kind}"] = stored[f"{theirs}.layernorm_after.{kind}"]
            native[f"{ours}.attn.proj.{kind}"] = stored[f"{theirs}.attention.output.dense.{kind}"]
            native[f"{ours}.mlp.fc1.{kind}"] = stored[f"{theirs}.intermediate.dense.{kind}"]
            native[f"{ours}.mlp.fc2.{kind}"] = stored[f"{theirs}.output.dense.{kind}"]
    for theirs, ours in (("layernorm", "norm"), ("fc_norm", "fc_norm")):
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in stored:
                native[f"{ours}.{kind}"] = stored[f"{theirs}.{kind}"]
    return native


class Reference:
    """The equations, one method for each step, so that a mistake is a subclass with another step.

    Args:
        path: The stored file or directory.
        heads: Which no file tells.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, path: Path, heads: int) -> None:
        self.weights = encoder_tensors(path)
        self.heads = heads
        self.depth = sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", key)) for key in self.weights)

    def pixels(self, clip: Tensor) -> Tensor:
        """(batch, channels, frames, height, width) of 0 to 255, normalised as in training."""
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (self.mean, self.std))
        return (clip.double() / 255 - mean) / std

    def positions(self, frames: int, rows: int, columns: int, dim: int) -> Tensor:
        """Sine on even, cosine on odd numbers, of the index in the flattened (frame, row, column) grid."""
        table = torch.zeros(frames * rows * columns, dim, dtype=torch.float64)
        for j in range(dim):
            wave = math.sin if j % 2 == 0 else math.cos
            rate = 10000 ** (2 * (j // 2) / dim)
            table[:, j] = torch.tensor([wave(index / rate) for index in range(len(table))])
        return table

    def flatten(self, embedded: Tensor) -> Tensor:
        """(batch, dim, frames, rows, columns) to tokens, time-major."""
        return embedded.permute(0, 2, 3, 4, 1).flatten(1, 3)

    def qkv_bias(self, query: Tensor, value: Tensor) -> Tensor:
        """Keys have none."""
        return torch.cat([query, torch.zeros_like(query), value])

    def norm(self, tokens: Tensor, name: str) -> Tensor:
        """A LayerNorm of the file."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(tokens) * weight + bias

    def linear(self, tokens: Tensor, name: str) -> Tensor:
        """A Linear of the file."""
        return tokens @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def attention(self, tokens: Tensor, name: str) -> Tensor:
        """Softmax of scaled products, head by head."""
        bias = self.qkv_bias(self.weights[f"{name}.q_bias"], self.weights[f"{name}.v_bias"])
        query, key, value = (tokens @ self.weights[f"{name}.qkv.weight"].T + bias).chunk(3, dim=-1)
        width = query.shape[-1] // self.heads
        mixed = []
        for first in range(0, query.shape[-1], width):
            of_head = slice(first, first + width)
            scores = query[..., of_head] @ key[..., of_head].transpose(1, 2) / math.sqrt(width)
            mixed.append(scores.softmax(dim=-1) @ value[..., of_head])
        return self.linear(torch.cat(mixed, dim=-1), f"{name}.proj")

    @torch.no_grad()
    def hidden(self, clip: Tensor, blocks: int | None = None) -> list[Tensor]:
        """Tokens after each block, from the first; before any last norm."""
        kernel = self.weights["patch_embed.proj.weight"]
        embedded = functional.conv3d(
            self.pixels(clip), kernel, self.weights["patch_embed.proj.bias"], stride=kernel.shape[2:]
        )
        tokens = self.flatten(embedded) + self.positions(*embedded.shape[2:], embedded.shape[1])
        outputs = []
        for number in range(self.depth if blocks is None else blocks):
            name = f"blocks.{number}"
            tokens = tokens + self.attention(self.norm(tokens, f"{name}.norm1"), f"{name}.attn")
            inner = functional.gelu(self.linear(self.norm(tokens, f"{name}.norm2"), f"{name}.mlp.fc1"))
            tokens = tokens + self.linear(inner, f"{name}.mlp.fc2")
            outputs.append(tokens)
        return outputs


def layer_norm(tokens: Tensor) -> Tensor:
    """A LayerNorm without weights."""
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + EPS).sqrt()


def token_error(found: Tensor, expected: Tensor) -> float:
    """The largest relative error of a token."""
    assert found.shape == expected.shape
    return ((found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


class WithoutBiases(Reference):
    """What transformers 5.6 to 5.17 made of every published file."""

    def qkv_bias(self, query, value):
        return torch.zeros(3 * len(query), dtype=torch.float64)


class WithoutQueryBias(Reference):
    def qkv_bias(self, query, value):
        return torch.cat([torch.zeros(2 * len(query), dtype=torch.float64), value])


class BiasesOfKeysAndQueries(Reference):
    """The two biases side by side, as if values had none."""

    def qkv_bias(self, query, value):
        return torch.cat([query, value, torch.zeros_like(query)])


class ValueBiasFromQuery(Reference):
    def qkv_bias(self, query, value):
        return torch.cat([query, torch.zeros_like(query), query])


class ColumnsBeforeRows(Reference):
    """The position table, transposed."""

    def positions(self, frames, rows, columns, dim):
        table = super().positions(frames, rows, columns, dim)
        return table.unflatten(0, (frames, rows, columns)).transpose(1, 2).flatten(0, 2)


class SinesThenCosines(Reference):
    def positions(self, frames, rows, columns, dim):
        table = super().positions(frames, rows, columns, dim)
        return torch.cat([table[:, 0::2], table[:, 1::2]], dim=1)


class CosinesFirst(Reference):
    def positions(self, frames, rows, columns, dim):
        table = super().positions(frames, rows, columns, dim)
        return table.unflatten(1, (-1, 2)).flip(2).flatten(1)


class PositionsFromOne(Reference):
    def positions(self, frames, rows, columns, dim):
        return super().positions(frames + 1, rows, columns, dim)[1 : frames * rows * columns + 1]


class HalfAndHalf(Reference):
    """The defaults of transformers' image processor."""

    mean = std = (0.5, 0.5, 0.5)


class OnlyMeanOfHalf(Reference):
    mean = (0.5, 0.5, 0.5)


class BlueGreenRed(Reference):
    def pixels(self, clip):
        return super().pixels(clip.flip(1))


class TimeLast(Reference):
    """Tokens and positions space-major."""

    def flatten(self, embedded):
        return embedded.permute(0, 3, 4, 2, 1).flatten(1, 3)


class TransposedPictures(Reference):
    def flatten(self, embedded):
        return embedded.permute(0, 2, 4, 3, 1).flatten(1, 3)


class HalfTheHeads(Reference):
    def __init__(self, path, heads):
        super().__init__(path, heads // 2)


MISTAKES = tuple(kind for kind in Reference.__subclasses__())
