"""How fast the loader reads a table: 128 columns, each a tensor of its own, one by one and a batch at a time.

Run ``python benchmarks/table_rows.py [batches]``. It prints rows per second of CPU time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from salt_toolkit.contracts import ClipBatch, Dataset, Sample
from salt_toolkit.data.loading import BatchLoader
from salt_toolkit.data.order import ClipOrder
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.reader import ClipReader

ROWS, COLUMNS, NUMBERS, BATCH = 20_000, 128, 16, 32


class Rows:
    """A table in memory, read row by row."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.columns = {
            f"column{number}": generator.standard_normal((ROWS, NUMBERS), dtype=np.float32) for number in range(COLUMNS)
        }
        self.targets = generator.standard_normal((ROWS, 3), dtype=np.float32)
        self.clip_ids = [str(number) for number in range(ROWS)]
        self.class_names: Sequence[str] = ()

    def read(self, index: int, view: int) -> Sample:
        """See `Dataset`."""
        tensors = {name: torch.from_numpy(column[index]) for name, column in self.columns.items()}
        return Sample(self.clip_ids[index], tensors, torch.from_numpy(self.targets[index]))


class Table(Rows):
    """The same table, read a batch at a time."""

    def read_many(self, indices: Sequence[int], view: int) -> ClipBatch:
        """See `TableDataset`."""
        rows = np.asarray(indices)
        tensors = {name: torch.from_numpy(column[rows]) for name, column in self.columns.items()}
        ids = tuple(self.clip_ids[index] for index in indices)
        return ClipBatch(ids, tensors, torch.from_numpy(self.targets[rows]))


def rows_per_cpu_second(dataset: Dataset, batches: int) -> float:
    """Reads so many batches through the loader."""
    reader = ClipReader(dataset, Quarantine(None, num_clips=ROWS, max_fraction=0.0), views=1, seed=0)
    order = ClipOrder(ROWS, BATCH, seed=0)
    begin = time.process_time()
    with BatchLoader(
        reader, order, start=0, end=batches, workers=2, prefetch=2, prepare=lambda batch, place: batch
    ) as loader:
        count = sum(len(batch.clip_ids) for batch in loader)
    return count / (time.process_time() - begin)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for name, table in (("one by one", Rows()), ("a batch at a time", Table())):
        print(f"{name}: {rows_per_cpu_second(table, number):,.0f} rows a CPU second")
