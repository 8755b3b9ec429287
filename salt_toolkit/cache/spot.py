"""Comparing a cache with the live teacher, on a few clips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from salt_toolkit.assemble import build_dataset, build_teacher
from salt_toolkit.cache.codec import codecs_of, error_of
from salt_toolkit.cache.encoder import TeacherLayer
from salt_toolkit.cache.identity import clip_of
from salt_toolkit.cache.rows import CachedRows, CachedStream
from salt_toolkit.contracts import Dataset
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import BadClip, CacheError
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.machine import Machine
from salt_toolkit.seeding import generator_for
from salt_toolkit.store.cache import TEACHERS, Cache

ROUNDING = {"fp32": 1e-4, "bf16": 1e-2}
"""Relative error between two machines that compute in this precision, generously."""


def spot_check(directory: Path, recipe: Recipe, *, count: int) -> list[dict[str, Any]]:
    """Recomputes some clips and compares them with the cache.

    Args:
        directory: Of the cache.
        recipe: With the data set and the teachers of the cache.
        count: How many rows, spread evenly over the cache by chance.

    Returns:
        For each row and teacher: clip id, view, teacher, the largest `error_of` of its streams, and whether that
        is what the layer's encoding and precision explain.

    Raises:
        CacheError: The cache has none of the recipe's teachers, or is damaged.
    """
    cache, machine = Cache.open(directory), Machine.here(recipe)
    split = cache.base.identity["dataset"]["split"]
    dataset = build_dataset(recipe, split=split, clip=clip_of(recipe, split))
    checked: list[dict[str, Any]] = []
    for teaching in recipe.teachings():
        layer = f"{TEACHERS}/{teaching.name}"
        if layer in cache.layers:
            precision = cache.layers[layer].manifest.identity["precision"]
            teacher = TeacherLayer(build_teacher(recipe, teaching).to(machine.device), precision, machine.device)
            checked += _check_teacher(cache, layer, teacher, dataset, count)
    if not checked:
        names = ", ".join(cache.layers)
        raise CacheError(f"the cache {directory} has rows of none of the recipe's teachers; it has the layers {names}")
    return checked


def _check_teacher(
    cache: Cache, layer: str, teacher: TeacherLayer, dataset: Dataset, count: int
) -> Iterator[dict[str, Any]]:
    index = cache.layers[layer]
    manifest = index.manifest
    codecs = codecs_of(manifest)
    rows = CachedRows(cache, {stream.name: CachedStream(layer, stream.name) for stream in manifest.streams})
    allowed = {
        name: 2 * manifest.measured.get(name, {}).get("relative_l2", 0.0) + ROUNDING[manifest.identity["precision"]]
        for name in codecs
    }
    place_of = {clip_id: place for place, clip_id in enumerate(dataset.clip_ids)}
    stored = list(index.rows())
    picked = generator_for("spot check", manifest.fingerprint).permutation(len(stored))[:count]
    for place in np.sort(picked):
        row = stored[place][2]
        about = {"clip_id": row.clip_id, "view": row.view, "teacher": layer.partition("/")[2]}
        if row.clip_id not in place_of:
            yield {**about, "ok": False, "relative_l2": 1.0, "reason": "the recipe's data set has no such clip"}
            continue
        try:
            batch = collate([dataset.read(place_of[row.clip_id], row.view)])
        except BadClip as bad:
            yield {**about, "ok": False, "relative_l2": 1.0, "reason": bad.reason}
            continue
        live = {name: values.cpu() for name, values in teacher.latents(batch).items()}
        errors = {name: error_of(live[name], rows.decoded(codec, row).unsqueeze(0)) for name, codec in codecs.items()}
        worst = max(errors, key=lambda name: errors[name]["relative_l2"] / allowed[name])
        yield {**about, **errors[worst], "ok": errors[worst]["relative_l2"] <= allowed[worst]}
