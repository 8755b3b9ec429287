"""V-JEPA 2's encoder in float64, written from its equations, and the mistakes that parity tests must notice.

Nothing here comes from the code under test, nor from transformers' forward. Sources: the paper's section on
the architecture (3D rotary positions), and src/models/utils/modules.py of facebookresearch/vjepa2.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from vjepa2_files import TINY, stored

EPS = 1e-6


class Reference:
    """The equations, one method for each step, so that a mistake is a subclass with another step."""

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    heads = TINY["num_attention_heads"]

    def __init__(self, folder: Path) -> None:
        found = {key.removeprefix("vjepa2."): value.double() for key, value in stored(folder).items()}
        self.weights = {key.removeprefix("encoder."): value for key, value in found.items() if "encoder." in key}
        self.depth = sum(key.endswith("norm1.weight") for key in self.weights)

    def linear(self, tokens: Tensor, name: str) -> Tensor:
        """A Linear of the file."""
        return tokens @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, tokens: Tensor, name: str = "layernorm") -> Tensor:
        """A LayerNorm of the file."""
        return layer_norm(tokens) * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def turned(self, numbers: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """One head's queries or keys, (batch, token, numbers), turned by their places in the grid.

        A third of the numbers (rounded down to even) for the frame, the row, the column, one after another; what is
        left over stays. In each third of n numbers, neighbours 2j and 2j + 1 are a pair that turns; number k turns by
        place * 10000^(-(k mod n/2) / (n/2)), so the two of a pair turn by different angles.
        """
        result, third = numbers.clone(), numbers.shape[-1] // 3 // 2 * 2
        k, places = torch.arange(third), torch.tensor(self.places(*grid), dtype=torch.float64)
        rate = 10000.0 ** (-(k % (third // 2)) / (third // 2)).double()
        for axis in range(3):
            angle, first = places[:, axis, None] * rate, axis * third
            partner = torch.where(k % 2 == 0, -1, 1) * numbers[..., first + (k ^ 1)]
            result[..., first + k] = numbers[..., first + k] * angle.cos() + partner * angle.sin()
        return result

    def places(self, frames: int, rows: int, columns: int) -> list[tuple[int, int, int]]:
        """Of each token, time-major."""
        return [(f, r, c) for f in range(frames) for r in range(rows) for c in range(columns)]

    def attention(self, tokens: Tensor, name: str, grid: tuple[int, int, int]) -> Tensor:
        """Softmax of scaled products, head by head."""
        query, key, value = (self.linear(tokens, f"{name}.{part}") for part in ("query", "key", "value"))
        width, mixed = tokens.shape[-1] // self.heads, []
        for first in range(0, tokens.shape[-1], width):
            of_head = slice(first, first + width)
            queries, keys = (self.turned(part[..., of_head], grid) for part in (query, key))
            mixed.append((queries @ keys.transpose(1, 2) / math.sqrt(width)).softmax(dim=-1) @ value[..., of_head])
        return self.linear(torch.cat(mixed, dim=-1), f"{name}.proj")

    @torch.no_grad()
    def hidden(self, clip: Tensor) -> list[Tensor]:
        """Tokens after each block, from the first, before the last norm."""
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1, 1) for values in (self.mean, self.std))
        name = "embeddings.patch_embeddings.proj"
        kernel = self.weights[f"{name}.weight"]
        embedded = functional.conv3d(
            (clip.double() / 255 - mean) / std, kernel, self.weights[f"{name}.bias"], stride=kernel.shape[2:]
        )
        grid, tokens, outputs = tuple(embedded.shape[2:]), embedded.flatten(2).transpose(1, 2), []
        for number in range(self.depth):
            name = f"layer.{number}"
            tokens = tokens + self.attention(self.norm(tokens, f"{name}.norm1"), f"{name}.attention", grid)
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


class RowsForColumns(Reference):
    """The grid, transposed."""

    def places(self, frames, rows, columns):
        return [(f, c, r) for f, r, c in super().places(frames, rows, columns)]


class FramesLast(Reference):
    """Places numbered space-major."""

    def places(self, frames, rows, columns):
        return [(f, r, c) for r in range(rows) for c in range(columns) for f in range(frames)]


class PlacesOfAnotherSize(Reference):
    """As if the clip had the size that the checkpoint was made for, twice this one: what crop_size is for."""

    def places(self, frames, rows, columns):
        side = 2 * rows
        return [(i // side**2, i % side**2 // side, i % side) for i in range(frames * rows * columns)]


class WithoutPlaces(Reference):
    def places(self, frames, rows, columns):
        return [(0, 0, 0)] * (frames * rows * columns)


class Halves(Reference):
    mean = std = (0.5, 0.5, 0.5)


class WithoutScale(Reference):
    """Pixels of 0 to 255 where 0 to 1 are wanted."""

    mean, std = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)


class WithoutBias(Reference):
    """Drops the biases of one projection of every block."""

    part = ""

    def __init__(self, folder):
        super().__init__(folder)
        for key, value in self.weights.items():
            if key.endswith(f"attention.{self.part}.bias"):
                value.zero_()


class WithoutQueryBias(WithoutBias):
    part = "query"


class WithoutKeyBias(WithoutBias):
    """Without positions, this one would change nothing."""

    part = "key"


class WithoutValueBias(WithoutBias):
    part = "value"


MISTAKES = (
    RowsForColumns,
    FramesLast,
    PlacesOfAnotherSize,
    WithoutPlaces,
    Halves,
    WithoutScale,
    WithoutQueryBias,
    WithoutKeyBias,
    WithoutValueBias,
)
