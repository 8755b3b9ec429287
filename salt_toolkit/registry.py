"""Finds the installed plugins, loads them, and collects what they provide.

Three plain steps, each on its own: entry points are found without an import; each is loaded alone,
so that a failure stays with its plugin; what they yield is sorted by kind and name. Nothing depends
on the order of installation, and two providers of one name are an error that names both.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import FunctionType

import pluggy

from salt_toolkit import hookspecs
from salt_toolkit.component import CONFIG_BASES, Component
from salt_toolkit.errors import PluginError

_KIND_OF_HOOK = {f"salt_{kind}s": kind for kind in CONFIG_BASES}
RESERVED_KEYS = {"teacher": ("use", "name", "weight", "objective")}
"""Keys of a recipe's sections that are no settings of the component; other kinds than teachers have ``use`` alone."""

# Files that are on the way to every plugin, and so tell nothing of an error's place.
_OURS = ("<frozen", str(Path(importlib.__file__).parent), __file__)


@dataclass(frozen=True)
class Plugin:
    """One installed plugin.

    Attributes:
        name: The entry point's name.
        module: The entry point's value: a module, or ``module:object``.
        distribution: The installed package that declares it; empty for `Registry.from_modules`.
        version: That package's version.
        error: Why nothing of it can be used; None when all is well.
        components: Kind and component of everything it provides, sorted.
    """

    name: str
    module: str
    distribution: str
    version: str
    error: str | None = None
    components: tuple[tuple[str, Component], ...] = ()

    @property
    def origin(self) -> str:
        """Where it comes from: ``salt-toolkit 0.1.0 (plugin videomae)``."""
        package = f"{self.distribution} {self.version}".strip() or f"module {self.module}"
        return f"{package} (plugin {self.name})"


@dataclass(frozen=True)
class Provided:
    """A component, and the plugin that it comes from."""

    kind: str
    component: Component
    plugin: Plugin

    def __str__(self) -> str:
        return f"{self.kind} {self.component.name!r} from {self.plugin.origin}"


class Registry:
    """Everything that recipes can name; made by `discover`, or from an explicit list.

    Args:
        plugins: Loaded plugins, broken ones among them, in any order.
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self.plugins = sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution, plugin.module))
        self._provided: dict[str, dict[str, Provided]] = {kind: {} for kind in CONFIG_BASES}
        self._clashes: dict[tuple[str, str], list[Provided]] = {}
        for (kind, name), providers in sorted(_by_kind_and_name(self.plugins).items()):
            if len(providers) == 1:
                self._provided[kind][name] = providers[0]
            else:
                self._clashes[kind, name] = providers

    @classmethod
    def from_entry_points(cls, found: Iterable[EntryPoint]) -> Registry:
        """Loads exactly these entry points."""
        return cls(_load_all(_find(found)))

    @classmethod
    def from_modules(cls, modules: Mapping[str, object]) -> Registry:
        """Takes plugins that are imported already, by name, as tests and notebooks do."""
        return cls(
            _load_all(
                _Found(Plugin(name, getattr(module, "__name__", repr(module)), "", ""), lambda module=module: module)
                for name, module in modules.items()
            )
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of components, in the order of a recipe."""
        return tuple(self._provided)

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


@dataclass(frozen=True)
class _Found:
    """A plugin that is known by name and not yet loaded."""

    plugin: Plugin
    load: Callable[[], object]


def _find(found: Iterable[EntryPoint]) -> list[_Found]:
    # Reading a distribution's metadata parses a file; the entry points of one share the answer.
    packages: dict[int, tuple[str, str]] = {}
    plugins: list[_Found] = []
    for entry_point in found:
        key = id(entry_point.dist)
        if key not in packages:
            packages[key] = _name_and_version(entry_point.dist)
        plugins.append(_Found(Plugin(entry_point.name, entry_point.value, *packages[key]), entry_point.load))
    return plugins


def _name_and_version(distribution: Distribution | None) -> tuple[str, str]:
    if distribution is None:
        return "", ""
    metadata = distribution.metadata
    return metadata["Name"] or "", metadata["Version"] or ""


def _load_all(found: Iterable[_Found]) -> list[Plugin]:
    """Loads one plugin of each name; where providers differ, none of them."""
    by_name: dict[str, list[_Found]] = defaultdict(list)
    for candidate in sorted(found, key=lambda candidate: (candidate.plugin.name, candidate.plugin.distribution)):
        by_name[candidate.plugin.name].append(candidate)
    plugins: list[Plugin] = []
    for name, candidates in by_name.items():
        # A bundled plugin that is also installed alone has the same target, and is the same plugin.
        if len({candidate.plugin.module for candidate in candidates}) == 1:
            plugins.append(_load(candidates[0]))
            continue
        origins = " and ".join(f"{c.plugin.origin}, module {c.plugin.module}" for c in candidates)
        error = f"the plugin name {name!r} is claimed by {origins}, so neither is used; uninstall one"
        plugins.extend(replace(candidate.plugin, error=error) for candidate in candidates)
    return plugins


def _load(found: _Found) -> Plugin:
    try:
        # What a stranger prints must not get among what the command says, which a program may read.
        with redirect_stdout(sys.stderr):
            return replace(found.plugin, components=_collect(found.load()))
    except PluginError as error:
        return replace(found.plugin, error=str(error))
    except (Exception, SystemExit) as error:  # whatever a stranger's code does stays with that plugin
        return replace(found.plugin, error=_explained(error))


def _collect(module: object) -> tuple[tuple[str, Component], ...]:
    """Calls the hooks of one plugin; a manager for each keeps them apart, with their origin."""
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    _refuse_unmarked_hooks(module, manager)
    callers = manager.get_hookcallers(module)
    if not callers:
        raise PluginError(f"it defines no hook; mark a function with @hookimpl, such as {next(iter(_KIND_OF_HOOK))}()")
    components: dict[tuple[str, str], Component] = {}
    for caller in callers:
        for implementation in caller.get_hookimpls():
            if caller.name not in _KIND_OF_HOOK:
                if implementation.optionalhook:
                    continue
                raise PluginError(f"it implements an unknown hook, {caller.name}(){_suggested_hook(caller.name)}")
            kind = _KIND_OF_HOOK[caller.name]
            for component in _yielded(implementation.function(), caller.name, kind):
                if (kind, component.name) in components:
                    raise PluginError(f"it provides the {kind} {component.name!r} twice; rename one")
                components[kind, component.name] = component
    return tuple((kind, component) for (kind, _), component in sorted(components.items(), key=lambda item: item[0]))


def _refuse_unmarked_hooks(module: object, manager: pluggy.PluginManager) -> None:
    for name, value in sorted(getattr(module, "__dict__", {}).items()):
        if not isinstance(value, FunctionType) or manager.parse_hookimpl_opts(module, name) is not None:
            continue
        if name.startswith("salt_") and _nearest_hook(name):
            raise PluginError(
                f"{name}() looks like a hook and is not marked, so it would never be called; "
                f"put @hookimpl above it{_suggested_hook(name)}"
            )


def _yielded(result: object, hook: str, kind: str) -> Iterable[Component]:
    if not isinstance(result, Iterable):
        raise PluginError(f"{hook}() returned {result!r}; it has to yield Components, or return a list of them")
    for component in result:
        if not isinstance(component, Component):
            raise PluginError(f"{hook}() yielded {component!r} of type {type(component).__name__}, not a Component")
        _check_component(component, kind)
        yield component


def _check_component(component: Component, kind: str) -> None:
    base, config = CONFIG_BASES[kind], component.config
    if not (isinstance(config, type) and issubclass(config, base)):
        raise PluginError(f"the config of {kind} {component.name!r}, {config!r}, is no subclass of {base.__name__}")
    for name in RESERVED_KEYS.get(kind, ("use",)):
        if name in config.model_fields:
            raise PluginError(
                f"the config of {kind} {component.name!r} has a field {name!r}, a key that recipes reserve"
            )
    if not callable(component.build):
        raise PluginError(f"the build of {kind} {component.name!r} is not a function: {component.build!r}")


def _by_kind_and_name(plugins: Iterable[Plugin]) -> dict[tuple[str, str], list[Provided]]:
    grouped: dict[tuple[str, str], list[Provided]] = defaultdict(list)
    for plugin in plugins:
        for kind, component in plugin.components:
            providers = grouped[kind, component.name]
            # One module under two plugin names gives the very same component: no clash.
            if all(provided.component != component for provided in providers):
                providers.append(Provided(kind, component, plugin))
    return grouped


def _nearest_hook(name: str) -> str | None:
    return next(iter(get_close_matches(name, _KIND_OF_HOOK, n=1, cutoff=0.8)), None)


def _suggested_hook(name: str) -> str:
    near = _nearest_hook(name)
    if near is None:
        return f"; the hooks are {', '.join(_KIND_OF_HOOK)}"
    return "" if near == name else f"; did you mean {near}()?"


def _explained(error: BaseException) -> str:
    """The exception with its cause and the place where it was raised, on one line."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    if frames:
        text += f" (at {frames[-1].filename}:{frames[-1].lineno})"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text if cause is None else f"{text}, caused by {_explained(cause)}"
