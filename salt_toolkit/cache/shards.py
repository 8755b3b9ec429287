"""The shards that a cache still lacks: which, and each in the making."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from salt_toolkit.store.base import Base
from salt_toolkit.store.layer import LayerIndex
from salt_toolkit.store.manifest import PARTS, shard_path
from salt_toolkit.store.row import BadRow, Row
from salt_toolkit.store.shard import ShardFile
from salt_toolkit.store.shard_writer import ShardBusy, ShardWriter


@dataclass(frozen=True)
class Missing:
    """What one shard of a layer lacks.

    Attributes:
        layer: Its name.
        index: Of the layer.
        number: Of the shard.
        places: Of the clips, in the cache.
    """

    layer: str
    index: LayerIndex
    number: int
    places: Sequence[int]


@dataclass
class Unit:
    """Clips that lie in one shard of the coarsest layer, and what all layers lack of them.

    Attributes:
        view: Of the clips.
        block: Which part of the cache.
        shards: What is to be written.
    """

    view: int
    block: int
    shards: list[Missing] = field(default_factory=list)

    @property
    def num_clips(self) -> int:
        """Clips that some layer lacks."""
        return len({place for missing in self.shards for place in missing.places})


def missing_units(
    layers: Mapping[str, LayerIndex], wanted: Collection[int], views: int, part: tuple[int, int] = (0, 1)
) -> list[Unit]:
    """What layers of a cache lack, in the order in which it is best computed.

    Args:
        layers: By name.
        wanted: Places of the clips that are to be there.
        views: Views of each clip.
        part: Which share: (i, n) takes every unit whose number leaves i when divided by n.
    """
    if not layers:
        return []
    size = max(index.manifest.clips_per_shard for index in layers.values())
    num_blocks = -(-max((index.num_clips for index in layers.values()), default=0) // size)
    units: dict[tuple[int, int], Unit] = {}
    for name, index in layers.items():
        for missing in _missing_shards(name, index, frozenset(wanted), views):
            view, shard = divmod(missing.number, PARTS)
            block = shard * index.manifest.clips_per_shard // size
            if (view * num_blocks + block) % part[1] == part[0]:
                units.setdefault((view, block), Unit(view, block)).shards.append(missing)
    return [units[key] for key in sorted(units)]


def _missing_shards(name: str, index: LayerIndex, wanted: Collection[int], views: int) -> Iterator[Missing]:
    for view in range(views):
        for part in range(index.num_parts):
            number = view * PARTS + part
            done = index.shards[number].header.places() if number in index.shards else set()
            places = [
                place
                for place in index.manifest.places(number, index.num_clips)[1]
                if place in wanted and place not in done
            ]
            if places:
                yield Missing(name, index, number, places)


class OpenShard:
    """A shard that is being filled, and commits itself when its last clip has come.

    All its methods belong to the writing thread, once it is made.

    Raises:
        ShardBusy: Another writer is at it.
    """

    def __init__(self, missing: Missing, base: Base) -> None:
        manifest = missing.index.manifest
        self.manifest, self.number = manifest, missing.number
        _, places = manifest.places(missing.number, len(base.ids))
        path = shard_path(Path(missing.index.directory), missing.number)
        self.writer = ShardWriter(path, manifest.streams, [base.ids[place] for place in places])
        try:
            before = ShardFile(path) if path.exists() else None
            done = before.header.places() if before else set()
            # Another writer may have finished some since they were found missing.
            self.missing = [place for place in missing.places if place not in done]
            if before and self.missing:
                self._take_over(before)
        except BaseException:
            self.writer.discard()
            raise
        self._before = len(done)
        self._left = len(self.missing)
        self._open = True
        if not self.missing:
            self.close()

    def add(self, row: Row, arrays: list[memoryview]) -> None:
        """Writes one clip."""
        self.writer.add(row, arrays)
        self._count()

    def add_bad(self, bad: BadRow) -> None:
        """Records one clip as unusable."""
        self.writer.add_bad(bad)
        self._count()

    def close(self) -> None:
        """Commits what has come; nothing where nothing has."""
        if self._open:
            self._open = False
            if len(self.writer.rows) + len(self.writer.bad) > self._before:
                self.writer.commit(self.manifest.fingerprint, self.number, self.manifest.constants)
            self.writer.discard()

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self.close()

    def _take_over(self, shard: ShardFile) -> None:
        self.writer.copy_from(shard, range(len(shard.header.rows)))
        for bad in shard.header.bad:
            self.writer.add_bad(bad)


class OpenUnit:
    """The shards of a unit, all claimed by this process.

    Raises:
        ShardBusy: Another writer is at one of them.
    """

    def __init__(self, unit: Unit, base: Base) -> None:
        self.view = unit.view
        self.shards: list[OpenShard] = []
        self.targets: dict[int, dict[str, OpenShard]] = {}
        try:
            for missing in unit.shards:
                shard = OpenShard(missing, base)
                self.shards.append(shard)
                for place in shard.missing:
                    self.targets.setdefault(place, {})[missing.layer] = shard
        except BaseException:
            self.close()
            raise
        if not self.targets:
            raise ShardBusy(f"block {unit.block} of view {unit.view}")

    def close(self) -> None:
        """Commits what has come to any of its shards, even if one cannot be closed."""
        with ExitStack() as closing:
            for shard in self.shards:
                closing.callback(shard.close)
