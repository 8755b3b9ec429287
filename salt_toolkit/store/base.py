"""The base of a cache: whose samples it holds, in which order and how many views; it only grows. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from salt_toolkit.errors import CacheError
from salt_toolkit.store.local import LocalStore, Store, no_cache
from salt_toolkit.store.manifest import (
    BASE,
    FORMAT,
    changed_by_hand,
    fingerprint_of,
    make_folder,
    parse,
    require_same,
    write_first,
)

IDS = "ids"
"""The folder with the lists of ids: one file for each time that the cache has grown."""


@dataclass(frozen=True)
class Base:
    """Which samples a cache is for.

    Attributes:
        identity: What decides the samples, in plain values: the data set, its split, how clips are cut.
        ids: The samples' ids. A sample's number in this list is its place; places never change.
        views: Views of each sample that the cache has begun to hold.
        made_with: Versions and machine; for people.
        num_lists: How many lists the ids have come from.
    """

    identity: Mapping[str, Any]
    ids: tuple[str, ...] = ()
    views: int = 1
    made_with: Mapping[str, Any] = field(default_factory=dict)
    num_lists: int = 0

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits over the identity: equal for caches whose layers may be joined."""
        return fingerprint_of({"identity": self.identity})

    @cached_property
    def place_of(self) -> dict[str, int]:
        """The place of each id."""
        return {clip_id: place for place, clip_id in enumerate(self.ids)}


def has_base(store: Store) -> bool:
    """Whether there is a cache."""
    return store.text(BASE) is not None


def read_base(store: Store) -> Base:
    """Reads the base with all its lists of ids.

    Raises:
        CacheError: There is no cache, or it is damaged or of another format.
    """
    text = store.text(BASE)
    if text is None:
        raise no_cache(store.name, store.caches())
    file = f"{store.name}/{BASE}"
    values = parse(text, file, store.name)
    base = Base(values.get("identity", {}), made_with=values.get("made_with", {}))
    if base.fingerprint != values["fingerprint"]:
        raise changed_by_hand(file)
    ids: list[str] = []
    views = 1
    lists = sorted(name for name in store.names(IDS) if name.endswith(".json"))
    for number, name in enumerate(lists):
        if name != _list_name(number):
            raise CacheError(f"{store.name}/{IDS} lacks {_list_name(number)}; restore it, or recreate the cache")
        grown = _read_list(store, name, base)
        ids += grown["ids"]
        views = max(views, grown["views"])
    return Base(base.identity, tuple(ids), views, base.made_with, len(lists))


def claim_base(directory: Path, base: Base) -> Base:
    """Makes a cache for some samples, or makes one that is there large enough for them.

    Ids that it does not have yet come behind those that it has. Of several processes that do so at once, each finds
    the others' ids.

    Raises:
        CacheError: The directory holds samples of something else, or cannot be written.
    """
    make_folder(directory / IDS)
    store = LocalStore(directory)
    values = {"format": FORMAT, "fingerprint": base.fingerprint, "identity": base.identity}
    write_first(directory / BASE, {**values, "made_with": base.made_with})
    while True:
        present = read_base(store)
        require_same(directory, present.identity, base.identity)
        new = [clip_id for clip_id in base.ids if clip_id not in present.place_of]
        if not new and base.views <= present.views:
            return present
        number = present.num_lists  # of the lists that were read: another may have come since
        grown = {"views": max(base.views, present.views), "ids": new}
        entry = {"format": FORMAT, "fingerprint": _list_fingerprint(base, number, grown), **grown}
        write_first(directory / IDS / _list_name(number), entry)  # where another was first, look at its list


def _read_list(store: Store, name: str, base: Base) -> dict[str, Any]:
    file = f"{store.name}/{IDS}/{name}"
    values = parse(store.text(f"{IDS}/{name}") or "", file, store.name)
    if values["fingerprint"] != _list_fingerprint(base, int(name.partition(".")[0]), values):
        raise changed_by_hand(file)
    return values


def _list_name(number: int) -> str:
    return f"{number:06d}.json"


def _list_fingerprint(base: Base, number: int, grown: Mapping[str, Any]) -> str:
    values: Sequence[Any] = [base.fingerprint, number, grown.get("views"), grown.get("ids")]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
