"""What `salt cache info` and `salt cache verify` say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salt_toolkit.store.index import CacheIndex
from salt_toolkit.store.maintain import Verdict

SHOWN = 10
"""Damaged rows that are listed before the rest is counted."""


def cache_facts(index: CacheIndex) -> dict[str, Any]:
    """A cache in plain values."""
    manifest = index.manifest
    unfinished = index.unfinished()
    return {
        "directory": str(index.directory),
        "fingerprint": manifest.fingerprint,
        "complete": not unfinished and not index.damaged,
        "clips": manifest.num_clips,
        "views": manifest.views,
        "rows": len(index),
        "bad_clips": [{"clip_id": bad.clip_id, "view": bad.view, "reason": bad.reason} for bad in index.bad()],
        "shards": {"wanted": manifest.num_shards, "there": len(index.shards), "unfinished": len(unfinished)},
        "damaged": list(index.damaged.values()),
        "bytes": index.num_bytes,
        "streams": [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in manifest.streams],
        "measured": dict(manifest.measured),
        "identity": dict(manifest.identity),
    }


def render_cache(facts: Mapping[str, Any]) -> str:
    """The facts for a terminal."""
    state = (
        "complete" if facts["complete"] else f"{facts['shards']['unfinished']} of {facts['shards']['wanted']} shards"
    )
    lines = [f"{facts['directory']}: {state if facts['complete'] else state + ' unfinished'}"]
    views = f" in {facts['views']} views" if facts["views"] > 1 else ""
    bad = f", {len(facts['bad_clips'])} bad" if facts["bad_clips"] else ""
    lines.append(f"  clips       {facts['clips']:,}{views}; {facts['rows']:,} rows{bad}, {facts['bytes'] / 1e9:.4g} GB")
    for stream in facts["streams"]:
        lines.append(f"  stream      {stream['name']}  {stream['dtype']} {' x '.join(map(str, stream['shape']))}")
    for name, about in facts["identity"]["teachers"].items():
        loss = facts["measured"].get(name, {}).get("relative_l2")
        error = f"; relative error {loss:.2%}" if loss is not None else ""
        lines.append(f"  teacher     {name}: {about.get('teacher')}, fingerprint {about.get('fingerprint')}{error}")
    lines += [f"  damaged     {reason}" for reason in facts["damaged"]]
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
        "unfinished_shards": list(verdict.unfinished),
    }


def render_verdict(facts: Mapping[str, Any]) -> str:
    """A verdict for a terminal."""
    verdict = "sound" if facts["sound"] else "damaged"
    lines = [f"{verdict}: {facts['rows']:,} rows, {facts['bytes'] / 1e9:.4g} GB read"]
    if not facts["complete"]:
        lines.append(f"unfinished: {len(facts['unfinished_shards'])} shards; go on with `salt cache RECIPE`")
    if facts["bad_clips"]:
        lines.append(f"{facts['bad_clips']} clips are recorded as unusable; `salt cache info --json` lists them")
    damage = [*facts["damaged_shards"], *facts["damaged_rows"]]
    lines += damage[:SHOWN]
    if len(damage) > SHOWN:
        lines.append(f"and {len(damage) - SHOWN} more")
    for check in facts.get("spot_checks", ()):
        state = "as the live teacher says" if check["ok"] else "NOT as the live teacher says"
        lines.append(f"{check['clip_id']}, {check['teacher']}: relative error {check['relative_l2']:.2%}, {state}")
    return "\n".join(lines)
