"""The data of a run, from the dataset or from a cache, in the run's order."""

from __future__ import annotations

from collections.abc import Callable

import torch

from salt_toolkit.assemble import build_dataset, build_method
from salt_toolkit.cache.lookup import find_cache
from salt_toolkit.contracts import ClipBatch, Method
from salt_toolkit.data.loading import BatchLoader, Prepare
from salt_toolkit.data.memory import RamCache
from salt_toolkit.data.order import ClipOrder, Place
from salt_toolkit.data.quarantine import Quarantine
from salt_toolkit.data.reader import ClipReader
from salt_toolkit.errors import RunError
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.directory import RunDirectory


class TrainingData:
    """A recipe's dataset, its cache if there is one, and the order in which the run reads them.

    Args:
        recipe: A valid recipe.
        directory: Run directory, for the bad-clip log; None keeps the log in memory.
        part: Which share of each batch this process reads: (rank, processes).
        pin_memory: Whether batches go to page-locked memory, for fast copies to a GPU.
        log: Called with a sentence about the cache.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: RunDirectory | None,
        *,
        part: tuple[int, int] = (0, 1),
        pin_memory: bool = False,
        log: Callable[[str], None] = lambda message: None,
    ) -> None:
        dataset = build_dataset(recipe)
        self.cache, about_cache = find_cache(recipe, dataset)
        if about_cache:
            log(about_cache)
        if self.cache is not None:
            dataset = self.cache.dataset
        self.loader = recipe.loader
        self.pin_memory = pin_memory
        self.num_clips = len(dataset.clip_ids)
        self.order = ClipOrder(self.num_clips, recipe.train.batch_size, recipe.run.seed, part)
        self.quarantine = Quarantine(
            directory.bad_clips_of(part[0]) if directory else None,
            num_clips=self.num_clips,
            max_fraction=self.loader.max_bad_fraction,
            others=[directory.bad_clips_of(rank) for rank in range(part[1])] if directory else (),
        )
        if self.loader.ram_cache_mb:
            dataset = RamCache(dataset, self.loader.ram_cache_mb * 10**6)
        self.reader = ClipReader(
            dataset,
            self.quarantine,
            views=recipe.views,
            seed=recipe.run.seed,
            wanted=_wanted(recipe) if self.cache is None else None,
        )

    def batches(self, start: int, end: int, prepare: Prepare) -> BatchLoader:
        """This process's part of the batches ``start`` to ``end``."""
        return self.load(self.order, start, end, prepare)

    def whole_batches(self, start: int, end: int) -> BatchLoader:
        """The batches of all processes together, not prepared by the method."""
        order = ClipOrder(self.num_clips, self.order.batch_size, self.order.seed)
        return self.load(order, start, end, _unchanged)

    def load(
        self, order: ClipOrder, start: int, end: int, prepare: Prepare, *, workers: int | None = None
    ) -> BatchLoader:
        """Batches in a given order, with a number of threads other than the recipe's if given."""
        return BatchLoader(
            self.reader,
            order,
            start=start,
            end=end,
            workers=workers or self.loader.workers,
            prefetch=self.loader.prefetch,
            prepare=prepare,
            pin_memory=self.pin_memory,
        )


def build_method_for(data: TrainingData, recipe: Recipe, device: torch.device) -> Method:
    """The recipe's method on a device, in training mode; with a cache, its latents replace the teachers.

    Raises:
        RunError: The run would have no steps.
    """
    total_steps = recipe.train.num_steps(data.num_clips)
    if total_steps == 0:
        raise RunError("the run would have no steps; raise train.epochs, or lower train.accumulate")
    stand_ins = data.cache.teachers() if data.cache is not None else None
    return build_method(recipe, total_steps=total_steps, stand_ins=stand_ins).to(device).train()


def _wanted(recipe: Recipe) -> frozenset[str] | None:
    """The samples' own tensors that a step takes from a live data set; None: whatever there is."""
    reads = recipe.method.config.reads()
    if reads is None:
        return None
    teachers = [name for teaching in recipe.teachings() for name in teaching.teacher.config.reads()]
    return frozenset((*reads.sample, *teachers))


def _unchanged(batch: ClipBatch, place: Place) -> ClipBatch:
    return batch
