"""Comparing a cache with the live teacher, on a few clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from salt_toolkit.assemble import build_dataset, build_teacher
from salt_toolkit.cache.codec import LatentCodec, error_of
from salt_toolkit.cache.rows import CachedRows, latents_name
from salt_toolkit.data.samples import collate
from salt_toolkit.errors import BadClip
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.machine import Machine
from salt_toolkit.seeding import generator_for
from salt_toolkit.store.index import CacheIndex

ROUNDING = {"fp32": 1e-4, "bf16": 1e-2}
"""Relative error between two machines that compute in this precision, generously."""


def spot_check(directory: Path, recipe: Recipe, *, count: int) -> list[dict[str, Any]]:
    """Computes some clips anew, and compares them with the cache.

    Args:
        directory: Of the cache.
        recipe: With the data set and the teachers of the cache.
        count: How many rows, spread evenly over the cache by chance.

    Returns:
        For each row and teacher: clip id, view, teacher, the numbers of `error_of`, and whether they
        are what the cache's type and the precision explain.
    """
    index = CacheIndex.open(directory)
    manifest, machine = index.manifest, Machine.here(recipe)
    split, dtype = manifest.identity["dataset"]["split"], manifest.identity["dtype"]
    clip = recipe.clip if split == recipe.dataset.config.split else recipe.clip.for_evaluation()
    dataset = build_dataset(recipe, split=split, clip=clip)
    rows = list(index.rows())
    picked = generator_for("spot check", manifest.fingerprint).permutation(len(rows))[:count]
    found: list[dict[str, Any]] = []
    for teaching in recipe.teachings():
        teacher = build_teacher(recipe, teaching).to(machine.device)
        codec = LatentCodec.of(latents_name(teaching.name), dtype, manifest.constants[teaching.name])
        cached = CachedRows(index, [stream.name for stream in codec.streams(1, 1)])
        allowed = 2 * manifest.measured[teaching.name]["relative_l2"] + ROUNDING["bf16" if machine.bf16 else "fp32"]
        for place in np.sort(picked):
            row = rows[place][2]
            about = {"clip_id": row.clip_id, "view": row.view, "teacher": teaching.name}
            try:
                batch = collate([dataset.read(row.index, row.view)]).to(machine.device)
            except BadClip as bad:
                found.append({**about, "ok": False, "relative_l2": 1.0, "reason": bad.reason})
                continue
            with torch.inference_mode(), machine.autocast():
                live = teacher(batch).float().cpu()
            stored = {s: torch.empty_like(like, device="cpu") for s, like in cached.like.items()}
            cached.read_into(row.clip_id, row.view, stored)
            error = error_of(live, codec.decode({s: tensor.unsqueeze(0) for s, tensor in stored.items()}))
            found.append({**about, **error, "ok": error["relative_l2"] <= allowed})
    return found
