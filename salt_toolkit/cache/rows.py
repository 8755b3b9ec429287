"""Training from a cache: its rows as a dataset's tensors, and teachers that only decode them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salt_toolkit import contracts
from salt_toolkit.cache.codec import TORCH, StreamCodec, bytes_of
from salt_toolkit.contracts import ClipBatch, Dataset, Sample, Teacher
from salt_toolkit.data.samples import plain_label
from salt_toolkit.errors import BadClip, CacheError
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.store.cache import SAMPLES, Cache
from salt_toolkit.store.layer import RowReader
from salt_toolkit.store.row import CHANGED, Label, Row
from salt_toolkit.streams import CLIP, LATENTS

Rows = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Gives memory for tensors of these shapes."""


@dataclass(frozen=True)
class CachedStream:
    """Where one tensor of a batch comes from.

    Attributes:
        layer: Of the cache.
        stream: Of the layer.
    """

    layer: str
    stream: str


def teacher_streams(layer: str, key: str, codecs: Mapping[str, StreamCodec]) -> dict[str, CachedStream]:
    """The streams of a teacher's layer, by what they are called in a batch: ``latents.<key>.<stream>``.

    Args:
        layer: Its name in the cache.
        key: What the recipe calls the teacher.
        codecs: Of the streams that are wanted.
    """
    stored = (stream.name for codec in codecs.values() for stream in codec.coding.streams)
    return {f"{LATENTS}.{key}.{name}": CachedStream(layer, name) for name in stored}


def sample_streams(cache: Cache) -> dict[str, CachedStream]:
    """The samples' tensors that a cache keeps as they are, by their names."""
    layers = [name for name in cache.layers if name.startswith(f"{SAMPLES}/")]
    return {layer.partition("/")[2]: CachedStream(layer, layer.partition("/")[2]) for layer in layers}


class CachedRows:
    """Reads some streams of a cache as tensors; one read for each stream.

    Args:
        cache: Of a split.
        streams: Which ones, by what they are called in a batch.
    """

    def __init__(self, cache: Cache, streams: Mapping[str, CachedStream]) -> None:
        self.cache = cache
        self.streams = dict(streams)
        self._by_layer: dict[str, list[tuple[str, str]]] = {}
        # Tensors of the right shapes that take no memory.
        self.like: dict[str, Tensor] = {}
        for name, place in streams.items():
            self._by_layer.setdefault(place.layer, []).append((name, place.stream))
            (found,) = [s for s in cache.layers[place.layer].manifest.streams if s.name == place.stream]
            self.like[name] = torch.empty(found.shape, dtype=TORCH[found.dtype], device="meta")
        self._readers = {layer: RowReader(cache.layers[layer]) for layer in self._by_layer}

    def read_into(self, clip_id: str, view: int, out: Mapping[str, Tensor]) -> Row:
        """Reads a clip's streams into tensors that are contiguous.

        Raises:
            BadClip: The cache has recorded it as bad.
            CacheError: It is not in the cache, or damaged.
        """
        if (clip_id, view) in self.cache.bad:
            raise BadClip(clip_id, self.cache.bad[clip_id, view].reason)
        row = None
        for layer, names in self._by_layer.items():
            reader = self._readers[layer]
            if (clip_id, view) not in reader.index:
                raise CacheError(
                    f"view {view} of {clip_id!r} is not in the cache {reader.index.directory}; fill it with "
                    "`salt cache`"
                )
            buffers = {stream: bytes_of(out[name]) for name, stream in names}
            row = reader.read_into(clip_id, view, buffers)
        assert row is not None, "no stream was asked for"
        return row

    def decoded(self, codec: StreamCodec, row: Row) -> Tensor:
        """One stream of a clip as it was before it was encoded; streams go by their own names here."""
        names = [stream.name for stream in codec.coding.streams]
        stored = {name: torch.empty_like(like, device="cpu") for name, like in self.like.items()}
        self.read_into(row.clip_id, row.view, stored)
        return codec.decode(*(stored[name].unsqueeze(0) for name in names)).squeeze(0)


class CachedSamples:
    """The samples of a cache that holds all that is read of them, as a dataset; nothing is decoded.

    Args:
        rows: What to read.
        clip_ids: Which clips, in which order; the cache's by default.
        class_names: The names of the labels; those that the cache has by default.
    """

    def __init__(
        self, rows: CachedRows, clip_ids: Sequence[str] | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        self.rows = rows
        self.clip_ids = rows.cache.base.ids if clip_ids is None else clip_ids
        self.class_names = class_names_of(rows.cache) if class_names is None else class_names
        self._numbers = {name: number for number, name in enumerate(self.class_names)}

    def read(self, index: int, view: int) -> Sample:
        """Reads one view of one clip, with its latents."""
        return self.read_into(index, view, _fresh)

    def read_into(self, index: int, view: int, rows: Rows) -> Sample:
        """Reads straight into a batch's memory."""
        tensors = rows(self.rows.like)
        row = self.rows.read_into(self.clip_ids[index], view, tensors)
        return Sample(row.clip_id, tensors, self._label(row), row.caption)

    def _label(self, row: Row) -> contracts.Label | None:
        if isinstance(row.label, list):
            return torch.tensor(row.label)
        if not isinstance(row.label, str):
            return row.label
        if row.label not in self._numbers:
            raise CacheError(
                f"{row.clip_id!r} has the class {row.label!r} in the cache {self.rows.cache.directory}, and the data "
                f"set has no class of this name; use the data set that the cache was made of, or recreate the cache"
            )
        return self._numbers[row.label]


class WithLatents:
    """A dataset whose samples also carry their cached latents."""

    def __init__(self, dataset: Dataset, rows: CachedRows) -> None:
        self.dataset = dataset
        self.rows = rows
        self.clip_ids = dataset.clip_ids
        self.class_names = dataset.class_names

    def read(self, index: int, view: int) -> Sample:
        """Reads one view of one clip, and its latents."""
        return self.read_into(index, view, _fresh)

    def read_into(self, index: int, view: int, rows: Rows) -> Sample:
        """Reads the latents straight into a batch's memory, and decodes the clip.

        Raises:
            BadClip: Its file has another size than when the latents were computed.
        """
        tensors = rows(self.rows.like)
        # The cache first: a clip that it has recorded as bad is never decoded.
        row = self.rows.read_into(self.clip_ids[index], view, tensors)
        sample = self.dataset.read(index, view)
        if sample.source is not None and row.source is not None and sample.source.stat().st_size != row.source[0]:
            raise BadClip(str(sample.source), CHANGED, recompute(self.rows.cache.directory))
        places = rows(sample.tensors)
        for name, tensor in sample.tensors.items():
            places[name].copy_(tensor)
        return Sample(sample.clip_id, {**places, **tensors}, sample.label, sample.caption, sample.source)


class CachedTeacher(Teacher):
    """Stands for a teacher whose latents come with the batch, encoded.

    Args:
        key: What the recipe calls the teacher.
        codecs: By stream; those that the batch carries.
        grids: Of streams that have tokens of a grid and nothing before them.
    """

    def __init__(self, key: str, codecs: Mapping[str, StreamCodec], grids: Mapping[str, Grid]) -> None:
        super().__init__()
        self.key = key
        self.names = tuple(codecs)
        self.codecs = torch.nn.ModuleList(codecs.values())
        if LATENTS in grids:
            self.token_spec = TokenSpec(grids[LATENTS], codecs[LATENTS].coding.shape[-1])
        self.eval()

    def forward(self, batch: ClipBatch) -> Tensor | dict[str, Tensor]:
        """Decodes the batch's latents, on its device."""
        said = {}
        for name, codec in zip(self.names, self.codecs, strict=True):
            assert isinstance(codec, StreamCodec)
            stored = (batch.tensors[f"{LATENTS}.{self.key}.{stream.name}"] for stream in codec.coding.streams)
            said[name] = codec.decode(*stored)
        return said[LATENTS] if self.names == (LATENTS,) else said


def class_names_of(cache: Cache) -> tuple[str, ...]:
    """The names of all classes of a cache's rows, in alphabetical order."""
    found: set[str] = set()
    for index in cache.layers.values():
        for shard in index.shards.values():
            found.update(shard.header.classes())
    return tuple(sorted(found))


def open_samples(directory: str) -> CachedSamples:
    """The samples of a complete cache that keeps tensors of theirs.

    Raises:
        CacheError: It is no cache, is damaged, unfinished, or keeps none.
    """
    cache = Cache.open(directory)
    streams = sample_streams(cache)
    if not streams:
        raise CacheError(f'the cache {directory} holds latents alone; make it with cache.keep = ["{CLIP}"]')
    lacking = cache.num_missing(cache.base.ids, cache.base.views, [place.layer for place in streams.values()])
    if lacking:
        raise CacheError(
            f"the cache {directory} is unfinished ({lacking} clips are missing); go on with `salt cache` where it is "
            "made"
        )
    return CachedSamples(CachedRows(cache, streams))


def recompute(directory: str) -> str:
    """What helps where files have changed since their rows were computed."""
    return (
        f"Drop the rows of changed files with `salt cache repair {directory} --sources --recipe RECIPE`, and compute "
        "them again with `salt cache RECIPE`."
    )


def label_of(label: contracts.Label | None, class_names: Sequence[str]) -> Label:
    """A sample's label as a row keeps it: by name where classes have names."""
    if isinstance(label, int) and class_names:
        return class_names[label]
    return plain_label(label)


def _fresh(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in like.items()}
