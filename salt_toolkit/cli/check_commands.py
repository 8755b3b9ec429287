"""The commands ``salt check`` and ``salt bench``. Thin: each imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salt_toolkit.cli.options import JsonOption, RecipeArgument, SetOption
from salt_toolkit.cli.output import log, write, write_json

if TYPE_CHECKING:
    from salt_toolkit.check.report import Report
    from salt_toolkit.registry import Registry


def check(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes, in TOML.")],
    overrides: SetOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also build every component (without memory) and compare.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Also fail on warnings, and on what is missing on this machine.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each recipe, a line each.")
    ] = False,
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
    from salt_toolkit.check.report import plain_report
    from salt_toolkit.check.text import render_report
    from salt_toolkit.registry import discover

    registry = discover()
    failed = False
    for path in recipes:
        report = _checked(path, registry, overrides or (), deep=deep, batches=(batches or 8) if preflight else None)
        failed |= report.has("error", "missing", "warning") if strict else report.has("error")
        if as_json:
            write_json(plain_report(path, report), indent=None)
        else:
            write(render_report(path, report))
    raise typer.Exit(1 if failed else 0)


def _checked(
    path: Path, registry: Registry, overrides: list[str] | tuple[str, ...], *, deep: bool, batches: int | None
) -> Report:
    """One recipe's report; what is wrong with the recipe is part of it."""
    from salt_toolkit.check.findings import Finding
    from salt_toolkit.check.recipe import check_recipe
    from salt_toolkit.check.report import Report
    from salt_toolkit.errors import RecipeError
    from salt_toolkit.recipe import load_recipe

    try:
        recipe = load_recipe(path, registry, overrides, may_only_cache=True)
    except RecipeError as error:
        return Report([Finding("error", problem.key, str(problem)) for problem in error.problems])
    report = check_recipe(recipe)
    if deep:
        from salt_toolkit.check.deep import check_built

        report.findings += [found for found in check_built(recipe) if found not in report.findings]
    if batches is not None and not recipe.trains:
        message = "--preflight measures training, and this recipe only fills a cache"
        report.findings.append(Finding("warning", "", message, "`salt cache` measures before it fills."))
    elif batches is not None:
        from salt_toolkit.measure.preflight import preflight

        preflight(recipe, report, num_batches=batches, log=log)
    return report


def bench(
    recipe: RecipeArgument,
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
    as_json: JsonOption = False,
) -> None:
    """Measures step and loader for batch sizes and worker counts; says which are best here."""
    from salt_toolkit.recipe import load_recipe
    from salt_toolkit.registry import discover

    sizes, counts = _numbers(batch_sizes, "--batch-sizes"), _numbers(workers, "--workers")
    loaded = load_recipe(recipe, discover(), overrides or ())
    from salt_toolkit.measure.bench import BenchOptions, bench_file, run_bench, write_bench
    from salt_toolkit.measure.bench_report import plain_bench
    from salt_toolkit.measure.bench_text import render_bench

    found = run_bench(loaded, BenchOptions(sizes, counts, seconds), log)
    file = out or bench_file(loaded)
    write_bench(found, file)
    if as_json:
        write_json(plain_bench(found))
    else:
        write(render_bench(found))
    log(f"written to {file}")
    raise typer.Exit(0 if found.recommended else 1)


def _numbers(text: str, option: str) -> list[int]:
    """The whole numbers of a list with commas."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise typer.BadParameter(f"{text!r} is no list of whole numbers such as 8,16,32", param_hint=option)
    return numbers
