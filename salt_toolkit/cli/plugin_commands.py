"""The commands that list what there is: ``salt plugins``, ``salt teachers``, ``salt schema``."""

from __future__ import annotations

from typing import Annotated

import typer

from salt_toolkit.cli.options import JsonOption
from salt_toolkit.cli.output import write, write_json


def plugins(as_json: JsonOption = False) -> None:
    """Lists the plugins, what each provides, and why one failed."""
    from salt_toolkit.cli.extensions import installed_commands
    from salt_toolkit.cli.plugin_text import plugin_rows, render_plugins
    from salt_toolkit.registry import discover

    registry = discover()
    rows = plugin_rows(registry, installed_commands())
    if as_json:
        write_json(rows)
    else:
        write(render_plugins(rows, registry.clashes))


def teachers(as_json: JsonOption = False) -> None:
    """Lists the published checkpoints that can teach: sizes, grids, licences, labels."""
    from salt_toolkit.cli.teacher_text import render_teachers, teacher_rows
    from salt_toolkit.registry import discover

    rows = teacher_rows(discover())
    if as_json:
        write_json(rows)
    else:
        write(render_teachers(rows))


def schema(
    report: Annotated[bool, typer.Option("--report", help="That of a line of `salt check --json` instead.")] = False,
) -> None:
    """Prints the JSON Schema of recipes, for editors."""
    if report:
        from salt_toolkit.check.report import report_schema

        write_json(report_schema())
        return
    from salt_toolkit.recipe import recipe_schema
    from salt_toolkit.registry import discover

    write_json(recipe_schema(discover()))
