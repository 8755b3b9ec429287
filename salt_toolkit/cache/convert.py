"""The same latents with other encodings, and caches from the folders of files that scripts have left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salt_toolkit.cache.codec import SAFETENSORS, StreamCodec, bytes_of, calibrate, codecs_of
from salt_toolkit.cache.encodings import Coding
from salt_toolkit.cache.identity import Wanted, base_identity, sample_layer, teacher_layer
from salt_toolkit.cache.prepare import clips_per_shard
from salt_toolkit.cache.rows import CachedRows, CachedStream
from salt_toolkit.errors import CacheError
from salt_toolkit.recipe import Recipe
from salt_toolkit.store.base import Base, claim_base
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.maintain import take_over
from salt_toolkit.store.manifest import Manifest, claim, shard_path
from salt_toolkit.store.row import BadRow, Row
from salt_toolkit.store.shard_writer import ShardBusy, ShardWriter
from salt_toolkit.streams import LATENTS, Encoding, StreamSpec

CALIBRATION_ROWS = 64


@dataclass(frozen=True)
class _Clip:
    """One clip on its way: its row, and its streams, decoded."""

    row: Row
    values: Mapping[str, Tensor]


def convert(source: Path, target: Path, *, dtype: Encoding) -> int:
    """Rewrites a cache with another encoding of what is encoded; all else is linked or copied.

    Args:
        source: A cache, complete or not.
        target: A new directory, or one where an earlier call has stopped.
        dtype: The new encoding.

    Returns:
        Rows that were written.

    Raises:
        CacheError: The source is damaged, or the target is something else.
    """
    cache = Cache.open(source)
    if not any(len(index) for index in cache.layers.values()):
        raise CacheError(f"the cache {source} holds no clip yet; there is nothing to convert")
    as_they_are = {name: index for name, index in cache.layers.items() if not _encoded(index.manifest)}
    take_over(target, replace(cache, layers=as_they_are))
    return sum(
        _convert_layer(cache, name, target, dtype) for name, index in cache.layers.items() if _encoded(index.manifest)
    )


def _encoded(manifest: Manifest) -> bool:
    return any(codec.coding.encoding is not None for codec in codecs_of(manifest).values())


def _convert_layer(cache: Cache, name: str, target: Path, dtype: Encoding) -> int:
    index = cache.layers[name]
    old, reader = index.manifest, _OldRows(cache, name)
    numbers = sorted(index.shards)
    sample = [clip for number in numbers[:4] for clip in reader.clips(number)][:CALIBRATION_ROWS]
    if not sample:
        return 0
    codings = [
        replace(codec.coding, encoding=dtype if codec.coding.encoding else None) for codec in reader.codecs.values()
    ]
    codecs, measured = _calibrated(codings, sample)
    streams = {name: {**old.identity["streams"][name], **codec.coding.as_dict()} for name, codec in codecs.items()}
    new = replace(
        old,
        identity={**old.identity, "streams": streams},
        streams=tuple(stream for coding in codings for stream in coding.streams),
        constants={name: values for name, codec in codecs.items() if (values := codec.constants())},
        measured=measured,
        made_with={**old.made_with, "converted_from": {name: c.coding.as_dict() for name, c in reader.codecs.items()}},
    )
    manifest = claim(target / name, new)
    codecs = codecs_of(manifest)
    written = 0
    for number in numbers:
        if not shard_path(target / name, number).exists():
            header = index.shards[number].header
            planned = [row.clip_id for row in header.rows]
            written += _write(target / name, manifest, number, reader.clips(number), codecs, planned, header.bad)
    return written


def import_folder(folder: Path, target: Path, *, base: Base, wanted: Wanted, dtype: Encoding, shard_mb: int) -> int:
    """Makes a cache of a folder with one ``<clip id>.pt`` for each clip.

    A file holds either a tensor (tokens, dim), or a dict: ``latents`` or ``dino_features`` (tensors),
    and ``caption`` (text). The teacher's is the first of these; other tensors are kept as they are.

    Args:
        folder: With the files; their names without ``.pt`` are the clips' ids.
        target: A new directory.
        base: What the latents are of, as far as is known; its ids and views are the folder's.
        wanted: The layer that the teacher's latents become.
        dtype: How they are stored.
        shard_mb: Megabytes of a shard.

    Returns:
        Clips that were written.

    Raises:
        CacheError: There are no such files, one cannot be read, or they differ in shape.
    """
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise CacheError(f"{folder} has no .pt files; expected one for each clip, named after it")
    sample = [_read_pt(file, index) for index, file in enumerate(files[:CALIBRATION_ROWS])]
    base = claim_base(target, replace(base, ids=tuple(file.stem for file in files), views=1))
    written = []
    for name, tensor in sample[0].values.items():
        coding = Coding.of(name, SAFETENSORS[tensor.dtype], tuple(tensor.shape), dtype)
        if name != LATENTS:
            coding = replace(coding, encoding=None)
        layer = wanted if name == LATENTS else sample_layer(name, StreamSpec(coding.shape, coding.dtype))
        manifest = _imported_manifest(base, layer, coding, sample, shard_mb)
        manifest = claim(target / layer.name, manifest)
        written.append(_import_layer(files, target / layer.name, manifest))
    return max(written)


def _imported_manifest(base: Base, layer: Wanted, coding: Coding, sample: Sequence[_Clip], shard_mb: int) -> Manifest:
    codecs, measured = _calibrated([coding], sample)
    identity = dict(layer.identity or {})
    known = identity.get("streams", {}).get(coding.name, {})
    row_bytes = sum(stream.row_bytes for stream in coding.streams)
    return Manifest(
        base=base.fingerprint,
        identity={**identity, "streams": {coding.name: {**known, **coding.as_dict()}}},
        streams=coding.streams,
        clips_per_shard=clips_per_shard(shard_mb, row_bytes),
        constants={name: values for name, codec in codecs.items() if (values := codec.constants())},
        measured=measured,
        made_with={"imported_from": "pt"},
    )


def _import_layer(files: Sequence[Path], layer: Path, manifest: Manifest) -> int:
    codecs = codecs_of(manifest)
    written = 0
    for number in range(manifest.num_parts(len(files))):
        if not shard_path(layer, number).exists():
            places = manifest.places(number, len(files))[1]
            clips = (_read_pt(files[index], index) for index in places)
            written += _write(layer, manifest, number, clips, codecs, [files[index].stem for index in places])
    return written


def claimed_base(recipe: Recipe) -> Base:
    """The base that a folder of files has if it holds latents of a recipe's clips; only a recomputation proves it."""
    return Base(base_identity(recipe, split=recipe.dataset.config.split, clip=recipe.clip))


def claimed_layer(recipe: Recipe) -> Wanted:
    """The layer that a folder of files becomes if it holds what a recipe's teacher says.

    Raises:
        CacheError: The recipe has several teachers.
    """
    teachings = recipe.teachings()
    if len(teachings) != 1:
        raise CacheError(
            f"the recipe has {len(teachings)} teachers, and a folder of .pt files holds the latents of one"
        )
    return teacher_layer(recipe, None, teachings[0], recipe.clip)


class _OldRows:
    """Reads a layer's rows, decoded."""

    def __init__(self, cache: Cache, layer: str) -> None:
        self.index = cache.layers[layer]
        self.codecs = codecs_of(self.index.manifest)
        streams = self.index.manifest.streams
        self.rows = CachedRows(cache, {stream.name: CachedStream(layer, stream.name) for stream in streams})

    def clips(self, number: int) -> Iterator[_Clip]:
        """The clips of one shard."""
        for row in self.index.shards[number].header.rows:
            yield _Clip(row, {name: self.rows.decoded(codec, row) for name, codec in self.codecs.items()})


def _calibrated(
    codings: Sequence[Coding], clips: Sequence[_Clip]
) -> tuple[dict[str, StreamCodec], dict[str, dict[str, float]]]:
    """Codecs with the constants of some clips, and what encoding costs on them."""
    return calibrate(codings, {c.name: [torch.stack([clip.values[c.name] for clip in clips])] for c in codings})


def _write(
    layer: Path,
    manifest: Manifest,
    number: int,
    clips: Iterator[_Clip],
    codecs: Mapping[str, StreamCodec],
    planned: Sequence[str],
    bad: Sequence[BadRow] = (),
) -> int:
    """Writes one shard; nothing if another process is at it."""
    written = 0
    try:
        with ShardWriter(shard_path(layer, number), manifest.streams, planned) as writer:
            for clip in clips:
                encoded = [tensor for name, codec in codecs.items() for tensor in codec.encode(clip.values[name])]
                writer.add(clip.row, [bytes_of(tensor.contiguous()) for tensor in encoded])
                written += 1
            for entry in bad:
                writer.add_bad(entry)
            writer.commit(manifest.fingerprint, number, manifest.constants)
    except ShardBusy:
        return 0
    return written


def _read_pt(file: Path, index: int) -> _Clip:
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn pickle may raise anything
        raise CacheError(f"{file} cannot be read ({str(error).splitlines()[0]}); fix or remove it") from error
    values: dict[str, Any] = {LATENTS: stored} if isinstance(stored, Tensor) else dict(stored)
    caption = values.pop("caption", None)
    tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
    first = next((name for name in ("dino_features", LATENTS) if name in tensors), None)
    if first is None or tensors[first].ndim < 2:
        raise CacheError(f"{file} holds {sorted(values)}; expected a tensor (tokens, dim), or a dict with latents")
    latents = tensors.pop(first).float().flatten(0, -2)
    # What was called latents beside a teacher's features is another model's.
    others = {f"other_{LATENTS}" if name == LATENTS else name: value for name, value in tensors.items()}
    return _Clip(Row(file.stem, 0, index, caption=caption), {LATENTS: latents, **others})
