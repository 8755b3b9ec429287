"""The directory of a run: its files, and how to use the results of an earlier run.

====================  ==================================================================
recipe.toml           the recipe with every default filled in, itself runnable
environment.json      versions, device, plugins, and settings adapted to this machine
metrics.jsonl         one line of metrics every ``train.log_every`` steps
bad_clips.jsonl       clips that could not be used, with path and reason; bad_clips.1.jsonl of process 1
skipped_steps.jsonl   steps whose loss or gradient was not finite, with their clips
checkpoints/          the newest checkpoints, for resuming
student.safetensors   the finished student; once all that the run exports is there, it is complete
student.last.safetensors  with train.ema: its weights after the last step, where student.safetensors is their average
====================  ==================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salt_toolkit.cards import ModelCard
from salt_toolkit.errors import CheckpointError, MissingArtifact
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover
from salt_toolkit.system.formats import check_format
from salt_toolkit.weights.headers import PREFIXES, first_line, metadata, strip_prefixes, tensor_shapes, torn
from salt_toolkit.weights.whole import looks_like

if TYPE_CHECKING:
    from salt_toolkit.contracts import Student


NUM_SHOWN = 5
"""How many runs of a folder a message lists."""


@dataclass(frozen=True)
class RunDirectory:
    """Names the files of one run."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe) -> RunDirectory:
        """The directory that a recipe's run belongs to."""
        return cls(Path(recipe.run.dir) / recipe.run.name)

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def environment(self) -> Path:
        """Versions and devices."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def bad_clips(self) -> Path:
        """The bad clips, one JSON object per line."""
        return self.path / "bad_clips.jsonl"

    def bad_clips_of(self, rank: int) -> Path:
        """The bad clips found by one of several processes; the first process uses `bad_clips`."""
        return self.path / f"bad_clips.{rank}.jsonl" if rank else self.bad_clips

    @property
    def skipped_steps(self) -> Path:
        """The skipped steps, one JSON object per line."""
        return self.path / "skipped_steps.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def student(self) -> Path:
        """The trained student's weights; present only once the run is complete."""
        return self.export("student")

    def export(self, name: str) -> Path:
        """The final weights of one exported module."""
        return self.path / f"{name}.safetensors"

    def last(self, name: str) -> Path:
        """With weight averaging: an exported module's weights after the last step; `export` holds the average."""
        return self.path / f"{name}.last.safetensors"

    def is_complete(self) -> bool:
        """Whether all exports of the run exist."""
        exports = read_environment(self.path).get("exports", {})
        return bool(exports) and all(self.export(name).exists() for name in exports)


def find_student(directory: str | Path) -> Path:
    """The file of a complete run's student.

    Raises:
        MissingArtifact: There is no run in that directory, or it has not finished.
    """
    recipe = _recipe_file(directory)
    run = RunDirectory(recipe.parent)
    if not run.student.is_file():
        raise MissingArtifact(
            f"the run in {run.path} has not finished (no {run.student.name} in it)",
            f"Finish it with `salt run {recipe}`.",
        )
    return run.student


def run_recipe(directory: str | Path) -> Recipe:
    """The recipe of an earlier run, finished or not.

    Raises:
        MissingArtifact: There is no run in that directory.
        FormatError: The run is in another version's format.
    """
    recipe = _recipe_file(directory)
    read_environment(recipe.parent)
    return load_recipe(recipe, discover())


def read_environment(directory: str | Path) -> dict[str, Any]:
    """The content of a run's ``environment.json``; empty if it is missing or damaged.

    Raises:
        FormatError: The run is in another version's format.
    """
    path = RunDirectory(Path(directory)).environment
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    check_format("run", found, path)
    return found


def stored_cards(directory: str | Path) -> list[ModelCard | None] | None:
    """Licences and labels of a run's teachers and of its student's initial weights, as recorded by the run.

    An entry is None for a teacher without weights or a randomly initialised student; the result is None if the run
    recorded nothing.
    """
    cards = read_environment(directory).get("cards")
    if not isinstance(cards, dict):
        return None
    return [ModelCard(**card) if card else None for card in cards.values()]


def layout_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A digest of the names and shapes of a module's weights, which identifies its architecture."""
    named = strip_prefixes({key: list(shape) for key, shape in shapes.items()}, PREFIXES)  # as `tensor_shapes` does
    return "sha256:" + hashlib.sha256(json.dumps(sorted(named.items())).encode()).hexdigest()


def check_student(directory: str | Path) -> None:
    """Checks by file header that a complete run's student file is intact and belongs to the run.

    Raises:
        MissingArtifact: There is no run in that directory, or it has not finished.
        CheckpointError: The file is truncated, or contains another student's weights.
        FormatError: The run is in another version's format.
    """
    weights = find_student(directory)
    shapes = tensor_shapes(weights)
    _check_format(weights)
    if read_environment(directory).get("exports", {}).get("student") != layout_of(shapes):
        raise CheckpointError(
            f"{weights} holds another student than the one that its run has trained: put that one back, or name "
            f"another run. {looks_like(shapes)}"
        )


def load_student(directory: str | Path, *, num_layers: int | None = None) -> Student:
    """The trained student of a complete run, on the CPU, in evaluation mode.

    Only the run's own files are needed, whatever the student's initial weights were.

    Args:
        directory: Of the run.
        num_layers: Leave out the blocks after so many, of `StudentConfig.teachable_layers`; None keeps all.

    Raises:
        MissingArtifact: There is no run in that directory, or it has not finished.
        CheckpointError: The saved weights are truncated, or not those of the run's student.
        FormatError: The run is in another version's format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from salt_toolkit.assemble import build_student
    from salt_toolkit.weights.loading import load_whole

    weights, recipe = find_student(directory), run_recipe(directory)
    section = recipe.need("student")
    structure = replace(section, config=section.config.structure(num_layers))
    student = build_student(recipe.with_component("student", structure))
    tensor_shapes(weights)  # gives a readable error for a truncated file
    _check_format(weights)
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise CheckpointError(torn(weights, first_line(error))) from error
    if num_layers is not None:
        kept = student.state_dict().keys()
        tensors = {key: tensor for key, tensor in tensors.items() if key in kept}
    load_whole(student, tensors, what="its run's student", name=str(weights))
    return student.eval()


def _check_format(weights: Path) -> None:
    about = metadata(weights).get("salt")
    if about is not None:  # weights that somebody put there by hand have no stamp, and are compared by shape only
        check_format("student", json.loads(about), weights)


def _recipe_file(directory: str | Path) -> Path:
    run = RunDirectory(Path(directory))
    if run.recipe.is_file():
        return run.recipe
    inside = next((parent for parent in [*run.path.parents][:2] if RunDirectory(parent).recipe.is_file()), None)
    if inside is not None and run.path.exists():
        kind = "folder" if run.path.is_dir() else "file"
        raise MissingArtifact(f"{run.path} is a {kind} inside a run", f"Name the run's directory, {inside}.")
    if run.path.exists() and not run.path.is_dir():
        raise MissingArtifact(f"{run.path} is a file, not the directory of a run", "Name a run's directory.")
    runs = _runs_in(run.path)
    shown = ", ".join(map(str, runs[:NUM_SHOWN])) + (", ..." if len(runs) > NUM_SHOWN else ".")
    train = "Train it first with `salt run`, or name another run directory."
    raise MissingArtifact(
        f"the directory {run.path} holds no run (no {run.recipe.name} in it)",
        f"Name one of the runs in it: {shown}" if runs else train,
    )


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder; empty if it is not a folder or not readable."""
    try:
        return sorted(entry for entry in folder.iterdir() if RunDirectory(entry).recipe.is_file())
    except OSError:
        return []
