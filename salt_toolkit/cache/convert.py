"""The same latents in another type, and caches from the folders of files that scripts have left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salt_toolkit.cache.codec import LatentCodec, error_of
from salt_toolkit.cache.encoder import SAFETENSORS
from salt_toolkit.cache.encodings import Encoding
from salt_toolkit.cache.identity import cache_identity
from salt_toolkit.cache.rows import CachedRows, latents_name
from salt_toolkit.errors import CacheError
from salt_toolkit.recipe import CacheSection, Recipe
from salt_toolkit.store.index import CacheIndex
from salt_toolkit.store.manifest import Manifest, claim, shard_path
from salt_toolkit.store.shard import Row, Stream
from salt_toolkit.store.shard_writer import ShardBusy, ShardWriter

CALIBRATION_ROWS = 64


@dataclass(frozen=True)
class _Clip:
    """One clip on its way: its row, decoded latents by teacher, and other tensors as they are."""

    row: Row
    latents: dict[str, Tensor]
    others: dict[str, Tensor]


def convert(source: Path, target: Path, *, dtype: Encoding) -> int:
    """Writes a cache anew with another type of latents.

    Args:
        source: A cache, complete or not.
        target: A new directory, or one where an earlier call has stopped.
        dtype: The new type.

    Returns:
        Rows that were written.

    Raises:
        CacheError: The source is damaged, or the target is something else.
    """
    index = CacheIndex.open(source)
    old = index.manifest
    reader = _OldRows(index)
    teachers = list(old.identity["teachers"])
    numbers = sorted(index.shards)
    sample = [clip for number in numbers[:4] for clip in reader.clips(number)][:CALIBRATION_ROWS]
    codecs, measured = _calibrated(teachers, dtype, sample)
    first = sample[0] if sample else None
    if first is None:
        raise CacheError(f"the cache {source} holds no clip yet; there is nothing to convert")
    streams = [s for name in teachers for s in codecs[name].streams(*first.latents[name].shape)]
    others = [stream for stream in old.streams if stream.name in first.others]
    manifest = claim(
        target,
        replace(
            old,
            identity={**old.identity, "dtype": dtype},
            streams=(*streams, *others),
            constants={name: codec.constants() for name, codec in codecs.items()},
            measured=measured,
            made_with={**old.made_with, "converted_from": old.identity["dtype"]},
        ),
    )
    codecs = {name: LatentCodec.of(latents_name(name), dtype, manifest.constants[name]) for name in teachers}
    written = 0
    for number in numbers:
        if shard_path(target, number).exists():
            continue
        bad = index.shards[number].header.bad
        written += _write(target, manifest, number, reader.clips(number), codecs, bad)
    return written


def import_folder(folder: Path, target: Path, *, identity: dict[str, Any], dtype: Encoding, shard_mb: int) -> int:
    """Makes a cache of a folder with one ``<clip id>.pt`` for each clip.

    A file holds either a tensor (tokens, dim), or a dict: ``latents`` or ``dino_features`` (tensors),
    and ``caption`` (text). Tensors of a dict become one stream each; the first is the teacher's.

    Args:
        folder: With the files; their names without ``.pt`` are the clips' ids.
        target: A new directory.
        identity: What the latents are, as far as is known; its ``teachers`` has one name.
        dtype: How latents are stored.
        shard_mb: Megabytes of a shard.

    Returns:
        Rows that were written.

    Raises:
        CacheError: There are no such files, one cannot be read, or they differ in shape.
    """
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise CacheError(f"{folder} has no .pt files; expected one for each clip, named after it")
    (teacher,) = identity["teachers"]
    sample = [_read_pt(file, index, teacher) for index, file in enumerate(files[:CALIBRATION_ROWS])]
    codecs, measured = _calibrated([teacher], dtype, sample)
    others = [Stream(name, SAFETENSORS[tensor.dtype], tuple(tensor.shape)) for name, tensor in sample[0].others.items()]
    streams = (*codecs[teacher].streams(*sample[0].latents[teacher].shape), *others)
    row_bytes = sum(stream.row_bytes for stream in streams)
    clips_per_shard = max(1, min(4096, shard_mb * 10**6 // row_bytes))
    constants = {teacher: codecs[teacher].constants()}
    manifest = claim(
        target,
        Manifest(identity, streams, len(files), clips_per_shard, constants, measured, {"imported_from": "pt"}),
    )
    written = 0
    for number in range(manifest.num_shards):
        if not shard_path(target, number).exists():
            places = manifest.places(number)[1]
            clips = (_read_pt(files[index], index, teacher) for index in places)
            written += _write(target, manifest, number, clips, codecs, ())
    return written


def claimed_identity(recipe: Recipe, folder: Path, dtype: Encoding) -> dict[str, Any]:
    """The identity that a folder of files has if it holds a recipe's latents; nothing but a recomputation proves it.

    Raises:
        CacheError: The recipe has several teachers.
    """
    teachings = recipe.teachings()
    if len(teachings) != 1:
        raise CacheError(
            f"the recipe has {len(teachings)} teachers, and a folder of .pt files holds the latents of one"
        )
    ids = [file.stem for file in sorted(folder.glob("*.pt"))]
    section = CacheSection(dir=str(folder), dtype=dtype, frames=False, local_gb=0.0, shard_mb=512)
    return cache_identity(recipe, section, ids, split=recipe.dataset.config.split, clip=recipe.clip)


class _OldRows:
    """Reads a cache's rows, decoded."""

    def __init__(self, index: CacheIndex) -> None:
        self.index = index
        self.rows = CachedRows(index)
        manifest = index.manifest
        self.codecs = {
            name: LatentCodec.of(latents_name(name), manifest.identity["dtype"], manifest.constants[name])
            for name in manifest.identity["teachers"]
        }

    def clips(self, number: int) -> Iterator[_Clip]:
        """The clips of one shard."""
        for row in self.index.shards[number].header.rows:
            tensors = {name: torch.empty_like(like, device="cpu") for name, like in self.rows.like.items()}
            self.rows.read_into(row.clip_id, row.view, tensors)
            latents = {name: codec.decode(tensors) for name, codec in self.codecs.items()}
            encoded = {stream.name for codec in self.codecs.values() for stream in codec.streams(1, 1)}
            yield _Clip(row, latents, {name: tensor for name, tensor in tensors.items() if name not in encoded})


def _calibrated(
    teachers: Sequence[str], dtype: Encoding, clips: Sequence[_Clip]
) -> tuple[dict[str, LatentCodec], dict[str, dict[str, float]]]:
    codecs, measured = {}, {}
    for name in teachers:
        latents = torch.stack([clip.latents[name] for clip in clips]) if clips else torch.empty(0, 1, 1)
        codec = codecs[name] = LatentCodec.calibrated(latents_name(name), dtype, [latents])
        names = [stream.name for stream in codec.streams(1, 1)]
        decoded = codec.decode(dict(zip(names, codec.encode(latents), strict=True)))
        measured[name] = error_of(latents, decoded)
    return codecs, measured


def _write(
    target: Path, manifest: Manifest, number: int, clips: Iterator[_Clip], codecs: dict[str, LatentCodec], bad: Any
) -> int:
    """Writes one shard; nothing if another process is at it."""
    written = 0
    names = [stream.name for stream in manifest.streams]
    planned = [""] * len(manifest.places(number)[1])
    try:
        with ShardWriter(shard_path(target, number), manifest.streams, planned) as writer:
            for clip in clips:
                tensors = dict(clip.others)
                for teacher, codec in codecs.items():
                    encoded = codec.encode(clip.latents[teacher])
                    tensors |= dict(zip((s.name for s in codec.streams(1, 1)), encoded, strict=True))
                writer.add(clip.row, [tensors[name].contiguous().view(torch.uint8).numpy() for name in names])
                written += 1
            for entry in bad:
                writer.add_bad(entry)
            writer.commit(manifest.fingerprint, number, manifest.constants)
    except ShardBusy:
        return 0
    return written


def _read_pt(file: Path, index: int, teacher: str) -> _Clip:
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn pickle may raise anything
        raise CacheError(f"{file} cannot be read ({str(error).splitlines()[0]}); mend or remove it") from error
    values: dict[str, Any] = {"latents": stored} if isinstance(stored, Tensor) else dict(stored)
    caption = values.pop("caption", None)
    tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
    first = next((name for name in ("dino_features", "latents") if name in tensors), None)
    if first is None or tensors[first].ndim < 2:
        raise CacheError(f"{file} holds {sorted(values)}; expected a tensor (tokens, dim), or a dict with latents")
    latents = tensors.pop(first).float().flatten(0, -2)
    return _Clip(Row(file.stem, 0, index, caption=caption), {teacher: latents}, tensors)
