"""The ``salt`` command. Thin: each command imports what it needs when it is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from salt_toolkit.cache.cli import cache_app
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
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe, such as masker.ratio=0.9."),
]


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.")],
    overrides: SetOption = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Set an earlier run of that name aside, and begin anew.")
    ] = False,
) -> None:
    """Trains a recipe; continues it where an earlier call stopped."""
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover
    from salt_toolkit.runs import RunDirectory

    loaded = load_recipe(recipe, discover(), overrides or ())
    from salt_toolkit.train.start import run_recipe

    outcome = run_recipe(loaded, restart=restart)
    directory = RunDirectory.of(loaded)
    if outcome is None:
        typer.echo(f"{directory.path} is complete already; the student is {directory.student}")
        return
    if outcome.num_bad_clips:
        typer.echo(f"{outcome.num_bad_clips} bad clips were replaced; see {directory.bad_clips}", err=True)
    if outcome.stopped_by is not None:
        typer.echo(
            f"stopped by {outcome.stopped_by.name} after step {outcome.step} of {outcome.total_steps}; "
            "a checkpoint is saved, and the same command continues the run",
            err=True,
        )
        raise typer.Exit(128 + outcome.stopped_by)
    typer.echo(f"done: {outcome.step} steps; the student is {directory.student}")


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
) -> None:
    """Proves recipes by arithmetic; says what they cost."""
    from salt_toolkit.check import Finding, Report, check_recipe
    from salt_toolkit.errors import RecipeError
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover
    from salt_toolkit.report.check_text import render_report

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
                from salt_toolkit.deep_check import check_built

                report.findings += [found for found in check_built(recipe) if found not in report.findings]
        failed |= report.has("error", "missing", "warning") if strict else report.has("error")
        typer.echo(json.dumps(report.as_dict(path), ensure_ascii=False) if as_json else render_report(path, report))
    raise typer.Exit(1 if failed else 0)


@app.command()
def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Lists the plugins, what each provides, and why one failed."""
    from salt_toolkit.registry import discover
    from salt_toolkit.report.plugin_text import plugin_rows, render_plugins

    registry = discover()
    typer.echo(json.dumps(plugin_rows(registry), indent=2) if as_json else render_plugins(registry))


@app.command()
def teachers(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Lists the published checkpoints that can teach: sizes, grids, licences, labels."""
    from salt_toolkit.registry import discover
    from salt_toolkit.report.teacher_text import render_teachers, teacher_rows

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
    typer.echo(f"{written} videos in {directory}")


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where data, runs and results go.")] = Path("runs/demo"),
    recipes: Annotated[Path, typer.Option(help="The folder of the demo's recipes.")] = Path("recipes"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of both runs.")] = 0,
) -> None:
    """Trains and judges a teacher and a student, on small videos."""
    from salt_toolkit.demo.story import run_demo

    run_demo(directory, recipes, seed=seed)


def main() -> None:
    """Runs the command line; mistakes of users end in a message, never in a traceback."""
    try:
        app()
    except SaltError as error:
        typer.echo(f"salt: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("salt: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
