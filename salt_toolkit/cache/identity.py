"""What decides a cache's contents, as a recipe says it; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salt_toolkit.context import Inputs
from salt_toolkit.errors import MissingArtifact
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.recipe import CacheSection, Recipe, Teaching
from salt_toolkit.store.manifest import require_same
from salt_toolkit.teaching.fingerprint import identify


def cache_directory(section: CacheSection, split: str) -> str:
    """Where the cache of one split lies: a path, or a URL."""
    if "://" in section.dir:
        return f"{section.dir.rstrip('/')}/{split}"
    return str(Path(section.dir).expanduser() / split)


def cache_identity(
    recipe: Recipe,
    section: CacheSection,
    clip_ids: Sequence[str],
    *,
    split: str,
    clip: ClipSpec,
    forgive_missing: bool = False,
) -> dict[str, Any]:
    """Everything that decides the streams of a recipe's cache, in plain values.

    Args:
        recipe: A valid recipe.
        section: How latents are stored.
        clip_ids: Of the data set's split, in its order.
        split: Which part of the data set.
        clip: How its videos become clips.
        forgive_missing: Describe a teacher whose weights are not on this machine by nothing at all.

    Raises:
        MissingArtifact: A teacher's weights are not on this machine.
    """
    dataset = recipe.dataset
    inputs = recipe.inputs(clip)
    about = dict(dataset.config.identity(inputs))
    seed = {"seed": about.pop("seed")} if "seed" in about else {}
    about.pop("clip", None)
    ids = hashlib.sha256(json.dumps(list(clip_ids), ensure_ascii=False).encode("utf-8", "surrogateescape")).hexdigest()
    return {
        "teachers": {
            t.name: _teacher(t, recipe.inputs(clip), forgive_missing=forgive_missing) for t in recipe.teachings()
        },
        "clip": _views(clip),
        **seed,
        "dataset": {
            "use": dataset.use,
            "split": split,
            **about,
            "num_clips": len(clip_ids),
            "ids": f"sha256:{ids}",
        },
        "dtype": section.dtype,
        "frames": section.frames,
        "precision": recipe.train.precision,
    }


def require_comparable(directory: Path | str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares identities, except for teachers that ``wanted`` describes by nothing.

    Raises:
        CacheError: With the fields that differ.
    """
    unknown = {name for name, about in wanted["teachers"].items() if not about}
    known = {name: {} if name in unknown else about for name, about in found["teachers"].items()}
    require_same(directory, {**found, "teachers": known}, wanted)


def _teacher(teaching: Teaching, inputs: Inputs, *, forgive_missing: bool) -> dict[str, Any]:
    try:
        identity = identify(teaching.teacher.use, teaching.teacher.config, inputs)
        spec = teaching.teacher.config.token_spec(inputs.video)
    except MissingArtifact:
        if forgive_missing:
            return {}
        raise
    grid = [spec.grid.frames, spec.grid.rows, spec.grid.columns]
    return {**identity.fields, "fingerprint": identity.fingerprint, "grid": grid, "dim": spec.dim}


def _views(clip: ClipSpec) -> dict[str, Any]:
    """The clip's section without settings that have no effect."""
    values = clip.model_dump(mode="json")
    return {name: values[name] for name in values if clip.crop != "center" or name not in ("crop_scale", "crop_aspect")}
