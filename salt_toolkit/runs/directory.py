"""The directory of a run: what lies where, and how to use what an earlier run has made.

====================  ==================================================================
recipe.toml           the recipe with every default, itself runnable
environment.json      versions, device, plugins, and what was decided for this machine
metrics.jsonl         one line of metrics for every ``train.log_every`` steps
bad_clips.jsonl       clips that could not be used, with path and reason; bad_clips.1.jsonl of process 1
skipped_steps.jsonl   steps whose loss or gradient was not finite, with their clips
checkpoints/          the newest states of training, for resuming
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
"""Runs of a folder that a message lists."""


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
        """The metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def bad_clips(self) -> Path:
        """The bad clips, one JSON object a line."""
        return self.path / "bad_clips.jsonl"

    def bad_clips_of(self, rank: int) -> Path:
        """The bad clips that one of several processes has met; see `bad_clips` for the first."""
        return self.path / f"bad_clips.{rank}.jsonl" if rank else self.bad_clips

    @property
    def skipped_steps(self) -> Path:
        """The steps that were skipped, one JSON object a line."""
        return self.path / "skipped_steps.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def student(self) -> Path:
        """The finished student's weights; there only once the run is complete."""
        return self.export("student")

    def export(self, name: str) -> Path:
        """The finished weights of one module that the run exports."""
        return self.path / f"{name}.safetensors"

    def last(self, name: str) -> Path:
        """The weights of an exported module after the last step, where `export` is their average."""
        return self.path / f"{name}.last.safetensors"

    def is_complete(self) -> bool:
        """Whether everything that the run exports is there."""
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
    """What ``environment.json`` of a run says; nothing where it is missing or damaged.

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
    """Licence and labels of the weights that a run has come from, its teachers' and its student's first ones.

    They are as they were known when the run was made. None for a weightless teacher or a student that began with
    random weights; None instead of the list where the run did not write them down.
    """
    cards = read_environment(directory).get("cards")
    if not isinstance(cards, dict):
        return None
    return [ModelCard(**card) if card else None for card in cards.values()]


def layout_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What tells modules of different make apart: a digest of their weights' names and shapes."""
    named = strip_prefixes({key: list(shape) for key, shape in shapes.items()}, PREFIXES)  # as `tensor_shapes` does
    return "sha256:" + hashlib.sha256(json.dumps(sorted(named.items())).encode()).hexdigest()


def check_student(directory: str | Path) -> None:
    """Proves by its file's header that a complete run's student is whole, and of the run's own make.

    Raises:
        MissingArtifact: There is no run in that directory, or it has not finished.
        CheckpointError: The file is torn, or holds the weights of another student.
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

    Nothing but the run's own files is needed, whatever weights the student began with.

    Args:
        directory: Of the run.
        num_layers: Leave out the blocks after so many, of `StudentConfig.teachable_layers`; None keeps all.

    Raises:
        MissingArtifact: There is no run in that directory, or it has not finished.
        CheckpointError: The saved weights are torn, or not those of the run's student.
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
    tensor_shapes(weights)  # a torn file fails here, in a sentence
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
    if about is not None:  # weights that somebody else put there say nothing, and are compared by their shapes alone
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
    """The runs of a folder of runs; none where it is no folder, or may not be read."""
    try:
        return sorted(entry for entry in folder.iterdir() if RunDirectory(entry).recipe.is_file())
    except OSError:
        return []
