"""Maskers that hide single tokens or single tubes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

from salt_masking.config import RandomConfig, TubeConfig
from salt_toolkit import Grid, MaskCounts
from salt_toolkit.contracts import Masker


class RandomMasker(Masker):
    """Every set of ``ratio`` of the tokens is as likely as every other."""

    def __init__(self, config: RandomConfig, grid: Grid) -> None:
        self.config = config
        self.grid = grid

    def counts(self, ratio: float | None = None) -> MaskCounts:
        """See `Masker.counts`."""
        return self.config.counts(self.grid, ratio)

    def draw(
        self, generator: np.random.Generator, ratio: float | None = None
    ) -> tuple[Int64[np.ndarray, " visible"], Int64[np.ndarray, " target"]]:
        """See `Masker.draw`."""
        hidden = np.zeros(self.grid.num_tokens, dtype=bool)
        hidden[generator.permutation(hidden.size)[: self.counts(ratio).target]] = True
        return split(hidden)


class TubeMasker(Masker):
    """Hides the same positions in all frames, so that no hidden token can be copied from another frame.

    Source: VideoMAE (arXiv 2203.12602, section 3.3; masking_generator.py).
    """

    def __init__(self, config: TubeConfig, grid: Grid) -> None:
        self.config = config
        self.grid = grid

    def counts(self, ratio: float | None = None) -> MaskCounts:
        """See `Masker.counts`."""
        return self.config.counts(self.grid, ratio)

    def draw(
        self, generator: np.random.Generator, ratio: float | None = None
    ) -> tuple[Int64[np.ndarray, " visible"], Int64[np.ndarray, " target"]]:
        """See `Masker.draw`."""
        frame = np.zeros(self.grid.tokens_per_frame, dtype=bool)
        frame[generator.permutation(frame.size)[: self.config.num_tubes(self.grid, ratio)]] = True
        return split(np.tile(frame, self.grid.frames))


def split(
    hidden: Bool[np.ndarray, " token"],
) -> tuple[Int64[np.ndarray, " visible"], Int64[np.ndarray, " target"]]:
    """Indices of the tokens that are not hidden, and of those that are; both ascending."""
    return np.flatnonzero(~hidden).astype(np.int64), np.flatnonzero(hidden).astype(np.int64)
