"""Which code a component is: stamps that change when its numbers may have changed; no torch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from salt_toolkit.component import Config

CORE = __name__.partition(".")[0]


def code_stamps(config: Config, build: Callable[..., Any] | None = None) -> Mapping[str, int | str]:
    """The code that a component's numbers depend on, by package.

    A package whose config class states a ``revision`` is known by that; every other by a digest of its source, so that
    any changed line counts. The core itself is not listed: it changes its formats' numbers instead.

    Args:
        config: The component's config; its bases may come from several packages.
        build: The component's build function.

    Returns:
        By package: the revision, or ``sha256:`` and sixteen digits; ``version ...`` where there is no source to read.
    """
    stamps: dict[str, int | str] = {}
    for base in type(config).__mro__:
        if issubclass(base, Config) and not _is_core(base.__module__):
            package = _package_of(base.__module__)
            revision = base.__dict__.get("revision")
            if revision is not None and not isinstance(stamps.get(package), int):
                stamps[package] = revision
            stamps.setdefault(package, source_stamp(package))
    if build is not None and not _is_core(build.__module__):
        package = _package_of(build.__module__)
        stamps.setdefault(package, source_stamp(package))
    return dict(sorted(stamps.items()))


@cache
def source_stamp(package: str) -> str:
    """A digest of a package's source files, once for each process.

    Args:
        package: Its name; it has been imported.
    """
    digest = hashlib.sha256()
    module = sys.modules[package]
    files = _source_files(Path(module.__file__)) if module.__file__ else []
    if not files:
        return f"version {_version(package)}"
    root = files[0].parent if len(files) == 1 else Path(module.__file__ or "").parent
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        digest.update(file.read_bytes() + b"\0")
    return f"sha256:{digest.hexdigest()[:16]}"


def _source_files(entry: Path) -> list[Path]:
    """All source of a package, of its ``__init__``; or the module's own file."""
    if entry.name == "__init__.py":
        return sorted(entry.parent.rglob("*.py"))
    return [entry] if entry.suffix == ".py" and entry.is_file() else []


def _package_of(module: str) -> str:
    """The outermost package that has a file of its own: namespace packages belong to several distributions."""
    parts = module.split(".")
    for end in range(1, len(parts)):
        name = ".".join(parts[:end])
        if getattr(sys.modules.get(name), "__file__", None):
            return name
    return module


def _is_core(module: str) -> bool:
    return module.partition(".")[0] == CORE


def _version(package: str) -> str:
    try:
        return version(package.partition(".")[0])
    except PackageNotFoundError:
        return "unknown"
