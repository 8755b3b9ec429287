"""Everything that recipes can name: the components of all plugins, by kind and name.

Two providers of one name are an error that names both; a broken plugin is kept with its error, which is said where
it matters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points

from salt_toolkit import hookspecs
from salt_toolkit.component import Component
from salt_toolkit.discovery import Found, Plugin, all_kinds, find, load_plugins
from salt_toolkit.errors import PluginError
from salt_toolkit.kinds import Kind, asked_for


@dataclass(frozen=True)
class Provided:
    """A component, and the plugin that it comes from.

    Attributes:
        kind: Its kind's name.
        component: What the plugin yielded.
        plugin: Where it comes from.
        asks: What of its kind's context its build function names.
    """

    kind: str
    component: Component
    plugin: Plugin
    asks: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.component.name!r} from {self.plugin.origin}"


class Registry:
    """Everything that recipes can name; made by `discover`, or from an explicit list.

    Args:
        plugins: Loaded plugins, broken ones among them, in any order.

    Attributes:
        plugins: All of them, sorted by name.
        kinds: The core's kinds of components and those of plugins, by name.
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins = sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution, plugin.module))
        self.kinds: Mapping[str, Kind] = all_kinds(self.plugins)
        self._provided: dict[str, dict[str, Provided]] = {kind: {} for kind in self.kinds}
        self._clashes: dict[tuple[str, str], list[Provided]] = {}
        for (kind, name), providers in sorted(_by_kind_and_name(self.plugins, self.kinds).items()):
            if len(providers) == 1:
                self._provided[kind][name] = providers[0]
            else:
                self._clashes[kind, name] = providers

    @classmethod
    def from_entry_points(cls, found: Iterable[EntryPoint]) -> Registry:
        """Loads exactly these entry points."""
        return cls(load_plugins(find(found)))

    @classmethod
    def from_modules(cls, modules: Mapping[str, object]) -> Registry:
        """Takes plugins that are imported already, by name, as tests and notebooks do."""
        return cls(
            load_plugins(
                Found(Plugin(name, getattr(module, "__name__", repr(module)), "", ""), lambda module=module: module)
                for name, module in modules.items()
            )
        )

    @property
    def clashes(self) -> list[str]:
        """A sentence for every name that two plugins claim, so that neither is used."""
        return [self._clash(kind, name) for kind, name in self._clashes]

    @property
    def broken(self) -> list[Plugin]:
        """The plugins of which nothing can be used."""
        return [plugin for plugin in self.plugins if plugin.error is not None]

    def of_kind(self, kind: str) -> list[Provided]:
        """All components of a kind, sorted by name."""
        return list(self._names(kind).values())

    def get(self, kind: str, name: str) -> Provided:
        """The component of this kind and name.

        Raises:
            PluginError: There is none, or more than one; the message names what there is.
        """
        known = self._names(kind)
        if name in known:
            return known[name]
        raise PluginError(self._clash(kind, name) if (kind, name) in self._clashes else self._unknown(kind, name))

    def _names(self, kind: str) -> dict[str, Provided]:
        if kind not in self._provided:
            raise PluginError(f"no kind of component is called {kind!r}; the kinds are {', '.join(self.kinds)}")
        return self._provided[kind]

    def _clash(self, kind: str, name: str) -> str:
        origins = " and ".join(provided.plugin.origin for provided in self._clashes[kind, name])
        return f"the {kind} {name!r} is provided by {origins}, so neither is used; uninstall or rename one"

    def _unknown(self, kind: str, name: str) -> str:
        known = list(self._names(kind))
        near = get_close_matches(name, known, n=3)
        did_you_mean = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        listed = f"Known {kind}s: {', '.join(known)}." if known else f"No plugin provides a {kind}."
        sentences = [f"no {kind} is called {name!r}{did_you_mean}", listed]
        if self.broken:
            reasons = "; ".join(f"{plugin.origin}: {plugin.error}" for plugin in self.broken)
            sentences.append(f"It may belong to a plugin that is broken: {reasons}.")
        return " ".join(sentences)


def discover() -> Registry:
    """Finds and loads all installed plugins; a broken one is kept with its error and breaks nothing else."""
    return Registry.from_entry_points(tuple(entry_points(group=hookspecs.GROUP)))


def _by_kind_and_name(plugins: Iterable[Plugin], kinds: Mapping[str, Kind]) -> dict[tuple[str, str], list[Provided]]:
    grouped: dict[tuple[str, str], list[Provided]] = defaultdict(list)
    for plugin in plugins:
        for kind, component in plugin.components:
            providers = grouped[kind, component.name]
            # One module under two plugin names gives the very same component: no clash.
            if all(provided.component != component for provided in providers):
                providers.append(Provided(kind, component, plugin, asked_for(component.build, kinds[kind].context)))
    return grouped
