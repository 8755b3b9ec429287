"""What a run remembers of where and from what it was made."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from salt_toolkit.cards import ModelCard
from salt_toolkit.component import StudentConfig, TeacherConfig
from salt_toolkit.errors import MissingArtifact, SaltError
from salt_toolkit.recipe import Recipe, Teaching
from salt_toolkit.runs.machine import Machine
from salt_toolkit.system.formats import stamp
from salt_toolkit.teaching.fingerprint import identify

PACKAGES = ("salt-toolkit", "torch", "torchvision", "timm", "transformers", "av", "decord", "numpy", "safetensors")


def describe_environment(recipe: Recipe, machine: Machine) -> dict[str, Any]:
    """What a reader of the run would need to repeat it."""
    return {
        **stamp("run"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": machine.describe(),
        "notes": machine.notes(recipe),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "teachers": fingerprints(recipe),
        "cards": cards(recipe),
        "components": {key: str(selected.provided) for key, selected in recipe.selected().items()},
    }


def fingerprints(recipe: Recipe) -> dict[str, str | None]:
    """Who the teachers are, by name; None for one whose weights are not here (yet)."""
    return {teaching.name: _fingerprint(recipe, teaching) for teaching in recipe.teachings()}


def cards(recipe: Recipe) -> dict[str, dict[str, str] | None]:
    """Licence and labels of all weights that the run comes from, by the recipe's key; None for what has no weights."""
    found = {teaching.key: _card(teaching.teacher.config) for teaching in recipe.teachings()}
    return {**found, "student": _card(recipe.student.config)} if recipe.student else found


def _card(config: TeacherConfig | StudentConfig) -> dict[str, str] | None:
    try:
        card = config.card()
    except SaltError:  # whoever needs the weights will say why
        card = ModelCard()
    return asdict(card) if card else None


def _fingerprint(recipe: Recipe, teaching: Teaching) -> str | None:
    """Of a teacher whose weights are here; a run from a cache needs none."""
    selected = teaching.teacher
    try:
        return identify(selected.use, selected.config, recipe.inputs(), selected.provided.component.build).fingerprint
    except MissingArtifact:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
