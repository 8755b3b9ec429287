"""A run that teaches, and no network; and the helper module of these tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest's importlib mode puts no test folder on the path; the helper's name is unique for that.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory, monkeypatch):
    """A hub's cache of the test's own, and no connection."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def first_run(tmp_path_factory):
    """The directory of a complete run of two steps, from pixels; not to be changed."""
    from teaching_runs import train

    return train(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def deep_run(tmp_path_factory):
    """The same with a student of three blocks."""
    from teaching_runs import train

    return train(tmp_path_factory.mktemp("runs"), "student.depth=3", "run.name=deep")
