"""What `salt cache info` and `salt cache verify` say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt_toolkit.store.cache import Cache
from salt_toolkit.store.layer import LayerIndex
from salt_toolkit.store.maintain import Verdict
from salt_toolkit.store.manifest import SHARDS, shard_name

SHOWN = 10
"""Damaged rows that are listed before the rest is counted."""


def cache_facts(cache: Cache) -> dict[str, Any]:
    """A cache in plain values."""
    bad = sorted(cache.bad.values(), key=lambda entry: (entry.view, entry.index))
    return {
        "directory": cache.directory,
        "fingerprint": cache.base.fingerprint,
        "complete": cache.complete,
        "clips": len(cache.base.ids),
        "views": cache.base.views,
        "bad_clips": [{"clip_id": entry.clip_id, "view": entry.view, "reason": entry.reason} for entry in bad],
        "bytes": cache.num_bytes,
        "identity": dict(cache.base.identity),
        "layers": {name: _layer_facts(index) for name, index in cache.layers.items()},
    }


def _layer_facts(index: LayerIndex) -> dict[str, Any]:
    manifest, unfinished = index.manifest, index.unfinished()
    return {
        "fingerprint": manifest.fingerprint,
        "rows": len(index),
        "shards": {
            "wanted": index.views * index.num_parts,
            "there": len(index.shards),
            "unfinished": len(unfinished),
        },
        "damaged": list(index.damaged.values()),
        "bytes": index.num_bytes,
        "streams": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in manifest.streams],
        "measured": dict(manifest.measured),
        "identity": dict(manifest.identity),
    }


def render_cache(facts: Mapping[str, Any]) -> str:
    """The facts for a terminal."""
    lines = [f"{facts['directory']}: {'complete' if facts['complete'] else 'unfinished'}"]
    views = f" in {facts['views']} views" if facts["views"] > 1 else ""
    bad = f", {len(facts['bad_clips'])} bad" if facts["bad_clips"] else ""
    lines.append(f"  clips       {facts['clips']:,}{views}{bad}; {facts['bytes'] / 1e9:.4g} GB")
    for name, layer in facts["layers"].items():
        shards = layer["shards"]
        state = f"; {shards['unfinished']} of {shards['wanted']} shards unfinished" if shards["unfinished"] else ""
        lines.append(f"  {name}: {layer['rows']:,} rows, {layer['bytes'] / 1e9:.4g} GB{state}")
        if "teacher" in layer["identity"]:
            about = layer["identity"]["teacher"]
            run = f"run in {layer['identity']['precision']}"
            lines.append(f"    teacher   {about.get('teacher')}, fingerprint {about.get('fingerprint')}, {run}")
        for stream in layer["streams"]:
            error = layer["measured"].get(stream["name"])
            lost = f", relative error {error['relative_l2']:.2%}" if error else ""
            shape = " x ".join(map(str, stream["shape"])) or "1"
            lines.append(f"    stream    {stream['name']}  {stream['dtype']} {shape}{lost}")
        lines += [f"    damaged   {reason}" for reason in layer["damaged"]]
    return "\n".join(lines)


def verdict_facts(verdict: Verdict) -> dict[str, Any]:
    """A verdict in plain values."""
    return {
        "sound": verdict.sound,
        "complete": not verdict.unfinished,
        "rows": verdict.rows,
        "bytes": verdict.num_bytes,
        "bad_clips": verdict.bad_clips,
        "damaged_shards": list(verdict.damaged_shards.values()),
        "damaged_rows": [str(row) for row in verdict.damaged_rows],
        "unfinished_shards": [f"{layer}/{SHARDS}/{shard_name(number)}" for layer, number in verdict.unfinished],
    }


def render_verdict(facts: Mapping[str, Any]) -> str:
    """A verdict for a terminal."""
    verdict = "sound" if facts["sound"] else "damaged"
    lines = [f"{verdict}: {facts['rows']:,} rows, {facts['bytes'] / 1e9:.4g} GB read"]
    if not facts["complete"]:
        lines.append(f"unfinished: {len(facts['unfinished_shards'])} shards; go on with `salt cache RECIPE`")
    if facts["bad_clips"]:
        lines.append(f"{facts['bad_clips']} clips are recorded as unusable; `salt cache info --json` lists them")
    lines += _first([*facts["damaged_shards"], *facts["damaged_rows"]])
    if "sources" in facts:
        lines += _sources(facts["sources"])
    for check in facts.get("spot_checks", ()):
        state = "as the live teacher says" if check["ok"] else "NOT as the live teacher says"
        lines.append(f"{check['clip_id']}, {check['teacher']}: relative error {check['relative_l2']:.2%}, {state}")
    return "\n".join(lines)


def _sources(facts: Mapping[str, Any]) -> list[str]:
    changed, missing = facts["changed"], facts["missing"]
    lines = [f"files of {facts['compared']} clips compared: {len(changed)} changed, {len(missing)} missing"]
    lines += _first([f"changed: {clip['clip_id']!r}: {clip['reason']}" for clip in changed])
    lines += _first([f"missing: {clip['clip_id']!r}: {clip['reason']}" for clip in missing])
    if changed:
        lines.append("`salt cache repair` with --sources drops the rows of the changed files")
    return lines


def _first(entries: Sequence[str]) -> list[str]:
    """The first entries, and how many more there are."""
    more = [f"and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    return [*entries[:SHOWN], *more]
