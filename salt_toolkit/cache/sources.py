"""Comparing the files that a cache was made of with what its rows remember of them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salt_toolkit.assemble import build_dataset
from salt_toolkit.cache.identity import base_identity, clip_of
from salt_toolkit.contracts import FileDataset
from salt_toolkit.errors import CacheError
from salt_toolkit.recipe import Recipe
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.manifest import require_same
from salt_toolkit.system.digests import Digests

THREADS = 4

Source = tuple[int, str]
"""Size and digest of a file."""


@dataclass(frozen=True)
class Mismatch:
    """A clip whose file is not the one that its rows were computed from.

    Attributes:
        clip_id: As the data set names it.
        reason: What was found, and what the rows remember.
        missing: Whether there is no file to compute the rows from; else it has changed.
    """

    clip_id: str
    reason: str
    missing: bool

    def __str__(self) -> str:
        return f"{self.clip_id!r}: {self.reason}"


@dataclass(frozen=True)
class SourceVerdict:
    """How a cache and the files that it was made of compare.

    Attributes:
        compared: Clips that were looked at.
        mismatches: Those whose files are others now or missing, in the cache's order.
    """

    compared: int
    mismatches: tuple[Mismatch, ...]

    @property
    def changed(self) -> list[str]:
        """Clips whose file is another one now."""
        return [found.clip_id for found in self.mismatches if not found.missing]

    @property
    def missing(self) -> list[str]:
        """Clips that have no file any more."""
        return [found.clip_id for found in self.mismatches if found.missing]

    def facts(self) -> dict[str, Any]:
        """The verdict in plain values."""
        listed = {"changed": False, "missing": True}
        return {
            "compared": self.compared,
            **{
                name: [{"clip_id": m.clip_id, "reason": m.reason} for m in self.mismatches if m.missing is missing]
                for name, missing in listed.items()
            },
        }


def compare_sources(directory: Path, recipe: Recipe) -> SourceVerdict:
    """Compares size and digest of each clip's file with what the rows of all layers remember.

    Times are not compared: a file that was only touched or copied has not changed. Reads every byte of the files
    whose size is the same.

    Args:
        directory: Of the cache.
        recipe: With the data set that the cache was made of.

    Raises:
        CacheError: The cache is of other samples, remembers no file, or the data set cannot tell where files lie.
    """
    cache = Cache.open(directory, forgive_damage=True)
    split = cache.base.identity["dataset"]["split"]
    clip = clip_of(recipe, split)
    require_same(directory, cache.base.identity, base_identity(recipe, split=split, clip=clip))
    remembered = _remembered(cache)
    if not remembered:
        raise CacheError(f"the cache {directory} remembers no file: the samples of its data set lie in none")
    dataset = build_dataset(recipe, split=split, clip=clip)
    if not isinstance(dataset, FileDataset):
        raise CacheError(
            f"the data set {recipe.dataset.use} does not say where its files lie: it has no path_of",
            "Give it a method path_of(index), or recreate the cache.",
        )
    index_of = {clip_id: index for index, clip_id in enumerate(dataset.clip_ids)}
    paths = {clip_id: dataset.path_of(index_of[clip_id]) for clip_id in remembered if clip_id in index_of}
    digests = Digests()
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda item: _compare(item[0], paths.get(item[0]), item[1], digests), remembered.items())
        return SourceVerdict(len(remembered), tuple(mismatch for mismatch in found if mismatch is not None))


def _remembered(cache: Cache) -> dict[str, set[Source]]:
    """What all rows remember of each clip's file, in the order of the base."""
    sources: dict[str, set[Source]] = {}
    for index in cache.layers.values():
        for _, _, row in index.rows():
            if row.source is not None:
                sources.setdefault(row.clip_id, set()).add(row.source)
    return {clip_id: sources[clip_id] for clip_id in cache.base.ids if clip_id in sources}


def _compare(clip_id: str, path: Path | None, remembered: Iterable[Source], digests: Digests) -> Mismatch | None:
    if path is None:
        return Mismatch(clip_id, "the data set does not have it any more", missing=True)
    try:
        size = path.stat().st_size
        for expected, digest in remembered:
            if size != expected:
                return Mismatch(clip_id, f"{path} has {size} bytes; its rows come from {expected} bytes", missing=False)
            if digests.of(str(path))[1] != digest:
                reason = f"{path} has other content than when its rows were computed"
                return Mismatch(clip_id, reason, missing=False)
    except OSError as error:
        return Mismatch(clip_id, f"{path} cannot be read ({error.strerror})", missing=True)
    return None
