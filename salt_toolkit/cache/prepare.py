"""Makes a cache ready to be filled: the layers that it lacks, and the teachers of those that are not full."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from salt_toolkit.assemble import build_teacher
from salt_toolkit.cache.codec import codecs_of
from salt_toolkit.cache.encoder import LayerEncoder, TeacherLayer
from salt_toolkit.cache.identity import Wanted
from salt_toolkit.cache.plan import CachePlan
from salt_toolkit.cache.shards import missing_units
from salt_toolkit.contracts import ClipBatch, Dataset, Sample
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import BadClip, DataError
from salt_toolkit.runs.environment import describe_environment
from salt_toolkit.runs.machine import Machine
from salt_toolkit.store.base import claim_base, has_base, read_base
from salt_toolkit.store.cache import Cache
from salt_toolkit.store.local import LocalStore
from salt_toolkit.store.manifest import Manifest, claim, require_same

CALIBRATION_CLIPS = 64
"""Clips whose latents give the constants of int8 and fp8, and the errors that the manifests state."""

MAX_CLIPS_PER_SHARD = 4096


@dataclass(frozen=True)
class Prepared:
    """A cache with all layers that a recipe wants, and what makes their rows.

    Attributes:
        cache: With these layers, and perhaps others.
        layers: Names of those that are wanted.
        encoder: With the teachers of those that are not full.
        batch: The first clips, to measure with.
        reading: Clips a second that were read for that.
    """

    cache: Cache
    layers: tuple[str, ...]
    encoder: LayerEncoder
    batch: ClipBatch
    reading: float


def lacking_layers(plan: CachePlan) -> set[str]:
    """Names of the wanted layers that lack something of this share; nothing is written or loaded to find out.

    Raises:
        CacheError: The cache belongs to something else, or is damaged.
    """
    cache = present_cache(plan)
    layers = plan.layers(cache)
    if cache is None or plan.grows(cache.base):
        return set(layers)
    there = {name: cache.layers[name] for name in layers if name in cache.layers}
    units = missing_units(there, plan.places(cache.base), plan.views, plan.part)
    return {missing.layer for unit in units for missing in unit.shards} | (layers.keys() - there.keys())


def present_cache(plan: CachePlan) -> Cache | None:
    """The cache that is there; None for a new one.

    Raises:
        CacheError: It belongs to something else, or is damaged.
    """
    store = LocalStore(plan.directory)
    if not has_base(store):
        return None
    require_same(plan.directory, read_base(store).identity, plan.base.identity)
    return Cache.open(plan.directory)


def prepare(plan: CachePlan, machine: Machine, lacking: Collection[str]) -> Prepared:
    """Makes a cache ready to be filled.

    Nothing is written before the teachers are there, and are known to be those of the layers.

    Args:
        plan: What is wanted.
        machine: Where the teachers run.
        lacking: The wanted layers that lack something, of `lacking_layers`.

    Raises:
        CacheError: It belongs to something else, or cannot be written.
        MissingArtifact: Weights are not on this machine.
        DataError: No clip can be read.
    """
    before = plan.layers(present_cache(plan))
    needed = {wanted.key for name, wanted in before.items() if name in lacking and wanted.is_teacher}
    models = {
        teaching.name: build_teacher(plan.recipe, teaching).to(machine.device)
        for teaching in plan.recipe.teachings()
        if teaching.name in needed
    }
    plan = plan.identified(needed)  # their weights are here by now
    cache = present_cache(plan)
    layers = plan.layers(cache)
    present = {name: cache.layers[name].manifest for name in layers if name in cache.layers} if cache else {}
    new = layers.keys() - present.keys()
    batches, reading = _read_some(plan, CALIBRATION_CLIPS if new else plan.batch_size)
    teachers = {
        name: TeacherLayer(models[wanted.key], _precision(wanted, present.get(name), machine), machine.device)
        for name, wanted in layers.items()
        if wanted.is_teacher and wanted.key in models
    }
    made_with = describe_environment(plan.recipe, machine)
    made = {
        name: _manifest(plan, layers[name], teachers.get(name), batches, made_with) for name in layers if name in new
    }
    claim_base(plan.directory, replace(plan.base, made_with=made_with))
    for name, manifest in made.items():
        claim(plan.directory / name, manifest)
    cache = Cache.open(plan.directory)
    for name, teacher in teachers.items():  # decided by the process that was first
        teacher.use(codecs_of(cache.layers[name].manifest))
    kept = {name: wanted.key for name, wanted in layers.items() if not wanted.is_teacher}
    encoder = LayerEncoder(teachers, kept, machine.device)
    return Prepared(cache, tuple(layers), encoder, batches[0], reading)


def _precision(wanted: Wanted, present: Manifest | None, machine: Machine) -> str:
    """That of the layer, so that all its rows agree; of a new one the teacher's own, or the machine's."""
    if present is not None:
        return present.identity["precision"]
    declared = (wanted.identity or {}).get("precision")
    return declared or ("bf16" if machine.bf16 else "fp32")


def _manifest(
    plan: CachePlan,
    wanted: Wanted,
    teacher: TeacherLayer | None,
    batches: Sequence[ClipBatch],
    made_with: Mapping[str, Any],
) -> Manifest:
    """The manifest of a new layer; a teacher's has constants and errors of the first clips."""
    assert wanted.identity is not None, "only a teacher that is loaded gets a layer"
    identity = dict(wanted.identity)
    constants, measured = {}, {}
    if teacher is not None:
        identity["precision"] = teacher.precision
        measured = teacher.calibrate(wanted.codings, batches)
        constants = {name: values for name, codec in teacher.codecs.items() if (values := codec.constants())}
    streams = tuple(stream for coding in wanted.codings for stream in coding.streams)
    row_bytes = max(1, sum(stream.row_bytes for stream in streams))
    return Manifest(
        base=plan.base.fingerprint,
        identity=identity,
        streams=streams,
        clips_per_shard=clips_per_shard(plan.section.shard_mb, row_bytes),
        constants=constants,
        measured=measured,
        made_with=made_with,
    )


def clips_per_shard(shard_mb: int, row_bytes: int) -> int:
    """The largest power of two of clips that a shard of some megabytes holds, at most 4,096."""
    clips = max(1, min(MAX_CLIPS_PER_SHARD, shard_mb * 10**6 // row_bytes))
    return 1 << (clips.bit_length() - 1)


def _read_some(plan: CachePlan, count: int) -> tuple[list[ClipBatch], float]:
    """Batches of the first clips that can be read, and clips a second."""
    begin = time.perf_counter()
    samples: list[Sample] = []
    num_clips, size = len(plan.dataset.clip_ids), plan.batch_size
    with ThreadPoolExecutor(plan.workers) as pool:
        for start in range(0, num_clips, size):
            part = range(start, min(start + size, num_clips))
            samples += [sample for sample in pool.map(partial(_try, plan.dataset), part) if sample is not None]
            if len(samples) >= count:
                break
    if not samples:
        raise DataError(f"none of the data set's {num_clips} clips can be read")
    rate = len(samples) / (time.perf_counter() - begin)
    samples = samples[:count]
    return [collate(samples[i : i + size]) for i in range(0, len(samples), size)], rate


def _try(dataset: Dataset, index: int) -> Sample | None:
    try:
        return dataset.read(index, 0)
    except BadClip:
        return None
