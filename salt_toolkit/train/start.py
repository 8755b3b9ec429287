"""Opening a run directory: a new run, one to be continued, or one that is complete."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salt_toolkit.check import check_recipe
from salt_toolkit.errors import RunError, SaltError
from salt_toolkit.files import write_json, write_text
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs import RunDirectory
from salt_toolkit.train.checkpoint import Checkpoint, newest, paths, remove_after
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
    "loader.max_bad_fraction",
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


@dataclass(frozen=True)
class _Beginning:
    """What a run directory says before the run begins, or goes on.

    Attributes:
        complete: Whether the run is complete.
        checkpoint: Where to go on from.
        told: Sentences for people.
    """

    complete: bool
    checkpoint: Checkpoint | None = None
    told: tuple[str, ...] = ()


def _run(
    recipe: Recipe, machine: Machine, processes: Processes, *, restart: bool, max_hours: float | None
) -> Outcome | None:
    directory = RunDirectory.of(recipe)
    with contextlib.ExitStack() as stack:
        # One process looks and decides, so that no two see another state of the disk.
        beginning = processes.decided(lambda: _begin(recipe, machine, restart=restart, stack=stack))
        if beginning.complete:
            return None
        found = beginning.checkpoint
        if found is not None and not found.path.is_dir():
            raise RunError(
                f"{found.path} is not to be seen from here; run.dir must be on a disk that all machines share"
            )
        progress = stack.enter_context(Progress(recipe.run.name, silent=not processes.is_first))
        together = f", {processes.count} processes" if processes.count > 1 else ""
        progress.say(f"{directory.path} on {machine.describe()}{together}")
        for sentence in beginning.told:
            progress.say(sentence)
        return train(recipe, machine, processes, progress, found, max_hours)


def _begin(recipe: Recipe, machine: Machine, *, restart: bool, stack: contextlib.ExitStack) -> _Beginning:
    """Looks at the run directory, and makes it ready; ``stack`` gets the lock on it."""
    directory = RunDirectory.of(recipe)
    told: list[str] = []
    with writing(directory.path):
        if restart and directory.path.exists():
            with _alone_in(directory.path):
                aside = f"{directory.path.name}.{time.strftime('%Y%m%d-%H%M%S')}"
                directory.path.rename(directory.path.with_name(aside))
        directory.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_alone_in(directory.path))
        found = newest(directory.checkpoints, told.append)
        changed: list[str] = []
        if found is not None or directory.student.exists():
            changed = _refuse_other_recipe(recipe, directory)
        if directory.student.exists():
            return _Beginning(complete=True)
        environment = describe_environment(recipe, machine)
        if found is not None:
            environment["teachers"] = _same_teachers(directory, environment["teachers"])
            remove_after(directory.checkpoints, found.step)
        else:
            _refuse_damage(directory, told)
            # What a start that never trained took for bad may have been a wrong path.
            for book in directory.path.glob("bad_clips*.jsonl"):
                book.unlink()
        write_text(directory.recipe, recipe.to_toml())
        write_json(directory.environment, environment)
    told += [f"note: {note}" for note in environment["notes"]]
    told += [f"note: changed since the run began: {line}" for line in changed]
    warnings = [finding for finding in check_recipe(recipe).findings if finding.severity == "warning"]
    told += [f"warning: {finding.key}: {finding.message}. {finding.fix}" for finding in warnings]
    return _Beginning(complete=False, checkpoint=found, told=tuple(told))


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Holds a lock on a run directory, which ends with this process however that ends.

    Raises:
        RunError: Another process trains in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(f"another process trains in {folder}; wait for its end, or name this run anew") from None
    except OSError:
        pass  # a file system that knows no locks on directories, as some network disks
    try:
        yield
    finally:
        os.close(descriptor)


def _refuse_damage(directory: RunDirectory, told: Sequence[str]) -> None:
    if paths(directory.checkpoints):
        raise RunError(
            f"none of the checkpoints in {directory.checkpoints} is whole: {'; '.join(told)}. "
            "Bring one back, or begin anew with --restart."
        )


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


def _same_teachers(directory: RunDirectory, present: Mapping[str, str | None]) -> dict[str, str | None]:
    """The teachers' fingerprints, those that are unknown now from the run's beginning.

    Raises:
        RunError: A file of the same name holds other weights by now.
    """
    try:
        earlier = json.loads(directory.environment.read_text(encoding="utf-8")).get("teachers", {})
    except (OSError, ValueError):
        return dict(present)
    changed = [name for name, found in present.items() if found and earlier.get(name) not in (found, None)]
    if changed:
        told = "; ".join(f"{name} had the fingerprint {earlier[name]}, and has {present[name]} now" for name in changed)
        raise RunError(
            f"{directory.path} began with other teachers: {told}. Bring those back, or begin anew with --restart."
        )
    return {name: found or earlier.get(name) for name, found in present.items()}


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
