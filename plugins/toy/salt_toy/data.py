"""The dataset and the masker."""

from __future__ import annotations

import numpy as np
import torch

from salt_toolkit import ClipSpec, Grid, MaskCounts
from salt_toolkit.contracts import Masker, Sample
from salt_toolkit.seeding import generator_for
from salt_toy.config import SquaresConfig, WindowConfig

DIRECTIONS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}


class Squares:
    """A bright square on noise; its direction is the label. A clip depends on seed, split, index and view alone."""

    def __init__(self, config: SquaresConfig, *, clip: ClipSpec, seed: int) -> None:
        self.clip = clip
        self.seed = seed
        self.clip_ids = [f"{config.split}/{index}" for index in range(config.clips)]
        self.class_names = list(DIRECTIONS)

    def read(self, index: int, view: int) -> Sample:
        """See `Dataset`."""
        label, size = index % len(DIRECTIONS), self.clip.size
        down, right = list(DIRECTIONS.values())[label]
        generator = generator_for(self.seed, "squares", self.clip_ids[index], view)
        pixels = generator.integers(0, 64, (self.clip.frames, size, size, 3), dtype=np.uint8)
        colour = generator.integers(128, 256, 3, dtype=np.uint8)
        top, left = generator.integers(0, size, 2)
        side = np.arange(max(1, size // 4))
        for frame in range(self.clip.frames):
            step = frame * max(1, size // 16)
            rows, columns = (top + down * step + side) % size, (left + right * step + side) % size
            pixels[frame, rows[:, None], columns] = colour
        return Sample(self.clip_ids[index], {"clip": torch.from_numpy(pixels)}, label=label)


class WindowMasker(Masker):
    """Hides a run of tokens in grid order, from a random start; over the end it goes on at token 0."""

    def __init__(self, config: WindowConfig, *, grid: Grid) -> None:
        self.config = config
        self.grid = grid

    def counts(self, ratio: float | None = None) -> MaskCounts:
        """See `Masker`."""
        return self.config.counts(self.grid, ratio)

    def draw(self, generator: np.random.Generator, ratio: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Masker`."""
        num_tokens, num_targets = self.grid.num_tokens, self.counts(ratio).target
        order = (generator.integers(num_tokens) + np.arange(num_tokens, dtype=np.int64)) % num_tokens
        return np.sort(order[num_targets:]), np.sort(order[:num_targets])
