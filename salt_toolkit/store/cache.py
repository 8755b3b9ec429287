"""A cache as a reader sees it: samples by id, and layers of streams, each with an identity of its own; no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from salt_toolkit.errors import CacheError
from salt_toolkit.store.base import Base, read_base
from salt_toolkit.store.layer import LayerIndex
from salt_toolkit.store.local import Store
from salt_toolkit.store.manifest import LAYER
from salt_toolkit.store.remote import LOCAL_GB, open_store
from salt_toolkit.store.row import BadRow

TEACHERS, SAMPLES = "teachers", "samples"
"""Folders of layers: what teachers say of the samples, and tensors of the samples themselves."""


@dataclass
class Cache:
    """A base and its layers.

    Attributes:
        store: The cache's files.
        base: Which samples it is for.
        layers: By name, such as ``teachers/motion``.
        bad: Why a clip cannot be used, by id and view, where any layer says so: a recipe that reads some of the
            layers leaves out the same clips as one that reads all.
    """

    store: Store
    base: Base
    layers: dict[str, LayerIndex]
    bad: dict[tuple[str, int], BadRow] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        directory: Path | str,
        *,
        forgive_damage: bool = False,
        local_gb: float = LOCAL_GB,
        kept: Collection[str] | None = None,
    ) -> Cache:
        """Reads the base, and of every layer the manifest and the headers of its shards.

        Args:
            directory: Of the cache, or a URL of an object store.
            forgive_damage: Collect damaged shards instead of raising, as verifying and repairing do.
            local_gb: Gigabytes of an object store's shards to keep on this machine.
            kept: The layers whose shards may be kept here; all by default.

        Raises:
            CacheError: No cache, another format, or (unless forgiven) a damaged shard.
        """
        store = open_store(directory)
        base = read_base(store)
        names = layer_names(store)
        chosen = [name for name in names if kept is None or name in kept]
        share = {name: local_gb / len(chosen) for name in chosen}
        cache = cls(store, base, {})
        for name in names:
            files = open_store(f"{directory}/{name}", local_gb=share.get(name, 0.0))
            cache.layers[name] = index = LayerIndex.open(files, len(base.ids), base.views)
            if index.manifest.base != base.fingerprint:
                raise CacheError(
                    f"{index.directory} is a layer of another cache; move it away, or restore {store.name}"
                )
            for bad in index.bad():
                cache.bad.setdefault((bad.clip_id, bad.view), bad)
        damaged = [reason for index in cache.layers.values() for reason in index.damaged.values()]
        if damaged and not forgive_damage:
            more = f" (and {len(damaged) - 1} more shards)" if len(damaged) > 1 else ""
            raise CacheError(damaged[0] + more)
        return cache

    @property
    def directory(self) -> str:
        """Where the cache is, for people."""
        return self.store.name

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(index.num_bytes for index in self.layers.values())

    @property
    def complete(self) -> bool:
        """Whether every layer has a row for every view of every sample, or records it as bad."""
        return not any(index.unfinished() or index.damaged for index in self.layers.values())

    def source(self, clip_id: str, view: int) -> tuple[int, str] | None:
        """Size and digest of the file that a clip's rows come from, as far as any layer knows."""
        for index in self.layers.values():
            if (clip_id, view) in index:
                number, place = index.row(clip_id, view)
                source = index.shards[number].header.rows[place].source
                if source is not None:
                    return source
        return None

    def num_missing(self, ids: Collection[str], views: int, layers: Iterable[str]) -> int:
        """How many rows some layers lack of some clips; bad clips need none."""
        wanted, count = set(ids), 0
        for view in range(views):
            bad = {clip_id for clip_id, of_view in self.bad if of_view == view}
            for name in layers:
                count += len(wanted - self.layers[name].ids(view) - bad)
        return count


def layer_names(store: Store) -> list[str]:
    """The layers of a cache, in alphabetical order."""
    names = [f"{kind}/{name}" for kind in (SAMPLES, TEACHERS) for name in store.names(kind)]
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda name: store.text(f"{name}/{LAYER}"), names)
        return [name for name, text in zip(names, texts, strict=True) if text is not None]
