"""The cache of a recipe, where training finds one: its rows, and teachers that only decode them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from salt_toolkit.cache.codec import LatentCodec
from salt_toolkit.cache.identity import cache_directory, cache_identity, require_comparable
from salt_toolkit.cache.rows import CachedClips, CachedRows, CachedTeacher, WithLatents, latents_name
from salt_toolkit.contracts import Dataset, Teacher
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.recipe import CacheSection, Recipe
from salt_toolkit.store.index import CacheIndex
from salt_toolkit.store.places import open_store


@dataclass(frozen=True)
class RecipeCache:
    """A complete cache that belongs to a recipe.

    Attributes:
        index: Of the cache.
        dataset: Whose samples carry the cached latents.
    """

    index: CacheIndex
    dataset: Dataset

    def teachers(self) -> dict[str, Teacher]:
        """Stand-ins for the recipe's teachers, by name."""
        manifest = self.index.manifest
        found: dict[str, Teacher] = {}
        for name, about in manifest.identity["teachers"].items():
            codec = LatentCodec.of(latents_name(name), manifest.identity["dtype"], manifest.constants[name])
            found[name] = CachedTeacher(codec, TokenSpec(Grid(*about["grid"]), about["dim"]))
        return found


def find_cache(recipe: Recipe, dataset: Dataset) -> tuple[RecipeCache | None, str]:
    """The recipe's cache, if it is complete; and a sentence about it, if there is something to say.

    Raises:
        CacheError: There is one, and it is damaged or belongs to something else.
    """
    if isinstance(dataset, CachedClips):
        index = dataset.rows.index
        _require_its_own(recipe, index, clip_ids=None)
        return RecipeCache(index, dataset), f"clips and latents come from {index.directory}"
    if recipe.cache is None:
        return None, ""
    directory = cache_directory(recipe.cache, recipe.dataset.config.split)
    if not open_store(directory).has_manifest():
        return None, f"there is no cache in {directory} yet (make it with `salt cache`): the teacher runs live"
    index = CacheIndex.open(directory, local_gb=recipe.cache.local_gb)
    _require_its_own(recipe, index, dataset.clip_ids)
    lacking = index.lacking()
    if lacking:
        return None, (
            f"the cache in {directory} is unfinished ({lacking}; go on with `salt cache`): the teacher runs live"
        )
    rows = CachedRows(index)
    samples = CachedClips(rows, dataset.class_names) if recipe.cache.frames else WithLatents(dataset, rows)
    told = f"latents come from {directory}: {len(index)} clips, {index.num_bytes / 1e9:.3g} GB"
    return RecipeCache(index, samples), told


def _require_its_own(recipe: Recipe, index: CacheIndex, clip_ids: Sequence[str] | None) -> None:
    """Compares the cache with all that the recipe and this machine can tell.

    A teacher whose weights are not here is not compared: a cache that was copied here can be used.

    Args:
        recipe: That wants to train.
        index: Of the cache.
        clip_ids: Of the data set; None where the cache itself is the data set.

    Raises:
        CacheError: It belongs to something else; with the fields that differ.
    """
    found = index.manifest.identity
    section = recipe.cache or CacheSection(
        dir="", dtype=found["dtype"], frames=found["frames"], local_gb=0.0, shard_mb=1
    )
    split = recipe.dataset.config.split
    wanted = cache_identity(recipe, section, clip_ids or (), split=split, clip=recipe.clip, forgive_missing=True)
    if clip_ids is None:
        wanted["dataset"] = found["dataset"]
    require_comparable(index.directory, found, wanted)
