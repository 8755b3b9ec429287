"""No network, and the helper modules of these tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# pytest's importlib mode puts no test folder on the path; the names of helpers and tools are unique for that.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tools")]


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """A hub's cache of the test's own, and no connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Gives a file of weights in timm's layout for a model's full name; each is written once."""
    from image_oracles import write_weights

    folder, files = tmp_path_factory.mktemp("published"), {}

    def file_of(name):
        if name not in files:
            files[name] = write_weights(name, folder / f"{name}.safetensors")
        return files[name]

    return file_of
