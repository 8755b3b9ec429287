"""The multi-block masker: a union of blocks, of a fixed number of tokens, without a favoured place."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64

from salt_masking.config import MultiblockConfig
from salt_masking.scattered import split
from salt_toolkit import Grid, MaskCounts
from salt_toolkit.contracts import Masker


class MultiblockMasker(Masker):
    """Hides blocks until ``ratio`` of the tokens is covered, and gives back the surplus of the last one.

    Source: V-JEPA (arXiv 2404.08471, section 3.2; src/masks/multiblock3d.py) for the blocks' sizes.
    The fixed number of tokens and the wrapping placement are ours; see `MultiblockConfig`.
    """

    def __init__(self, config: MultiblockConfig, grid: Grid) -> None:
        self.config = config
        self.grid = grid

    def counts(self, ratio: float | None = None) -> MaskCounts:
        """See `Masker.counts`."""
        return self.config.counts(self.grid, ratio)

    def draw(
        self, generator: np.random.Generator, ratio: float | None = None
    ) -> tuple[Int64[np.ndarray, " visible"], Int64[np.ndarray, " target"]]:
        """See `Masker.draw`."""
        num_target = self.counts(ratio).target
        hidden, last_block = self._cover(generator, num_target)
        if self.config.trim == "first":
            hidden.flat[np.flatnonzero(hidden)[num_target:]] = False
        else:
            _give_back(hidden, last_block, int(hidden.sum()) - num_target, generator)
        return split(hidden.reshape(-1))

    def block_size(self, generator: np.random.Generator) -> Grid:
        """Draws the size of a clip's blocks (all of one clip's blocks are equal), counted in tokens."""
        grid = self.grid
        frames = int(grid.frames * generator.uniform(*self.config.temporal_scale))
        area = int(grid.tokens_per_frame * generator.uniform(*self.config.spatial_scale))
        aspect = generator.uniform(*self.config.aspect)
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        return Grid(max(1, frames), max(1, min(rows, grid.rows)), max(1, min(columns, grid.columns)))

    def _cover(
        self, generator: np.random.Generator, num_target: int
    ) -> tuple[Bool[np.ndarray, "frames rows columns"], Bool[np.ndarray, "frames rows columns"]]:
        """Covers at least ``num_target`` tokens with blocks; also says which tokens the last block added."""
        hidden = np.zeros((self.grid.frames, self.grid.rows, self.grid.columns), dtype=bool)
        added, num_hidden = hidden, 0
        for block in self._blocks(generator):
            added = block & ~hidden
            hidden |= block
            num_hidden += np.count_nonzero(added)
            if num_hidden >= num_target:
                break
        return hidden, added

    def _blocks(self, generator: np.random.Generator) -> Iterator[Bool[np.ndarray, "frames rows columns"]]:
        """Yields a block at every place it can take, in random order.

        A place drawn a second time would add nothing to the union, so drawing without replacement
        gives the same unions as V-JEPA's drawing with replacement; and it ends, with all tokens covered.
        """
        size = self.block_size(generator)
        wraps = self.config.placement == "wrap"
        frames = _windows(self.grid.frames, size.frames, wraps=wraps)
        rows = _windows(self.grid.rows, size.rows, wraps=wraps)
        columns = _windows(self.grid.columns, size.columns, wraps=wraps)
        places = (len(frames), len(rows), len(columns))
        order = np.unravel_index(generator.permutation(math.prod(places)), places)
        for frame, row, column in zip(*order, strict=True):
            yield frames[frame][:, None, None] & rows[row][:, None] & columns[column]


def _windows(length: int, extent: int, *, wraps: bool) -> Bool[np.ndarray, "place length"]:
    """Every place of a block of ``extent`` on an axis of ``length``: what it covers there."""
    if extent == length:
        return np.ones((1, length), dtype=bool)
    starts = np.arange(length if wraps else length - extent + 1)
    return (np.arange(length) - starts[:, None]) % length < extent


def _give_back(
    hidden: Bool[np.ndarray, "frames rows columns"],
    last_block: Bool[np.ndarray, "frames rows columns"],
    surplus: int,
    generator: np.random.Generator,
) -> None:
    """Makes ``surplus`` of the last block's tokens visible again, in place.

    Randomly drawn tubes go as a whole; at most one loses only some of its frames, drawn at random.
    So the earlier blocks stay whole, and neither a place nor a frame is favoured.
    """
    hidden_tubes = hidden.reshape(hidden.shape[0], -1)
    new_tubes = last_block.reshape(hidden.shape[0], -1)
    for position in generator.permutation(np.flatnonzero(new_tubes.any(axis=0))):
        if surplus == 0:
            return
        frames = np.flatnonzero(new_tubes[:, position])
        if frames.size > surplus:
            frames = generator.choice(frames, size=surplus, replace=False)
        hidden_tubes[frames, position] = False
        surplus -= frames.size
