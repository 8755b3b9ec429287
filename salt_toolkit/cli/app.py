"""The ``salt`` command: which commands there are, and how an error becomes a sentence."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from salt_toolkit.cli.cache_commands import cache_app
from salt_toolkit.cli.check_commands import bench, check
from salt_toolkit.cli.extensions import GROUP as EXTENSIONS
from salt_toolkit.cli.extensions import installed_commands, load_or_explain
from salt_toolkit.cli.output import CoreCommand, leave_stdout
from salt_toolkit.cli.plugin_commands import plugins, schema, teachers
from salt_toolkit.cli.run_commands import run
from salt_toolkit.errors import PluginMistake, SaltError, explain, message_of

ABOUT = "Distils video foundation models into small ViTs by masked latent regression."
INTERRUPTED = 130


class _WithPlugins(TyperGroup):
    """The toolkit's own commands, and after them those of plugins; where names meet, the own one counts."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in installed_commands() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in installed_commands():
            return own
        return load_or_explain(installed_commands()[cmd_name])[0]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command that is called; one that is broken says why."""
        if args and args[0] in installed_commands() and args[0] not in super().list_commands(ctx):
            _, fault = load_or_explain(installed_commands()[args[0]])
            if fault is not None:
                raise fault
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="salt",
    cls=_WithPlugins,
    help=ABOUT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from salt_toolkit import __version__

        typer.echo(f"salt_toolkit {__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


for _command in (run, check, bench, plugins, teachers, schema):
    app.command(cls=CoreCommand)(_command)
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Runs the command line; a user's mistakes end in a sentence, never in a traceback."""
    try:
        try:
            app()
        finally:
            leave_stdout()
    except KeyboardInterrupt:
        typer.echo("salt: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        _report(error)
        sys.exit(1)


def _report(error: BaseException) -> None:
    """Says what went wrong; a traceback goes before it where neither the user nor the machine is to blame."""
    fault = explain(error)
    told = str(fault)
    if isinstance(fault, PluginMistake) and fault is not error:
        traceback.print_exception(error)
        told = f"{_blamed(error)} made a mistake: {fault.kind}: {message_of(error)}; see above, and tell its authors"
    typer.echo(f"salt{_process()}: {told}", err=True)


def _blamed(error: BaseException) -> str:
    """Whose code raised an error, libraries aside: a plugin's or the toolkit's."""
    packages = {
        point.value.partition(":")[0].partition(".")[0]
        for group in ("salt_toolkit", EXTENSIONS)
        for point in entry_points(group=group)
    }
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in packages:
            return f"the plugin {package}"
        if package == "salt_toolkit":
            break
    return "salt_toolkit"


def _process() -> str:
    """Which of several processes speaks; nothing where there is one."""
    from salt_toolkit.system.launch import Launch

    try:
        rank = Launch.here().rank
    except SaltError:
        return ""
    return f" (process {rank})" if rank else ""
