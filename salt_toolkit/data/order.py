"""Which clips make up which batch: a pure function of the seed and the batch's number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from salt_toolkit.errors import DataError
from salt_toolkit.seeding import generator_for


@dataclass(frozen=True)
class Place:
    """A batch's position in a run: its number, its epoch, and the dataset indices of its clips."""

    number: int
    epoch: int
    indices: tuple[int, ...]


class ClipOrder:
    """A fresh permutation of the clips for every epoch, cut into batches.

    Leftover clips that do not fill a batch are dropped from their epoch; since the permutation changes, each epoch
    drops different ones.

    Args:
        num_clips: Clips in the dataset.
        batch_size: Clips in a batch, over all processes.
        seed: The run's seed.
        part: (i, n): read the i-th of n equal parts of each batch, as process i of n does.

    Raises:
        DataError: There are fewer clips than one batch needs.
    """

    def __init__(self, num_clips: int, batch_size: int, seed: int, part: tuple[int, int] = (0, 1)) -> None:
        if num_clips < batch_size:
            raise DataError(
                f"the dataset has {num_clips} clips, fewer than one batch of {batch_size}; lower train.batch_size"
            )
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.seed = seed
        self.part = part

    @property
    def part_size(self) -> int:
        """Clips of a batch that this process reads."""
        return self.batch_size // self.part[1]

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.num_clips // self.batch_size

    def batches(self, start: int, end: int) -> Iterator[Place]:
        """The places of the batches numbered ``start`` up to, not including, ``end``."""
        permutation_epoch = -1
        permutation = np.empty(0, dtype=np.int64)
        for number in range(start, end):
            epoch, batch = divmod(number, self.batches_per_epoch)
            if epoch != permutation_epoch:
                permutation = generator_for(self.seed, "order", epoch).permutation(self.num_clips)
                permutation_epoch = epoch
            begin = batch * self.batch_size + self.part[0] * self.part_size
            indices = permutation[begin : begin + self.part_size]
            yield Place(number, epoch, tuple(int(index) for index in indices))
