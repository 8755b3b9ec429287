"""The directory of a run: what lies where, and how to use what an earlier run has made.

====================  ==================================================================
recipe.toml           the recipe with every default, itself runnable
environment.json      versions, device, plugins, and what was decided for this machine
metrics.jsonl         one line of metrics for every ``train.log_every`` steps
bad_clips.jsonl       clips that could not be used, with path and reason; bad_clips.1.jsonl of process 1
skipped_steps.jsonl   steps whose loss or gradient was not finite, with their clips
checkpoints/          the newest states of training, for resuming
student.safetensors   the finished student; the run is complete
last.safetensors      with train.ema: its weights after the last step, where student.safetensors is their average
====================  ==================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from salt_toolkit.errors import MissingArtifact, RunError
from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import discover

if TYPE_CHECKING:
    from salt_toolkit.contracts import Student


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
        return self.path / "student.safetensors"

    @property
    def last(self) -> Path:
        """The student's weights after the last step, where `student` is their average."""
        return self.path / "last.safetensors"


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
    """
    return load_recipe(_recipe_file(directory), discover())


def load_student(directory: str | Path) -> Student:
    """The trained student of a complete run, on the CPU, in evaluation mode.

    Raises:
        MissingArtifact: There is no run in that directory, or it has not finished.
        RunError: The saved weights are not those of the run's student.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from salt_toolkit.assemble import build_student

    weights = find_student(directory)
    student = build_student(run_recipe(directory))
    try:
        student.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise RunError(f"{weights} does not hold the weights of its run's student: {error}") from error
    return student.eval()


def _recipe_file(directory: str | Path) -> Path:
    run = RunDirectory(Path(directory))
    if not run.recipe.is_file():
        raise MissingArtifact(
            f"the directory {run.path} holds no run (no {run.recipe.name} in it)",
            "Train it first with `salt run`, or name another run directory.",
        )
    return run.recipe
