"""Shared fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from salt_toolkit.registry import Registry, discover

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The installed plugins."""
    return discover()


@pytest.fixture(scope="session")
def recipes() -> list[Path]:
    """Every recipe of the repository."""
    found = sorted((ROOT / "recipes").rglob("*.toml"))
    assert len(found) >= 7
    return found
