"""The cache of a recipe, where training finds one: its rows, and teachers that only decode them."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from salt_toolkit.cache.codec import StreamCodec, codecs_of
from salt_toolkit.cache.identity import base_identity, cache_directory, forgiving_layer, num_views, reads_of
from salt_toolkit.cache.rows import (
    CachedRows,
    CachedSamples,
    CachedStream,
    CachedTeacher,
    WithLatents,
    sample_streams,
    teacher_streams,
)
from salt_toolkit.context import Reads
from salt_toolkit.contracts import Dataset, Teacher
from salt_toolkit.errors import CacheError
from salt_toolkit.geometry import Grid
from salt_toolkit.recipe import Recipe
from salt_toolkit.store.base import has_base, read_base
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.manifest import Manifest, require_same
from salt_toolkit.store.remote import open_store


@dataclass(frozen=True)
class CachedLayer:
    """Where what one of a recipe's teachers says is in a cache.

    Attributes:
        name: Of the layer.
        codecs: By stream; those that the method reads.
        grids: Of streams that have tokens of a grid and nothing before them.
    """

    name: str
    codecs: Mapping[str, StreamCodec]
    grids: Mapping[str, Grid]


@dataclass(frozen=True)
class RecipeCache:
    """A cache that has all that a recipe's teachers say of its clips.

    Attributes:
        cache: With further layers, perhaps.
        layers: Of each teacher, by the recipe's name of it.
        dataset: Whose samples carry the cached latents.
    """

    cache: Cache
    layers: Mapping[str, CachedLayer]
    dataset: CachedSamples | WithLatents

    @property
    def streams(self) -> Set[str]:
        """The tensors of a batch that come from it."""
        return self.dataset.rows.streams.keys()

    def teachers(self) -> dict[str, Teacher]:
        """Stand-ins for the recipe's teachers, by name."""
        return {key: CachedTeacher(key, layer.codecs, layer.grids) for key, layer in self.layers.items()}


def find_cache(recipe: Recipe, dataset: Dataset) -> tuple[RecipeCache | None, str]:
    """The recipe's cache, if it has all that is wanted; and a sentence about it, if there is something to say.

    Raises:
        CacheError: There is one, and it is damaged or belongs to something else.
    """
    if isinstance(dataset, CachedSamples):
        return _from_its_own(recipe, dataset)
    if recipe.cache is None:
        return None, ""
    split = recipe.dataset.config.split
    directory = cache_directory(recipe.cache, split)
    store = open_store(directory)
    if not has_base(store):
        return None, f"there is no cache in {directory} yet (make it with `salt cache`): the teacher runs live"
    require_same(directory, read_base(store).identity, base_identity(recipe, split=split, clip=recipe.clip))
    cache = Cache.open(directory, local_gb=recipe.cache.local_gb)
    layers, lacking = _layers(recipe, cache)
    if lacking:
        names = " and ".join(lacking)
        return None, f"the cache in {directory} lacks {names} (add it with `salt cache`): the teacher runs live"
    missing = _missing(recipe, dataset, cache, {layer.name for layer in layers.values()})
    if missing:
        return None, (
            f"the cache in {directory} is unfinished ({missing}; go on with `salt cache`): the teacher runs live"
        )
    samples = _samples(recipe, dataset, cache, _streams(layers))
    size = sum(cache.layers[layer].num_bytes for layer in {place.layer for place in samples.rows.streams.values()})
    about = f"latents come from {directory}: {len(dataset.clip_ids)} clips, {size / 1e9:.3g} GB"
    return RecipeCache(cache, layers, samples), about


def _samples(
    recipe: Recipe, dataset: Dataset, cache: Cache, streams: Mapping[str, CachedStream]
) -> CachedSamples | WithLatents:
    """What a method reads: from the cache alone, if that has it; else with what the data set reads."""
    there, reads = sample_streams(cache), reads_of(recipe)
    kept = {name: there[name] for name in reads if name in there}
    layers = {place.layer for place in kept.values()}
    if len(kept) == len(reads) and not cache.num_missing(dataset.clip_ids, num_views(recipe.clip), layers):
        return CachedSamples(CachedRows(cache, {**kept, **streams}), dataset.clip_ids, dataset.class_names)
    return WithLatents(dataset, CachedRows(cache, streams))


def _from_its_own(recipe: Recipe, dataset: CachedSamples) -> tuple[RecipeCache | None, str]:
    """The cache that the recipe's data set is: everything comes from there.

    Raises:
        CacheError: It has not all of the recipe's teachers, or cuts clips in another way.
    """
    cache = dataset.rows.cache
    present = cache.base.identity["dataset"]
    asked = base_identity(recipe, split=recipe.dataset.config.split, clip=recipe.clip)["dataset"]
    both = (asked.keys() & present.keys()) - {"use"}
    require_same(cache.directory, {key: present[key] for key in both}, {key: asked[key] for key in both})
    layers, lacking = _layers(recipe, cache)
    if lacking:
        raise CacheError(f"the cache {cache.directory} lacks {' and '.join(lacking)}; it has {', '.join(cache.layers)}")
    reads = reads_of(recipe)
    kept = {name: place for name, place in dataset.rows.streams.items() if name in reads}
    rows = CachedRows(cache, {**kept, **_streams(layers)})
    samples = CachedSamples(rows, dataset.clip_ids, dataset.class_names)
    return RecipeCache(cache, layers, samples), f"samples and latents come from {cache.directory}"


def _layers(recipe: Recipe, cache: Cache) -> tuple[dict[str, CachedLayer], list[str]]:
    """The layer of each teacher; and the names of the teachers that the cache lacks."""
    found, lacking = {}, []
    reads = recipe.method.config.reads() or Reads()
    for teaching in recipe.teachings():
        name = forgiving_layer(recipe, recipe.cache, teaching, recipe.clip).layer_of(cache)
        if name is None:
            lacking.append(teaching.name)
            continue
        manifest = cache.layers[name].manifest
        codecs = codecs_of(manifest)
        wanted = {stream: codecs[stream] for stream in codecs if reads.reads_stream(teaching.name, stream)}
        found[teaching.name] = CachedLayer(name, wanted, _grids(manifest))
    return found, lacking


def _grids(manifest: Manifest) -> dict[str, Grid]:
    streams = manifest.identity["streams"].items()
    return {name: Grid(*values["grid"]) for name, values in streams if values.get("grid") and not values["prefix"]}


def _streams(layers: Mapping[str, CachedLayer]) -> dict[str, CachedStream]:
    return {
        name: place
        for key, layer in layers.items()
        for name, place in teacher_streams(layer.name, key, layer.codecs).items()
    }


def _missing(recipe: Recipe, dataset: Dataset, cache: Cache, layers: Set[str]) -> str:
    """What the cache lacks of the data set's clips, in words; empty where it has all.

    Raises:
        CacheError: It has none of them: it is of another data set.
    """
    ids, views = dataset.clip_ids, num_views(recipe.clip)
    if cache.base.ids and not any(clip_id in cache.base.place_of for clip_id in ids):
        raise CacheError(
            f"the cache in {cache.directory} belongs to something else: none of its {len(cache.base.ids)} clips is in "
            f"the data set, such as {cache.base.ids[0]!r}",
            "Name another cache.dir, or the data set that it was made of.",
        )
    count = cache.num_missing(ids, views, layers)
    return f"{count} of {len(ids) * views * len(layers)} rows are missing" if count else ""
