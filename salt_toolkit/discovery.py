"""Finds plugins by their entry points, imports them, and calls their hooks.

Entry points are found without an import. Each plugin is imported alone, so that a failure stays with it; all are
then asked which kinds they add, and after that for their components, since one plugin may offer components of a
kind that another one adds. Nothing depends on the order of installation.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from types import FunctionType
from typing import Any

import pluggy

from salt_toolkit import hookspecs
from salt_toolkit.component import Component
from salt_toolkit.errors import PluginError
from salt_toolkit.kinds import KINDS, Kind, asked_for

KINDS_HOOK = "salt_kinds"

# Files that every plugin is loaded through; they tell nothing about where an error is.
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
        kinds: The kinds of components that it adds.
    """

    name: str
    module: str
    distribution: str
    version: str
    error: str | None = None
    components: tuple[tuple[str, Component], ...] = ()
    kinds: tuple[Kind, ...] = ()

    @property
    def origin(self) -> str:
        """Where it comes from: ``salt-toolkit 0.1.0 (plugin videomae)``."""
        package = f"{self.distribution} {self.version}".strip() or f"module {self.module}"
        return f"{package} (plugin {self.name})"


@dataclass(frozen=True)
class Found:
    """A plugin that is known by name and not yet imported.

    Attributes:
        plugin: Without its components.
        load: Imports it.
    """

    plugin: Plugin
    load: Callable[[], object]


def find(entry_points: Iterable[EntryPoint]) -> list[Found]:
    """The plugins that these entry points name."""
    # Reading a distribution's metadata parses a file; the entry points of one share the answer.
    packages: dict[int, tuple[str, str]] = {}
    plugins: list[Found] = []
    for entry_point in entry_points:
        key = id(entry_point.dist)
        if key not in packages:
            packages[key] = _name_and_version(entry_point.dist)
        plugins.append(Found(Plugin(entry_point.name, entry_point.value, *packages[key]), entry_point.load))
    return plugins


def _name_and_version(distribution: Distribution | None) -> tuple[str, str]:
    if distribution is None:
        return "", ""
    metadata = distribution.metadata
    return metadata["Name"] or "", metadata["Version"] or ""


def load_plugins(found: Iterable[Found]) -> list[Plugin]:
    """Loads one plugin of each name; where providers differ, none of them."""
    by_name: dict[str, list[Found]] = defaultdict(list)
    for candidate in sorted(found, key=lambda candidate: (candidate.plugin.name, candidate.plugin.distribution)):
        by_name[candidate.plugin.name].append(candidate)
    refused: list[Plugin] = []
    imported: list[tuple[Plugin, object]] = []
    for name, candidates in by_name.items():
        # A bundled plugin that is also installed alone has the same target, and is the same plugin.
        if len({candidate.plugin.module for candidate in candidates}) == 1:
            imported.append(_imported(candidates[0]))
            continue
        origins = " and ".join(f"{c.plugin.origin}, module {c.plugin.module}" for c in candidates)
        error = f"the plugin name {name!r} is claimed by {origins}, so neither is used; uninstall one"
        refused.extend(replace(candidate.plugin, error=error) for candidate in candidates)
    clashes = {plugin.name: clash for plugin, _ in imported if (clash := _clash(plugin, imported))}
    imported = [
        (replace(plugin, error=clashes[plugin.name], kinds=()) if plugin.name in clashes else plugin, module)
        for plugin, module in imported
    ]
    kinds = all_kinds(plugin for plugin, _ in imported)
    return [*refused, *(_with_components(plugin, module, kinds) for plugin, module in imported)]


def all_kinds(plugins: Iterable[Plugin]) -> dict[str, Kind]:
    """The core's kinds and those that plugins add, by name."""
    return KINDS | {kind.name: kind for plugin in plugins for kind in plugin.kinds}


def _imported(found: Found) -> tuple[Plugin, object]:
    """Imports one plugin, and asks which kinds it adds."""
    errors: list[str] = []
    module, kinds = None, ()
    with _noting(errors):
        module = found.load()
        kinds = _added_kinds(module)
    return replace(found.plugin, kinds=kinds, error=errors[0] if errors else None), module


def _with_components(plugin: Plugin, module: object, kinds: Mapping[str, Kind]) -> Plugin:
    if plugin.error is not None:
        return plugin
    errors: list[str] = []
    components = ()
    with _noting(errors):
        components = _components(module, kinds)
    return replace(plugin, components=components, error=errors[0] if errors else None)


@contextmanager
def _noting(errors: list[str]) -> Iterator[None]:
    """Notes what goes wrong, instead of raising it: whatever a stranger's code does stays with that plugin."""
    try:
        # What a stranger prints must not get into the command's own output, which a program may read.
        with redirect_stdout(sys.stderr):
            yield
    except PluginError as error:
        errors.append(str(error))
    except (Exception, SystemExit) as error:
        errors.append(_explained(error))


def _added_kinds(module: object) -> tuple[Kind, ...]:
    found: dict[str, Kind] = {}
    for caller in _hook_callers(module):
        for implementation in caller.get_hookimpls() if caller.name == KINDS_HOOK else ():
            for kind in _records(implementation.function(), KINDS_HOOK, Kind):
                taken = {name for known in (KINDS | found).values() for name in (known.name, known.plural)}
                if twice := {kind.name, kind.plural} & taken:
                    raise PluginError(
                        f"it adds the kind {kind.name!r}, but there is a {min(twice)!r} already; rename it"
                    )
                found[kind.name] = kind
    return tuple(found.values())


def _clash(plugin: Plugin, imported: Iterable[tuple[Plugin, object]]) -> str | None:
    """What is wrong where another plugin adds another kind of the same name."""
    for kind in plugin.kinds:
        for other, _ in imported:
            for rival in other.kinds:
                # One module under two plugin names adds the very same kind: no clash.
                if rival != kind and {kind.name, kind.plural} & {rival.name, rival.plural}:
                    return f"both it and {other.origin} add the kind {kind.name!r}, so neither is used; uninstall one"
    return None


def _components(module: object, kinds: Mapping[str, Kind]) -> tuple[tuple[str, Component], ...]:
    """Calls the hooks of one plugin; a manager for each keeps them apart, with their origin."""
    by_hook = {kind.hook: kind for kind in kinds.values()}
    hooks = [*by_hook, KINDS_HOOK]
    _refuse_unmarked_hooks(module, hooks)
    callers = _hook_callers(module)
    if not callers:
        raise PluginError(f"it defines no hook; mark a function with @hookimpl, such as {hooks[0]}()")
    components: dict[tuple[str, str], Component] = {}
    for caller in callers:
        for implementation in caller.get_hookimpls() if caller.name != KINDS_HOOK else ():
            if (kind := by_hook.get(caller.name)) is None:
                if implementation.optionalhook:
                    continue
                raise PluginError(f"it implements an unknown hook, {caller.name}(){_suggestion(caller.name, hooks)}")
            for component in _records(implementation.function(), caller.name, Component):
                _check_component(component, kind)
                if (kind.name, component.name) in components:
                    raise PluginError(f"it provides the {kind.name} {component.name!r} twice; rename one")
                components[kind.name, component.name] = component
    return tuple((kind, component) for (kind, _), component in sorted(components.items(), key=lambda item: item[0]))


def _hook_callers(module: object) -> list[pluggy.HookCaller]:
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    return manager.get_hookcallers(module) or []


def _refuse_unmarked_hooks(module: object, hooks: list[str]) -> None:
    manager = pluggy.PluginManager(hookspecs.GROUP)
    for name, value in sorted(getattr(module, "__dict__", {}).items()):
        if not isinstance(value, FunctionType) or manager.parse_hookimpl_opts(module, name) is not None:
            continue
        if name.startswith("salt_") and _nearest(name, hooks):
            raise PluginError(
                f"{name}() looks like a hook and is not marked, so it would never be called; "
                f"put @hookimpl above it{_suggestion(name, hooks)}"
            )


def _records(result: object, hook: str, record: type[Any]) -> Iterator[Any]:
    """What a hook yields: records of this class."""
    name = record.__name__
    if not isinstance(result, Iterable):
        raise PluginError(f"{hook}() returned {result!r}; it has to yield {name}s, or return a list of them")
    for each in result:
        if not isinstance(each, record):
            raise PluginError(f"{hook}() yielded {each!r} of type {type(each).__name__}, not a {name}")
        yield each


def _check_component(component: Component, kind: Kind) -> None:
    base, config, what = kind.config, component.config, f"{kind.name} {component.name!r}"
    if not (isinstance(config, type) and issubclass(config, base)):
        raise PluginError(f"the config of {what}, {config!r}, is no subclass of {base.__name__}")
    for name in kind.reserved:
        if name in config.model_fields:
            raise PluginError(f"the config of {what} has a field {name!r}, a key that recipes reserve")
    if not callable(component.build):
        raise PluginError(f"the build of {what} is not a function: {component.build!r}")
    try:
        asked_for(component.build, kind.context)
    except PluginError as error:
        raise PluginError(f"the {what} cannot be built: {error}") from error


def _nearest(name: str, hooks: list[str]) -> str | None:
    return next(iter(get_close_matches(name, hooks, n=1, cutoff=0.8)), None)


def _suggestion(name: str, hooks: list[str]) -> str:
    near = _nearest(name, hooks)
    if near is None:
        return f"; the hooks are {', '.join(hooks)}"
    return "" if near == name else f"; did you mean {near}()?"


def _explained(error: BaseException) -> str:
    """The exception with its cause and the place where it was raised, on one line."""
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    if frames:
        text += f" (at {frames[-1].filename}:{frames[-1].lineno})"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text if cause is None else f"{text}, caused by {_explained(cause)}"
