"""What a run directory remembers of how its run began, and how much of that may differ when it goes on."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from salt_toolkit.assemble import build_dataset
from salt_toolkit.cards import ModelCard
from salt_toolkit.errors import RecipeChange, RecipeChanged, RunConflict, SaltError
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.runs.directory import RunDirectory, read_environment
from salt_toolkit.runs.environment import cards, fingerprints
from salt_toolkit.runs.samples import sample_differences, samples_identity
from salt_toolkit.system.files import write_json, writing
from salt_toolkit.system.formats import stamp

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
    free = free_keys(recipe)
    doubts = _doubts(recipe, directory, {_section_of(key) for key in changed if key in free})
    changes: list[RecipeChange] = []
    for key in changed:
        note = doubts.get(_section_of(key), "") if key in free else ""
        changes.append(RecipeChange(key, _shown(earlier, key), _shown(present, key), key in free and not note, note))
    if not all(change.allowed for change in changes):
        fix = "Give this one another name (--set run.name=...), or set the old one aside with --restart."
        raise RecipeChanged(directory.path, changes, fix)
    return changes


def free_keys(recipe: Recipe) -> set[str]:
    """Keys that a resumed run may change: they change nothing that is computed, or say only where things lie."""
    sections = {name: getattr(recipe, name) for name in ("run", "train", "optimizer", "loader", "cache")}
    of_core = {f"{name}.{key}" for name, section in sections.items() if section is not None for key in section.free}
    selected = recipe.selected().items()
    return of_core | {f"{section}.{key}" for section, selection in selected for key in selection.config.movable}


def _section_of(key: str) -> str:
    return key.rpartition(".")[0]


def _doubts(recipe: Recipe, directory: RunDirectory, moved: Collection[str]) -> dict[str, str]:
    """Why components that have moved cannot be told to be the same, by section.

    Raises:
        RunConflict: They are known to be others.
    """
    environment = read_environment(directory.path)
    found: dict[str, str] = {}
    if any(teaching.key in moved for teaching in recipe.teachings()):
        present, earlier = fingerprints(recipe), environment.get("teachers", {})
        same_teachers(directory, present)
        unknown = [each for each in recipe.teachings() if not (present[each.name] and earlier.get(each.name))]
        found |= {each.key: "nothing here tells whether its weights are the same" for each in unknown}
    if "dataset" in moved:
        same_samples(directory, samples_identity(recipe, build_dataset(recipe)))
        if "samples" not in environment:
            found["dataset"] = "the run did not write down whose samples it began with"
    return found


def same_samples(directory: RunDirectory, present: Mapping[str, Any]) -> None:
    """Compares the data set with that of the run's beginning, wherever it lies.

    Raises:
        RunConflict: It is another list, or its files hold something else.
    """
    earlier = read_environment(directory.path).get("samples", {})
    different = sample_differences(earlier, present)
    if different:
        raise RunConflict(
            f"{directory.path} began with another data set: {'; '.join(different)}",
            "Bring that back, or start over with --restart.",
        )


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
            f"{directory.path} began with other teachers: {told}", "Bring those back, or start over with --restart."
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
            "Bring it back, or start over with --restart.",
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
