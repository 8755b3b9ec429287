"""Training from a cache: its rows as a dataset's tensors, and a teacher that only decodes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from salt_toolkit.cache.codec import TORCH, LatentCodec
from salt_toolkit.contracts import ClipBatch, Dataset, Sample, Teacher
from salt_toolkit.errors import BadClip, CacheError
from salt_toolkit.geometry import TokenSpec
from salt_toolkit.store.index import CacheIndex, RowReader
from salt_toolkit.store.shard import Row

CLIP = "clip"
"""The stream of decoded clips: uint8, (frames, height, width, channels)."""

LATENTS = "latents"
"""What the streams of latents are called: ``latents.<teacher>``."""


def latents_name(teacher: str) -> str:
    """The stream of a teacher's latents."""
    return f"{LATENTS}.{teacher}"


Rows = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Gives memory for tensors of these shapes."""


class CachedRows:
    """Reads streams of a cache as tensors.

    Args:
        index: Of a cache.
        streams: Which ones; all of them by default.
    """

    def __init__(self, index: CacheIndex, streams: Sequence[str] | None = None) -> None:
        self.index = index
        self.reader = RowReader(index)
        wanted = [stream for stream in index.manifest.streams if streams is None or stream.name in streams]
        # Tensors of the right shapes that take no memory.
        self.like = {s.name: torch.empty(s.shape, dtype=TORCH[s.dtype], device="meta") for s in wanted}
        self._bad = {(bad.clip_id, bad.view): bad.reason for bad in index.bad()}

    def read_into(self, clip_id: str, view: int, out: Mapping[str, Tensor]) -> Row:
        """Reads a clip's streams into tensors that are contiguous.

        Raises:
            BadClip: The cache has recorded it as bad.
            CacheError: It is not in the cache, or damaged.
        """
        if (clip_id, view) in self._bad:
            raise BadClip(clip_id, self._bad[clip_id, view])
        if (clip_id, view) not in self.index:
            raise CacheError(
                f"view {view} of {clip_id!r} is not in the cache {self.index.directory}; fill it with `salt cache`"
            )
        buffers = {name: out[name].view(torch.uint8).numpy() for name in self.like}
        return self.reader.read_into(clip_id, view, buffers)


class CachedClips:
    """The clips of a cache that holds them, as a dataset; nothing is decoded."""

    def __init__(self, rows: CachedRows, class_names: Sequence[str] = ()) -> None:
        if CLIP not in rows.like:
            raise CacheError(
                f"the cache {rows.index.directory} holds latents and no clips; make it with cache.frames = true"
            )
        self.rows = rows
        self.clip_ids = _clip_ids(rows.index)
        self.class_names = class_names

    def read(self, index: int, view: int) -> Sample:
        """Reads one view of one clip, with its latents."""
        return self.read_into(index, view, _fresh)

    def read_into(self, index: int, view: int, rows: Rows) -> Sample:
        """Reads straight into a batch's memory."""
        tensors = rows(self.rows.like)
        row = self.rows.read_into(self.clip_ids[index], view, tensors)
        return Sample(row.clip_id, tensors, row.label, row.caption)


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
        """Reads the latents straight into a batch's memory, and decodes the clip."""
        tensors = rows(self.rows.like)
        # The cache first: a clip that it has recorded as bad is never decoded.
        self.rows.read_into(self.clip_ids[index], view, tensors)
        sample = self.dataset.read(index, view)
        places = rows(sample.tensors)
        for name, tensor in sample.tensors.items():
            places[name].copy_(tensor)
        return Sample(sample.clip_id, {**places, **tensors}, sample.label, sample.caption)


class CachedTeacher(Teacher):
    """Stands for a teacher whose latents come with the batch, encoded.

    Args:
        codec: Of the stream.
        token_spec: Of the teacher that the cache was made with.
    """

    def __init__(self, codec: LatentCodec, token_spec: TokenSpec) -> None:
        super().__init__()
        self.codec = codec
        self.token_spec = token_spec
        self.streams = [stream.name for stream in codec.streams(1, token_spec.dim)]
        self.eval()

    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """Decodes the batch's latents, on its device."""
        return self.codec.decode({name: batch.tensors[name] for name in self.streams})


def open_clips(directory: str) -> CachedClips:
    """The clips of a complete cache that holds them.

    Raises:
        CacheError: It is no cache, is damaged, unfinished, or holds no clips.
    """
    index = CacheIndex.open(directory)
    lacking = index.lacking()
    if lacking:
        raise CacheError(f"the cache {directory} is unfinished ({lacking}); go on with `salt cache` where it is made")
    return CachedClips(CachedRows(index))


def _fresh(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in like.items()}


def _clip_ids(index: CacheIndex) -> list[str]:
    """The ids in the data set's order, bad ones too: those are replaced as in a live run."""
    ids = [""] * index.manifest.num_clips
    for number in range(index.manifest.shards_per_view):
        header = index.shards[number].header
        for row in (*header.rows, *header.bad):
            ids[row.index] = row.clip_id
    return ids
