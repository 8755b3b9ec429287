"""What `salt cache` has to do for a recipe: the cache's base, and the layers that it should have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from salt_toolkit.assemble import build_dataset
from salt_toolkit.cache.identity import (
    Wanted,
    base_identity,
    cache_directory,
    clip_of,
    forgiving_layer,
    kept_tensors,
    num_views,
    sample_layer,
    teacher_layer,
)
from salt_toolkit.contracts import Dataset
from salt_toolkit.errors import CacheError, DataError, Problem, RecipeError
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.recipe import CacheSection, Recipe
from salt_toolkit.store.base import Base
from salt_toolkit.store.cache import Cache
from salt_toolkit.system.launch import Launch


@dataclass(frozen=True)
class CacheOptions:
    """What the command line says besides the recipe.

    Attributes:
        split: Which part of the data set; None takes the recipe's.
        limit: Clips to cache, from the beginning; None for all.
        batch_size: Clips that the teachers see at once; None takes the recipe's.
        workers: Threads that read clips; None takes the recipe's.
        device: Where the teachers run; None takes the first GPU, or the CPU.
        max_hours: Stop after so long; the next call goes on.
        part: Share (i, n) of the shards.
    """

    split: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: str | None = None
    max_hours: float | None = None
    part: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class CachePlan:
    """A recipe's cache, before anything of it is made.

    Attributes:
        recipe: A valid recipe.
        section: Its ``[cache]``.
        options: Of the command line.
        split: Which part of the data set.
        clip: How its videos become clips.
        dataset: The samples.
        directory: Of the cache.
        wanted: The layers that it should have.
    """

    recipe: Recipe
    section: CacheSection
    options: CacheOptions
    split: str
    clip: ClipSpec | None
    dataset: Dataset
    directory: Path
    wanted: tuple[Wanted, ...]

    @classmethod
    def of(cls, recipe: Recipe, options: CacheOptions) -> CachePlan:
        """Builds the data set, and finds out who the teachers are.

        Raises:
            RecipeError: The recipe has no ``[cache]``.
            CacheError: It names an object store.
            MissingArtifact: Data are not on this machine.
            DataError: They cannot be cached.
        """
        if recipe.cache is None:
            message = "missing; say where the cache goes: [cache] with dir, or --set cache.dir=..."
            raise RecipeError([Problem("cache", message)])
        if "://" in recipe.cache.dir:
            raise CacheError(f"{recipe.cache.dir} is an object store; fill a cache on a disk, and copy it there")
        split = options.split or recipe.dataset.config.split
        clip = clip_of(recipe, split)
        dataset = build_dataset(recipe, split=split, clip=clip)
        if len(set(dataset.clip_ids)) < len(dataset.clip_ids):
            raise DataError("two clips of the data set have one id; a cache is keyed by ids, so each must be unique")
        wanted = [forgiving_layer(recipe, recipe.cache, teaching, clip) for teaching in recipe.teachings()]
        given = recipe.inputs(clip).sample
        wanted += [sample_layer(name, given[name]) for name in kept_tensors(recipe, clip)]
        directory = Path(cache_directory(recipe.cache, split))
        return cls(recipe, recipe.cache, options, split, clip, dataset, directory, tuple(wanted))

    @property
    def views(self) -> int:
        """Views of each clip."""
        return num_views(self.clip)

    @property
    def base(self) -> Base:
        """The samples that the cache should have."""
        identity = base_identity(self.recipe, split=self.split, clip=self.clip)
        return Base(identity, tuple(self.dataset.clip_ids), self.views)

    @property
    def part(self) -> tuple[int, int]:
        """The share of this process: of the job that the options name, one rank's."""
        launch = Launch.here()
        number, count = self.options.part
        return number * launch.world_size + launch.rank, count * launch.world_size

    @property
    def end(self) -> int:
        """Clips of the data set to cache, from its beginning."""
        count = len(self.dataset.clip_ids)
        return count if self.options.limit is None else min(self.options.limit, count)

    @property
    def batch_size(self) -> int:
        """Clips that the teachers see at once."""
        return self.options.batch_size or self.recipe.train.batch_size

    @property
    def workers(self) -> int:
        """Threads that read clips."""
        return self.options.workers or self.recipe.loader.workers

    def places(self, base: Base) -> set[int]:
        """Places in the cache of the clips that are to be there.

        Raises:
            KeyError: The base lacks one.
        """
        return {base.place_of[self.dataset.clip_ids[index]] for index in range(self.end)}

    def grows(self, base: Base) -> bool:
        """Whether the data set has clips or the recipe views that a cache does not know yet."""
        return self.views > base.views or any(i not in base.place_of for i in self.dataset.clip_ids)

    def layers(self, cache: Cache | None) -> dict[str, Wanted]:
        """What is wanted, by the layer that holds it or that is to be made for it.

        Raises:
            CacheError: A layer of one name holds something else.
        """
        return {(wanted.layer_of(cache) if cache else None) or wanted.name: wanted for wanted in self.wanted}

    def identified(self, teachers: Collection[str]) -> CachePlan:
        """The same plan, with the identities of some teachers whose weights are here by now.

        Raises:
            MissingArtifact: They are not.
        """
        known = {
            teaching.name: teacher_layer(self.recipe, self.section, teaching, self.clip)
            for teaching in self.recipe.teachings()
            if teaching.name in teachers
        }
        wanted = tuple(known.get(one.key, one) if one.is_teacher else one for one in self.wanted)
        return replace(self, wanted=wanted)
