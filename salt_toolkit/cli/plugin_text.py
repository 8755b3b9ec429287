"""The list of plugins, as text and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt_toolkit.cli.extensions import InstalledCommand, load_or_explain
from salt_toolkit.registry import Registry


def plugin_rows(registry: Registry, commands: Mapping[str, InstalledCommand]) -> list[dict[str, Any]]:
    """Every plugin, and every command of one, with its origin, what it provides, and its error."""
    rows = [
        {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "module": plugin.module,
            "kinds": [{"name": kind.name, "summary": kind.summary} for kind in plugin.kinds],
            "components": [
                {"kind": kind, "name": component.name, "summary": component.summary}
                for kind, component in plugin.components
            ],
            "error": plugin.error,
        }
        for plugin in registry.plugins
    ]
    for command in commands.values():
        loaded, fault = load_or_explain(command)
        provided = {"kind": "command", "name": command.name, "summary": "" if fault else loaded.get_short_help_str()}
        origin = {"distribution": command.distribution, "version": command.version, "module": command.module}
        found = [] if fault else [provided]
        error = str(fault) if fault else None
        rows.append({"plugin": command.name, **origin, "kinds": [], "components": found, "error": error})
    return rows


def render_plugins(rows: Sequence[Mapping[str, Any]], clashes: Sequence[str]) -> str:
    """Every plugin with what it provides, or why it failed; for a terminal.

    Args:
        rows: As `plugin_rows` gives them.
        clashes: A sentence for every name that two plugins claim.
    """
    lines: list[str] = []
    for row in rows:
        lines += _plugin_lines(row)
    lines += [f"clash: {clash}" for clash in clashes]
    num_broken = sum(row["error"] is not None for row in rows)
    lines.append(f"{len(rows)} plugins{f', {num_broken} of them broken' if num_broken else ''}")
    return "\n".join(lines)


def _plugin_lines(row: Mapping[str, Any]) -> list[str]:
    lines = [f"{row['plugin']}  ({row['distribution']} {row['version']}, {row['module']})"]
    if row["error"] is not None:
        return [*lines, f"  broken: {row['error']}"]
    provided = [
        *(("kind", kind["name"], kind["summary"]) for kind in row["kinds"]),
        *((each["kind"], each["name"], each["summary"]) for each in row["components"]),
    ]
    first, second = (max((len(cells[column]) for cells in provided), default=0) for column in (0, 1))
    return lines + [f"  {kind:<{max(10, first)}} {name:<{second}}  {summary}" for kind, name, summary in provided]
