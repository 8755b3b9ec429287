"""Opening a run directory: a new run, one to be continued, or one that is complete."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from salt_toolkit.check import check_recipe
from salt_toolkit.errors import RunError, SaltError
from salt_toolkit.files import write_json, write_text
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs import RunDirectory
from salt_toolkit.train.checkpoint import newest
from salt_toolkit.train.environment import Machine, describe_environment
from salt_toolkit.train.loop import Outcome, train
from salt_toolkit.train.metrics import writing
from salt_toolkit.train.processes import Processes
from salt_toolkit.train.progress import Progress

FREE_KEYS = {
    "cache.dir",
    "cache.local_gb",
    "cache.shard_mb",
    "dataset.local_gb",
    "dataset.root",
    "loader.prefetch",
    "loader.ram_cache_mb",
    "loader.workers",
    "run.dir",
    "teacher.path",
    "train.checkpoint_every",
    "train.cudnn_benchmark",
    "train.compile",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.log_every",
    "train.max_skipped_steps",
    "train.parallel",
    "train.tf32",
}
"""Keys that change nothing that is computed, rounding aside (the data and the teacher may have moved).

A resumed run may change them. One of several teachers counts like the only one: ``teachers.motion.path`` is free, too.
"""


def run_recipe(recipe: Recipe, *, restart: bool = False, max_hours: float | None = None) -> Outcome | None:
    """Runs a recipe to its end: from the start, or from where an earlier call stopped.

    Args:
        recipe: A valid recipe.
        restart: Whether to set an earlier run of that name aside and begin anew.
        max_hours: Stop after so long; the next call goes on.

    Returns:
        How it ended; None when the run had been complete before.

    Raises:
        SaltError: The directory belongs to another recipe, or training cannot go on.
    """
    machine = Machine.here(recipe)
    processes = Processes(recipe)
    outcome = _run(recipe, machine, processes, restart=restart, max_hours=max_hours)
    # Not after an error: the others could not answer, and their launcher ends them with this process.
    processes.close()
    return outcome


def _run(
    recipe: Recipe, machine: Machine, processes: Processes, *, restart: bool, max_hours: float | None
) -> Outcome | None:
    directory = RunDirectory.of(recipe)
    if restart and processes.is_first and directory.path.exists():
        directory.path.rename(directory.path.with_name(f"{directory.path.name}.{time.strftime('%Y%m%d-%H%M%S')}"))
    processes.wait()
    changed = []
    if directory.recipe.exists() and (directory.student.exists() or newest(directory.checkpoints) is not None):
        changed = _refuse_other_recipe(recipe, directory)
    if directory.student.exists():
        return None
    environment = describe_environment(recipe, machine)
    if newest(directory.checkpoints) is not None:
        _refuse_other_teachers(directory, environment["teachers"])
    processes.wait()  # until all have looked, before the first one writes
    if processes.is_first:
        with writing(directory.path):
            directory.path.mkdir(parents=True, exist_ok=True)
            write_text(directory.recipe, recipe.to_toml())
            write_json(directory.environment, environment)
    with Progress(recipe.run.name, silent=not processes.is_first) as progress:
        together = f", {processes.count} processes" if processes.count > 1 else ""
        progress.say(f"{directory.path} on {environment['device']}{together}")
        for note in [*environment["notes"], *(f"changed since the run began: {line}" for line in changed)]:
            progress.say(f"note: {note}")
        for finding in check_recipe(recipe).findings:
            if finding.severity == "warning":
                progress.say(f"warning: {finding.key}: {finding.message}. {finding.fix}")
        return train(recipe, machine, processes, progress, max_hours)


def _refuse_other_recipe(recipe: Recipe, directory: RunDirectory) -> list[str]:
    """Compares with the recipe that the run began with.

    Returns:
        The changes that may be made.

    Raises:
        RunError: There are others.
    """
    earlier = dict(_leaves(tomllib.loads(_with_every_key(directory.recipe))))
    # Through TOML and back, so that both sides have the same plain types.
    present = dict(_leaves(tomllib.loads(recipe.to_toml())))
    changed = [key for key in sorted(earlier.keys() | present.keys()) if earlier.get(key) != present.get(key)]
    lines = {key: f"{key}: was {_shown(earlier, key)}, now {_shown(present, key)}" for key in changed}
    free = [key for key in changed if re.sub(r"^teachers\.\w+\.", "teacher.", key) in FREE_KEYS]
    if len(free) < len(changed):
        told = "\n".join(f"  {line}{' (safe to change)' if key in free else ''}" for key, line in lines.items())
        raise RunError(
            f"{directory.path} holds a run of another recipe:\n{told}\n"
            "Give this one another name (--set run.name=...), or set the old one aside with --restart."
        )
    return [lines[key] for key in free]


def _refuse_other_teachers(directory: RunDirectory, present: Mapping[str, str | None]) -> None:
    """A file of the same name may hold other weights by now.

    Raises:
        RunError: A teacher is not the one that the run began with.
    """
    try:
        earlier = json.loads(directory.environment.read_text(encoding="utf-8")).get("teachers", {})
    except (OSError, ValueError):
        return
    changed = [name for name, found in present.items() if found and earlier.get(name, found) not in (found, None)]
    if changed:
        told = "; ".join(f"{name} had the fingerprint {earlier[name]}, and has {present[name]} now" for name in changed)
        raise RunError(
            f"{directory.path} began with other teachers: {told}. Bring those back, or begin anew with --restart."
        )


def _with_every_key(path: Path) -> str:
    """A run's recipe with the defaults of keys that are newer than the run; as it stands, if it is no longer valid."""
    try:
        return load_recipe(path, discover()).to_toml()
    except SaltError:
        return path.read_text(encoding="utf-8")


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if not prefix and name == "teachers":
            # By name; their order is a leaf of its own, for it is that of the predictor's heads.
            yield name, [teacher["name"] for teacher in value]
            value = {teacher["name"]: teacher for teacher in value}
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"
