"""The list of plugins, as text and as plain values."""

from __future__ import annotations

from typing import Any

from salt_toolkit.discovery import Plugin
from salt_toolkit.registry import Registry


def plugin_rows(registry: Registry) -> list[dict[str, Any]]:
    """Every plugin with its origin, its components and its error."""
    return [
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


def render_plugins(registry: Registry) -> str:
    """Every plugin with what it provides, or why it failed; for a terminal."""
    lines: list[str] = []
    for plugin in registry.plugins:
        lines += _plugin_lines(plugin)
    lines += [f"clash: {clash}" for clash in registry.clashes]
    broken = f", {len(registry.broken)} of them broken" if registry.broken else ""
    lines.append(f"{len(registry.plugins)} plugins{broken}")
    return "\n".join(lines)


def _plugin_lines(plugin: Plugin) -> list[str]:
    lines = [f"{plugin.name}  ({plugin.distribution} {plugin.version}, {plugin.module})"]
    if plugin.error is not None:
        return [*lines, f"  broken: {plugin.error}"]
    rows = [
        *(("kind", kind.name, kind.summary) for kind in plugin.kinds),
        *((kind, component.name, component.summary) for kind, component in plugin.components),
    ]
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [*lines, *(f"  {kind:<{max(10, first)}} {name:<{second}}  {summary}" for kind, name, summary in rows)]
