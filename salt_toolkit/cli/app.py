"""The ``salt`` command. Thin: each command imports what it needs when it is called."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from salt_toolkit.cli.cache import cache_app
from salt_toolkit.errors import SaltError

app = typer.Typer(
    name="salt",
    help="Distils video foundation models into small ViTs by masked latent regression.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of the recipe, such as masker.ratio=0.9; KEY= takes it away."
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from salt_toolkit import __version__

        typer.echo(f"salt_toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Distils video foundation models into small ViTs by masked latent regression."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    overrides: SetOption = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Set an earlier run of that name aside, and begin anew.")
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
        _say(f"bad clips, which were replaced: {outcome.num_bad_clips}; see {directory.bad_clips}", err=True)
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
    if not _rank():
        try:
            typer.echo(message, err=err)
        except BrokenPipeError:  # nobody listens any more; what has been done is done
            stream = sys.stderr if err else sys.stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


@app.command()
def check(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes, in TOML.")],
    overrides: SetOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also build every component (without memory) and compare.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Also fail on warnings, and on what is missing on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each recipe.")] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Also read real batches and train a few steps: how long, what limits.")
    ] = False,
    batches: Annotated[
        int | None, typer.Option(min=2, help="Batches that --preflight reads; 8 by default.", show_default=False)
    ] = None,
) -> None:
    """Proves recipes by arithmetic; says what they cost."""
    if batches is not None and not preflight:
        raise typer.BadParameter("has no effect without --preflight", param_hint="--batches")
    from salt_toolkit.check.findings import Finding, Report
    from salt_toolkit.check.recipe import check_recipe
    from salt_toolkit.check.text import render_report
    from salt_toolkit.errors import RecipeError
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover

    registry = discover()
    failed = False
    for path in recipes:
        try:
            recipe = load_recipe(path, registry, overrides or ())
        except RecipeError as error:
            report = Report([Finding("error", problem.key, str(problem)) for problem in error.problems])
        else:
            report = check_recipe(recipe)
            if deep:
                from salt_toolkit.check.deep import check_built

                report.findings += [found for found in check_built(recipe) if found not in report.findings]
            if preflight:
                from salt_toolkit.measure.preflight import preflight as measure

                measure(recipe, report, num_batches=batches or 8, told=_tell)
        failed |= report.has("error", "missing", "warning") if strict else report.has("error")
        typer.echo(json.dumps(report.as_dict(path), ensure_ascii=False) if as_json else render_report(path, report))
    raise typer.Exit(1 if failed else 0)


@app.command()
def bench(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    overrides: SetOption = None,
    batch_sizes: Annotated[
        str,
        typer.Option(metavar="8,16,32", help="A quarter to four times the recipe's by default.", show_default=False),
    ] = "",
    workers: Annotated[
        str, typer.Option(metavar="1,2,4", help="Powers of two up to the processors by default.", show_default=False)
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.0, help="Measured time of each cell.")] = 5.0,
    out: Annotated[
        Path | None, typer.Option(help="JSON file; <run.dir>/<run.name>.bench.json by default.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object instead of tables.")] = False,
) -> None:
    """Measures step and loader for batch sizes and worker counts; says which are best here."""
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover

    sizes, counts = _numbers(batch_sizes, "--batch-sizes"), _numbers(workers, "--workers")
    loaded = load_recipe(recipe, discover(), overrides or ())
    from salt_toolkit.measure.bench import BenchOptions, bench_file, run_bench, write_bench
    from salt_toolkit.measure.bench_text import render_bench

    found = run_bench(loaded, BenchOptions(sizes, counts, seconds), _tell)
    file = out or bench_file(loaded)
    write_bench(found, file)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else render_bench(found))
    _tell(f"written to {file}")
    raise typer.Exit(0 if found["recommended"] else 1)


def _numbers(text: str, option: str) -> list[int]:
    """The whole numbers of a list with commas."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise typer.BadParameter(f"{text!r} is no list of whole numbers such as 8,16,32", param_hint=option)
    return numbers


def _tell(message: str) -> None:
    """Says what is being done, beside what is printed."""
    typer.echo(f"salt: {message}", err=True)


@app.command()
def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Lists the plugins, what each provides, and why one failed."""
    from salt_toolkit.cli.plugin_text import plugin_rows, render_plugins
    from salt_toolkit.registry import discover

    registry = discover()
    typer.echo(json.dumps(plugin_rows(registry), indent=2) if as_json else render_plugins(registry))


@app.command()
def teachers(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Lists the published checkpoints that can teach: sizes, grids, licences, labels."""
    from salt_toolkit.cli.teacher_text import render_teachers, teacher_rows
    from salt_toolkit.registry import discover

    rows = teacher_rows(discover())
    typer.echo(json.dumps(rows, indent=2, ensure_ascii=False) if as_json else render_teachers(rows))


@app.command()
def schema() -> None:
    """Prints the JSON Schema of recipes, for editors."""
    from salt_toolkit.recipe import recipe_schema
    from salt_toolkit.registry import discover

    typer.echo(json.dumps(recipe_schema(discover()), indent=2, ensure_ascii=False))


app.add_typer(cache_app, name="cache")


@app.command(name="demo-data")
def demo_data(
    directory: Annotated[Path, typer.Argument(help="Where to; made if it is not there.")],
    train: Annotated[int, typer.Option(min=1, help="Clips in the training split.")] = 1500,
    validation: Annotated[int, typer.Option(min=1, help="Clips in the validation split.")] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Decides every clip.")] = 0,
) -> None:
    """Writes a small labelled set of videos whose labels are motion."""
    from salt_toolkit.demo.data import write_demo_data

    written = write_demo_data(directory, num_train=train, num_validation=validation, seed=seed)
    total = train + validation
    new = "" if written == total else f", {written} of them new" if written else ", all there already"
    typer.echo(f"{total} videos in {directory}{new}")


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where data, runs and results go.")] = Path("runs/demo"),
    recipes: Annotated[
        Path | None, typer.Option(help="A folder with your own demo_teacher.toml and demo_student.toml.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of both runs.")] = 0,
) -> None:
    """Trains and judges a teacher and a student, on small videos."""
    from salt_toolkit.demo.story import bundled_recipes, run_demo

    run_demo(directory, recipes or bundled_recipes(), seed=seed)


def main() -> None:
    """Runs the command line; mistakes of users end in a message, never in a traceback."""
    try:
        app()
    except SaltError as error:
        typer.echo(f"salt{f' (process {_rank()})' if _rank() else ''}: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("salt: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
