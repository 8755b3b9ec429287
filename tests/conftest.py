"""Shared fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from salt_toolkit.recipe import Recipe, load_recipe
from salt_toolkit.registry import Registry, discover

ROOT = Path(__file__).parents[1]

SMALL_RECIPE = """
[run]
name = "small"
[clip]
frames = 4
stride = 1
size = 16
[dataset]
use = "toy_squares"
clips = 40
[teacher]
use = "toy_projection"
patch = 8
dim = 24
[student]
use = "timm_vit"
model = "vit_tiny_patch16_224"
dim = 24
depth = 2
heads = 3
patch = 8
[predictor]
use = "transformer"
dim = 24
depth = 1
heads = 2
[masker]
use = "random"
ratio = 0.5
[objective]
use = "mse"
target_norm = "channel"
calibration_clips = 8
[schedules.lr]
use = "constant"
value = 1e-3
[train]
max_steps = 60
batch_size = 4
precision = "fp32"
[loader]
workers = 2
max_bad_fraction = 0.5
"""


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


@pytest.fixture(scope="session")
def write_video() -> Callable[..., None]:
    """Writes a small video: a bar that moves down over a ground of one shade of grey."""

    def write(path: Path, shade: int, *, frames: int = 6) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=12)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for number in range(frames):
                picture = np.full((32, 32, 3), shade, np.uint8)
                picture[4 * number : 4 * number + 8, 8:24] = 255 - shade
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(stream.encode())

    return write


@pytest.fixture
def small_recipe(tmp_path: Path, registry: Registry) -> Callable[..., Recipe]:
    """Loads a recipe that trains in seconds, with overrides; its file is ``recipe.toml``, its runs lie in ``runs``."""

    def load(*overrides: str) -> Recipe:
        path = tmp_path / "recipe.toml"
        path.write_text(SMALL_RECIPE)
        return load_recipe(path, registry, [f"run.dir={tmp_path / 'runs'}", *overrides])

    return load
