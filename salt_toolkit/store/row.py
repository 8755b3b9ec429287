"""What a shard knows of one clip besides its streams; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

CHANGED = "its file has changed since the cache was made"
"""Why a clip is recorded as bad whose rows come from another file than the one that is there now."""

Label: TypeAlias = str | int | float | list[float] | None
"""A class by its name, or a number or numbers where classes have no names."""


@dataclass(frozen=True)
class Row:
    """What a shard knows of one clip.

    Attributes:
        clip_id: As the dataset names it.
        view: Which view of the clip.
        index: The clip's place in the cache.
        label: The name of its class, or a number or numbers where the data set has no names; None without label.
        caption: Text, if there is one.
        source: Size and content digest of the file that it was read from; None without file.
        checksums: crc32 of each stream's bytes, in the order of the streams.
    """

    clip_id: str
    view: int
    index: int
    label: Label = None
    caption: str | None = None
    source: tuple[int, str] | None = None
    checksums: tuple[int, ...] = ()


@dataclass(frozen=True)
class StoredRows(Sequence[Row]):
    """The rows of a header, kept as the columns that they are stored in: a cache has many rows, and reads few."""

    ids: Sequence[str]
    views: Sequence[int]
    indices: Sequence[int]
    checksums: Sequence[str]
    labels: Sequence[Any] | None = None
    classes: Sequence[str] | None = None
    captions: Sequence[str | None] | None = None
    sources: Sequence[Sequence[Any] | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        crcs = tuple(int(hexes[8 * index : 8 * index + 8], 16) for hexes in self.checksums)
        source = self.sources[index] if self.sources else None
        return Row(
            self.ids[index],
            self.views[index],
            self.indices[index],
            self._label(index),
            self.captions[index] if self.captions else None,
            (source[0], source[1]) if source else None,
            crcs,
        )

    def _label(self, index: int) -> Label:
        label: Any = self.labels[index] if self.labels else None
        if self.classes is None or label is None:
            return label
        return self.classes[int(label)]


@dataclass(frozen=True)
class BadRow:
    """A clip that has no row, and why."""

    clip_id: str
    view: int
    index: int
    reason: str
