"""The command ``salt run``. Thin: it imports what it needs when it is called."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from salt_toolkit.cli.options import RecipeArgument, SetOption
from salt_toolkit.cli.output import write


def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Set an earlier run of that name aside, and start over.")
    ] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0.0, help="Save a checkpoint and stop then; the next call goes on.")
    ] = None,
) -> None:
    """Trains a recipe; continues it where an earlier call stopped."""
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover
    from salt_toolkit.runs.directory import RunDirectory

    loaded = load_recipe(recipe, discover(), overrides or ())
    from salt_toolkit.system.signals import OUT_OF_TIME
    from salt_toolkit.train.run import run_recipe

    outcome = run_recipe(loaded, restart=restart, max_hours=max_hours)
    directory = RunDirectory.of(loaded)
    if outcome is None:
        _say(f"{directory.path} is complete already; the student is {directory.student}")
        return
    if outcome.num_bad_clips:
        _say(f"bad clips that were replaced: {outcome.num_bad_clips}; see {directory.bad_clips}", err=True)
    if outcome.num_skipped_steps:
        _say(f"steps that were skipped: {outcome.num_skipped_steps}; see {directory.skipped_steps}", err=True)
    if not outcome.complete:
        why = f"stopped by {outcome.stopped_by.name}" if outcome.stopped_by else "the time is up"
        _say(
            f"{why} after step {outcome.step} of {outcome.total_steps}; "
            "a checkpoint is saved, and the same command continues the run",
            err=True,
        )
        raise typer.Exit(128 + outcome.stopped_by if outcome.stopped_by else OUT_OF_TIME)
    _say(f"done: {outcome.step} steps; the student is {directory.student}")


def _say(message: str, *, err: bool = False) -> None:
    """Speaks to people; of several processes, only the first does."""
    from salt_toolkit.system.launch import Launch

    if not Launch.here().is_first:
        return
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more; the run is complete all the same
        if err:
            typer.echo(message, err=True)
        else:
            write(message)
