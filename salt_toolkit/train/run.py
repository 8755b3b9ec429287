"""Opening a run directory: a new run, one to be continued, or one that is complete."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from salt_toolkit.assemble import build_dataset
from salt_toolkit.check.recipe import check_recipe
from salt_toolkit.contracts import Method
from salt_toolkit.errors import PluginError, RecipeChange, RunConflict, RunError
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.directory import RunDirectory, layout_of, read_environment
from salt_toolkit.runs.environment import describe_environment
from salt_toolkit.runs.machine import Machine
from salt_toolkit.runs.resume import changes_since, complete_environment, first_cards, same_samples, same_teachers
from salt_toolkit.runs.samples import samples_identity
from salt_toolkit.system.files import write_json, write_text, writing
from salt_toolkit.system.progress import Progress
from salt_toolkit.train.checkpoint import Checkpoint, newest, paths, remove_after
from salt_toolkit.train.loop import Outcome, train
from salt_toolkit.train.processes import Processes


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

        def built(method: Method) -> None:
            layouts = export_layouts(method)
            processes.decided(lambda: complete_environment(recipe, directory, layouts))

        return train(recipe, machine, processes, progress, found, max_hours, built=built)


def _begin(recipe: Recipe, machine: Machine, *, restart: bool, stack: contextlib.ExitStack) -> _Beginning:
    """Looks at the run directory, and makes it ready; ``stack`` gets the lock on it."""
    directory = RunDirectory.of(recipe)
    report = check_recipe(recipe)
    if report.has("error"):
        errors = [str(finding) for finding in report.findings if finding.severity == "error"]
        raise RunError("the recipe cannot work:\n" + "\n".join(f"  {error}" for error in errors))
    told: list[str] = []
    with writing(directory.path):
        if restart and directory.path.exists():
            with _alone_in(directory.path):
                aside = f"{directory.path.name}.{time.strftime('%Y%m%d-%H%M%S')}"
                directory.path.rename(directory.path.with_name(aside))
                told.append(f"the earlier run is {directory.path.with_name(aside)} now")
        directory.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_alone_in(directory.path))
        read_environment(directory.path)  # refuses a run in another version's format
        found = newest(directory.checkpoints, told.append)
        changed: list[RecipeChange] = []
        complete = directory.is_complete()
        if found is not None or complete:
            changed = changes_since(recipe, directory)
        if complete:
            return _Beginning(complete=True)
        environment = describe_environment(recipe, machine)
        environment["samples"] = samples_identity(recipe, build_dataset(recipe))
        if found is not None:
            same_samples(directory, environment["samples"])
            environment["teachers"] = same_teachers(directory, environment["teachers"])
            environment["cards"] = first_cards(directory, environment["cards"])
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
    told += [f"{finding.severity}: {finding}" for finding in report.findings if finding.severity in ("warning", "note")]
    return _Beginning(complete=False, checkpoint=found, told=tuple(told))


def export_layouts(method: Method) -> dict[str, str]:
    """The layout of each module that the run will leave, by its name.

    Raises:
        PluginError: A name is no name for a file.
    """
    exports = method.exports()
    wrong = [name for name in exports if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]
    if wrong or not exports:
        found = ", ".join(map(repr, wrong)) or "none"
        raise PluginError(
            f"{type(method).__name__}.exports() names the modules that a run leaves, each by lowercase letters, digits "
            f"and underscores; found {found}"
        )
    shapes = {name: {key: tuple(value.shape) for key, value in e.state_dict().items()} for name, e in exports.items()}
    return {name: layout_of(shape) for name, shape in shapes.items()}


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
        raise RunConflict(
            f"none of the checkpoints in {directory.checkpoints} is whole: {'; '.join(told)}",
            "Bring one back, or begin anew with --restart.",
        )
