"""Opening a run directory: a new run, one to be continued, or one that is complete."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from salt_toolkit.errors import RunError
from salt_toolkit.files import write_json, write_text
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs import RunDirectory
from salt_toolkit.train.checkpoint import newest
from salt_toolkit.train.environment import Machine, describe_environment
from salt_toolkit.train.loop import Outcome, train
from salt_toolkit.train.progress import Progress

FREE_KEYS = (
    "dataset.root",
    "loader.prefetch",
    "loader.ram_cache_mb",
    "loader.workers",
    "run.dir",
    "teacher.path",
    "train.keep_checkpoints",
)
"""Keys that do not change what is computed (the data and the teacher may have moved); a resumed run may change them.

One of several teachers counts like the only one: ``teachers.motion.path`` is free, too.
"""


def run_recipe(recipe: Recipe, *, restart: bool = False) -> Outcome | None:
    """Runs a recipe to its end: from the start, or from where an earlier call stopped.

    Args:
        recipe: A valid recipe.
        restart: Whether to set an earlier run of that name aside and begin anew.

    Returns:
        How it ended; None when the run had been complete before.

    Raises:
        SaltError: The directory belongs to another recipe, or training cannot go on.
    """
    directory = RunDirectory.of(recipe)
    if restart and directory.path.exists():
        directory.path.rename(directory.path.with_name(f"{directory.path.name}.{time.strftime('%Y%m%d-%H%M%S')}"))
    if directory.recipe.exists() and (directory.student.exists() or newest(directory.checkpoints) is not None):
        _refuse_other_recipe(recipe, directory)
    if directory.student.exists():
        return None
    directory.path.mkdir(parents=True, exist_ok=True)
    write_text(directory.recipe, recipe.to_toml())
    machine = Machine.here(recipe)
    environment = describe_environment(recipe, machine)
    write_json(directory.environment, environment)
    with Progress(recipe.run.name) as progress:
        progress.say(f"{directory.path} on {environment['device']}")
        for note in environment["notes"]:
            progress.say(f"note: {note}")
        return train(recipe, machine, progress)


def _refuse_other_recipe(recipe: Recipe, directory: RunDirectory) -> None:
    earlier = dict(_leaves(tomllib.loads(directory.recipe.read_text(encoding="utf-8"))))
    # Through TOML and back, so that both sides have the same plain types.
    present = dict(_leaves(tomllib.loads(recipe.to_toml())))
    changed = [key for key in sorted(earlier.keys() | present.keys()) if earlier.get(key) != present.get(key)]
    differing = [key for key in changed if re.sub(r"^teachers\.\w+\.", "teacher.", key) not in FREE_KEYS]
    if differing:
        lines = "\n".join(f"  {key}: was {_shown(earlier, key)}, now {_shown(present, key)}" for key in differing)
        raise RunError(
            f"{directory.path} holds a run of another recipe:\n{lines}\n"
            "Give this one another name (--set run.name=...), or set the old one aside with --restart."
        )


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
