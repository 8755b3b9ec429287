"""Pictures: they are written, and hide just what the mask hides."""

from __future__ import annotations

import json

import numpy as np
from matplotlib.image import imread

from salt_toolkit.geometry import Grid
from salt_toolkit.report.pictures import draw_curves, draw_masks, grey_out


def test_hidden_tokens_are_grey_and_visible_ones_untouched():
    clip = np.arange(4 * 8 * 8 * 3, dtype=np.uint32).astype(np.uint8).reshape(4, 8, 8, 3)
    grid = Grid(2, 2, 2)
    shown = grey_out(clip, grid, [5])  # token frame 1, row 0, column 1
    expected = np.full_like(clip, 128)
    expected[2:4, 0:4, 4:8] = clip[2:4, 0:4, 4:8]
    np.testing.assert_array_equal(shown, expected)


def test_pictures_are_written(tmp_path):
    clip = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    draw_masks(clip, Grid(2, 2, 2), {"random": [0, 3], "tube": [1, 5]}, tmp_path / "masks.png")
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps({"step": step, "loss": 1 / step, "lr": 0.1}) + "\n" for step in (1, 2, 3)))
    draw_curves({"a run": metrics}, tmp_path / "curves.png")
    for name in ("masks.png", "curves.png"):
        picture = imread(tmp_path / name)
        assert min(picture.shape[:2]) > 100
        assert picture.std() > 0
