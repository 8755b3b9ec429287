"""No network, and the helper modules of these tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest's importlib mode puts no test folder on the path; the helpers' names are unique for that.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory, monkeypatch):
    """A hub's cache of the test's own, and no connection."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder
