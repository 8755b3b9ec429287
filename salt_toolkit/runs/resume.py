"""What a run directory remembers of how its run began, and how much of that may differ when it goes on."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from salt_toolkit.cards import ModelCard
from salt_toolkit.errors import RecipeChange, RecipeChanged, RunConflict, SaltError
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.directory import RunDirectory, read_environment
from salt_toolkit.runs.environment import cards, fingerprints
from salt_toolkit.system.files import write_json, writing
from salt_toolkit.system.formats import stamp

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
    "teacher.checkpoint",
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

COMPARED_KEYS = {"teacher.checkpoint"}
"""Those of them that are free only where the teacher is known, by its fingerprint, to be the same."""

Card: TypeAlias = dict[str, str] | None
_UNKNOWN = asdict(ModelCard())


def changes_since(recipe: Recipe, directory: RunDirectory) -> list[RecipeChange]:
    """Compares with the recipe that the run began with.

    Returns:
        The changes that may be made.

    Raises:
        RecipeChanged: There are others.
    """
    earlier = dict(_leaves(_with_every_key(directory.recipe)))
    # Through TOML and back, so that both sides have the same plain types.
    present = dict(_leaves(tomllib.loads(recipe.to_toml())))
    changed = [key for key in sorted(earlier.keys() | present.keys()) if earlier.get(key) != present.get(key)]
    compared = any(_kind_of(key) in COMPARED_KEYS for key in changed)
    unknown = _teachers_unknown(recipe, directory) if compared else set()
    changes: list[RecipeChange] = []
    for key in changed:
        doubtful = _kind_of(key) in COMPARED_KEYS and key.rpartition(".")[0] in unknown
        note = "nothing here tells whether its weights are the same" if doubtful else ""
        allowed = _kind_of(key) in FREE_KEYS and not doubtful
        changes.append(RecipeChange(key, _shown(earlier, key), _shown(present, key), allowed, note))
    if not all(change.allowed for change in changes):
        fix = "Give this one another name (--set run.name=...), or set the old one aside with --restart."
        raise RecipeChanged(directory.path, changes, fix)
    return changes


def _kind_of(key: str) -> str:
    """A key with that of the only teacher for one of several."""
    return re.sub(r"^teachers\.\w+\.", "teacher.", key)


def _teachers_unknown(recipe: Recipe, directory: RunDirectory) -> set[str]:
    """Keys of the teachers that cannot be compared: their weights were not known when the run began, or are not here.

    Raises:
        RunConflict: Another one is known to be another.
    """
    present, earlier = fingerprints(recipe), read_environment(directory.path).get("teachers", {})
    same_teachers(directory, present)
    return {each.key for each in recipe.teachings() if not (present[each.name] and earlier.get(each.name))}


def same_teachers(directory: RunDirectory, present: Mapping[str, str | None]) -> dict[str, str | None]:
    """The teachers' fingerprints, those that are unknown now from the run's beginning.

    Raises:
        RunConflict: A file of the same name holds other weights by now.
    """
    earlier = read_environment(directory.path).get("teachers", {})
    changed = [name for name, found in present.items() if found and earlier.get(name) not in (found, None)]
    if changed:
        told = "; ".join(f"{name} had the fingerprint {earlier[name]}, and has {present[name]} now" for name in changed)
        raise RunConflict(
            f"{directory.path} began with other teachers: {told}", "Bring those back, or begin anew with --restart."
        )
    return {name: found or earlier.get(name) for name, found in present.items()}


def first_cards(directory: RunDirectory, present: Mapping[str, Card]) -> dict[str, Card]:
    """The cards as the run first knew them: what they rest on may have moved since."""
    earlier = read_environment(directory.path).get("cards", {})
    return {key: card if earlier.get(key) in (None, _UNKNOWN) else earlier[key] for key, card in present.items()}


def complete_environment(recipe: Recipe, directory: RunDirectory, exports: Mapping[str, str]) -> None:
    """Writes down what was not known before all was built, when weights may still have had to be downloaded.

    Args:
        recipe: Of the run.
        directory: Of the run.
        exports: What the run will leave: the layout of each module's weights, by the module's name.

    Raises:
        RunConflict: What has come is not the teacher that the run began with.
    """
    known = {
        **stamp("run"),
        **read_environment(directory.path),
        "teachers": same_teachers(directory, fingerprints(recipe)),
        "cards": first_cards(directory, cards(recipe)),
        "exports": dict(exports),
    }
    with writing(directory.path):
        write_json(directory.environment, known)


def _with_every_key(path: Path) -> dict[str, Any]:
    """A run's recipe with the defaults of keys that are newer than the run; as it stands, if it is no longer valid.

    Raises:
        RunConflict: It is damaged, or not there.
    """
    try:
        return tomllib.loads(load_recipe(path, discover()).to_toml())
    except SaltError:
        pass
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunConflict(
            f"{path} cannot be read ({error}), so nobody can tell which recipe this run began with",
            "Bring it back, or begin anew with --restart.",
        ) from error


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if not prefix and name == "teachers":
            # Their order is a leaf of its own, for it is that of the predictor's heads.
            yield name, list(value)
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"
