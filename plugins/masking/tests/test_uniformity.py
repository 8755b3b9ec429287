"""No token is favoured: over many draws every position is hidden equally often.

The draws are independent, so a position's hidden count over them is binomial with a known rate,
however strongly the positions of one mask hang together. Bonferroni's bound over the positions needs
no independence between positions. The seeds are fixed: a test either always passes or never.
"""

from __future__ import annotations

import numpy as np
import pytest
from salt_masking import build_multiblock, build_random, build_tube
from salt_masking.config import MultiblockConfig, RandomConfig, TubeConfig
from scipy import stats

from salt_toolkit import Grid
from salt_toolkit.contracts import Masker
from salt_toolkit.seeding import generator_for

SMALL = Grid(4, 6, 6)
VITB = Grid(8, 14, 14)
P_VALUE = 1e-3


def draws_of(masker: Masker, grid: Grid, num_draws: int) -> np.ndarray:
    """Hidden tokens of many masks, as booleans of shape (draws, frames, rows, columns)."""
    hidden = np.zeros((num_draws, grid.num_tokens), dtype=bool)
    for draw in range(num_draws):
        hidden[draw, masker.draw(generator_for("uniformity", draw))[1]] = True
    return hidden.reshape(num_draws, grid.frames, grid.rows, grid.columns)


def every_position_is_equally_often_hidden(hidden: np.ndarray) -> bool:
    num_draws, rate = len(hidden), hidden.mean()
    counts = hidden.sum(axis=0)
    deviation = np.abs(counts - num_draws * rate).max() / np.sqrt(num_draws * rate * (1 - rate))
    return bool(deviation < stats.norm.isf(P_VALUE / 2 / counts.size))


def every_frame_is_equally_often_hidden(hidden: np.ndarray) -> bool:
    """A t-test for each frame, with the variance between draws as measured."""
    per_frame = hidden.mean(axis=(2, 3)) - hidden.mean(axis=(1, 2, 3))[:, None]
    error = per_frame.std(axis=0, ddof=1) / np.sqrt(len(hidden))
    return bool(np.all(np.abs(per_frame.mean(axis=0)) <= error * stats.norm.isf(P_VALUE / 2 / per_frame.shape[1])))


@pytest.mark.parametrize(
    "masker",
    [
        build_random(RandomConfig(), grid=SMALL),
        build_tube(TubeConfig(), grid=SMALL),
        build_multiblock(MultiblockConfig(), grid=SMALL),
        # Tubes cut in the middle, blocks shorter than the clip, blocks as large as the grid.
        build_multiblock(MultiblockConfig(ratio=0.74), grid=SMALL),
        build_multiblock(MultiblockConfig(ratio=0.61, temporal_scale=(0.3, 0.8)), grid=SMALL),
        build_multiblock(MultiblockConfig(ratio=0.35, spatial_scale=(0.5, 1.0)), grid=SMALL),
    ],
    ids=["random", "tube", "multiblock", "cut tubes", "short blocks", "large blocks"],
)
def test_every_position_is_hidden_equally_often(masker):
    hidden = draws_of(masker, SMALL, 5000)
    assert every_position_is_equally_often_hidden(hidden)
    assert every_frame_is_equally_often_hidden(hidden)


@pytest.mark.parametrize(
    "masker",
    [
        build_random(RandomConfig(), grid=VITB),
        build_tube(TubeConfig(), grid=VITB),
        build_multiblock(MultiblockConfig(), grid=VITB),
        build_multiblock(MultiblockConfig(ratio=0.9), grid=VITB),
    ],
    ids=["random", "tube", "multiblock 0.75", "multiblock 0.9"],
)
def test_every_position_of_a_vits_grid_is_hidden_equally_often(masker):
    assert every_position_is_equally_often_hidden(draws_of(masker, VITB, 1500))


@pytest.mark.parametrize("ratio", [0.74, 0.75, 0.9])
def test_blocks_inside_the_grid_favour_no_frame(ratio):
    masker = build_multiblock(MultiblockConfig(ratio=ratio, placement="inside"), grid=SMALL)
    assert every_frame_is_equally_often_hidden(draws_of(masker, SMALL, 3000))


def test_blocks_inside_the_grid_favour_the_centre():
    """Documented, and what the default avoids; it also shows that the test above can fail."""
    masker = build_multiblock(MultiblockConfig(placement="inside"), grid=VITB)
    hidden = draws_of(masker, VITB, 500)
    assert not every_position_is_equally_often_hidden(hidden)
    assert hidden[:, :, 6:8, 6:8].mean() > 1.5 * hidden[:, :, 0, 0].mean()


@pytest.mark.parametrize("grid", [SMALL, VITB], ids=str)
def test_trim_first_favours_the_first_frames(grid):
    """Documented: the price of giving back the latest tokens."""
    masker = build_multiblock(MultiblockConfig(trim="first"), grid=grid)
    hidden = draws_of(masker, grid, 500)
    assert not every_position_is_equally_often_hidden(hidden)
    assert not every_frame_is_equally_often_hidden(hidden)
    assert hidden[:, 0].mean() > hidden[:, -1].mean()
