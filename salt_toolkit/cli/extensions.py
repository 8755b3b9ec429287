"""Commands that plugins add to ``salt``.

A package names them by entry points in the group ``salt_toolkit.commands``: ``probe = "my_package.commands:probe"``
makes ``salt probe``. The target is a function with Typer's annotations, or a `typer.Typer` app with commands of its
own. Only the command that is called is imported; ``salt --help`` imports all of them for their first lines, so their
modules have to be light.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from salt_toolkit.errors import PluginError, SaltError, explain

GROUP = "salt_toolkit.commands"


@dataclass(frozen=True)
class InstalledCommand:
    """A plugin's command that is known by name, and may not be imported yet.

    Attributes:
        name: The word after ``salt``.
        module: Where it is, as the entry point says: ``my_package.commands:probe``.
        distribution: The installed package that declares it; "" if that is unknown.
        version: That package's version.
        load: Imports it and makes Click's command of it; raises PluginError where that fails.
    """

    name: str
    module: str
    distribution: str
    version: str
    load: Callable[[], Any]


@cache
def installed_commands() -> dict[str, InstalledCommand]:
    """The commands of all plugins by their names, from the packages' metadata alone."""
    by_name: dict[str, dict[str, EntryPoint]] = defaultdict(dict)
    for entry_point in entry_points(group=GROUP):
        # A bundled plugin that is also installed alone has the same target, and is the same command.
        by_name[entry_point.name].setdefault(entry_point.value, entry_point)
    return {name: _installed(name, list(found.values())) for name, found in sorted(by_name.items())}


def _installed(name: str, found: list[EntryPoint]) -> InstalledCommand:
    first = found[0]
    distribution, version = (first.dist.name, first.dist.version) if first.dist else ("", "")

    def load() -> Any:
        if len(found) > 1:
            origins = " and ".join(entry_point.value for entry_point in found)
            raise PluginError(f"the command {name!r} is provided by {origins}, so neither is used", "Uninstall one.")
        return _loaded(first)

    return InstalledCommand(name, first.value, distribution, version, load)


def _loaded(entry_point: EntryPoint) -> Any:
    try:
        with redirect_stdout(sys.stderr):
            target = entry_point.load()
            return _click_command(entry_point.name, target)
    except BaseException as error:  # whatever a stranger's code does costs its own command only
        fault = explain(error)
        raise PluginError(f"the command {entry_point.name!r} ({entry_point.value}) is broken: {fault}") from error


def _click_command(name: str, target: Any) -> Any:
    app = target
    if not isinstance(target, typer.Typer):
        if not callable(target):
            raise PluginError(f"expected a function or a typer.Typer, found {target!r}")
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(target)
    command = typer.main.get_command(app)
    command.name = name
    return command


def load_or_explain(command: InstalledCommand) -> tuple[Any, SaltError | None]:
    """Click's command and None, or None and why it cannot be used."""
    try:
        return command.load(), None
    except PluginError as error:
        return None, error
