"""Opening a run directory: a new run, a run to resume, or one that is already complete."""

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
    """Runs a recipe to completion, from the start or from where an earlier call stopped.

    Args:
        recipe: A valid recipe.
        restart: Whether to move an earlier run of that name aside and start over.
        max_hours: Time limit; the next call resumes the run.

    Returns:
        How the run ended; None if it was already complete.

    Raises:
        SaltError: The directory belongs to another recipe, or training cannot continue.
    """
    machine = Machine.here(recipe)
    processes = Processes(recipe)
    outcome = _run(recipe, machine, processes, restart=restart, max_hours=max_hours)
    # Not after an error: the other processes could not respond; the launcher ends them together with this one.
    processes.close()
    return outcome


@dataclass(frozen=True)
class _Beginning:
    """State of a run directory before the run starts or resumes.

    Attributes:
        complete: Whether the run is complete.
        checkpoint: Checkpoint to resume from.
        messages: Sentences for the terminal.
    """

    complete: bool
    checkpoint: Checkpoint | None = None
    messages: tuple[str, ...] = ()


def _run(
    recipe: Recipe, machine: Machine, processes: Processes, *, restart: bool, max_hours: float | None
) -> Outcome | None:
    directory = RunDirectory.of(recipe)
    with contextlib.ExitStack() as stack:
        # One process inspects the disk and decides for all, because network disks may show each a different state.
        beginning = processes.decided(lambda: _begin(recipe, machine, restart=restart, stack=stack))
        if beginning.complete:
            return None
        found = beginning.checkpoint
        if found is not None and not found.path.is_dir():
            raise RunError(
                f"{found.path} cannot be seen from this process; put run.dir on a disk that all machines share"
            )
        progress = stack.enter_context(Progress(recipe.run.name, silent=not processes.is_first))
        together = f", {processes.count} processes" if processes.count > 1 else ""
        progress.say(f"{directory.path} on {machine.describe()}{together}")
        for sentence in beginning.messages:
            progress.say(sentence)

        def built(method: Method) -> None:
            layouts = export_layouts(method)
            processes.decided(lambda: complete_environment(recipe, directory, layouts))

        return train(recipe, machine, processes, progress, found, max_hours, built=built)


def _begin(recipe: Recipe, machine: Machine, *, restart: bool, stack: contextlib.ExitStack) -> _Beginning:
    """Inspects and prepares the run directory; ``stack`` holds the lock on it."""
    directory = RunDirectory.of(recipe)
    report = check_recipe(recipe)
    if report.has("error"):
        errors = [str(finding) for finding in report.findings if finding.severity == "error"]
        raise RunError("the recipe cannot work:\n" + "\n".join(f"  {error}" for error in errors))
    messages: list[str] = []
    with writing(directory.path):
        if restart and directory.path.exists():
            with _alone_in(directory.path):
                aside = f"{directory.path.name}.{time.strftime('%Y%m%d-%H%M%S')}"
                directory.path.rename(directory.path.with_name(aside))
                messages.append(f"the earlier run was moved to {directory.path.with_name(aside)}")
        directory.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_alone_in(directory.path))
        read_environment(directory.path)  # refuses a run in another version's format
        found = newest(directory.checkpoints, messages.append)
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
            _refuse_damage(directory, messages)
            # A start that never trained may have recorded bad clips only because of a wrong path.
            for log in directory.path.glob("bad_clips*.jsonl"):
                log.unlink()
        write_text(directory.recipe, recipe.to_toml())
        write_json(directory.environment, environment)
    messages += [f"note: {note}" for note in environment["notes"]]
    messages += [f"note: changed since the run began: {line}" for line in changed]
    shown = (finding for finding in report.findings if finding.severity in ("warning", "note"))
    messages += [f"{finding.severity}: {finding}" for finding in shown]
    return _Beginning(complete=False, checkpoint=found, messages=tuple(messages))


def export_layouts(method: Method) -> dict[str, str]:
    """The layout of each module that the run exports, by name.

    Raises:
        PluginError: A name cannot be used as a file name.
    """
    exports = method.exports()
    wrong = [name for name in exports if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]
    if wrong or not exports:
        found = ", ".join(map(repr, wrong)) or "none"
        raise PluginError(
            f"{type(method).__name__}.exports() must name the modules that a run exports, with lowercase letters, "
            f"digits and underscores; found {found}"
        )
    shapes = {name: {key: tuple(value.shape) for key, value in e.state_dict().items()} for name, e in exports.items()}
    return {name: layout_of(shape) for name, shape in shapes.items()}


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Holds a lock on a run directory; the system releases it however this process ends.

    Raises:
        RunError: Another process is training in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(
            f"another process trains in {folder}; wait for it to finish, or give this run another name"
        ) from None
    except OSError:
        pass  # some network file systems do not support locks on directories
    try:
        yield
    finally:
        os.close(descriptor)


def _refuse_damage(directory: RunDirectory, messages: Sequence[str]) -> None:
    if paths(directory.checkpoints):
        raise RunConflict(
            f"none of the checkpoints in {directory.checkpoints} is complete: {'; '.join(messages)}",
            "Restore one, or start over with --restart.",
        )
