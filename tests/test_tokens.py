"""Cutting clips, positions, picking tokens: against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import ClipSpec, Grid
from salt_toolkit.tokens import cut_tubelets, gather_tokens, sincos_positions

sizes = st.integers(1, 3)


@settings(deadline=None)
@given(sizes, sizes, sizes, sizes)
def test_tokens_are_cut_in_the_grids_order(frames, side, tubelet, patch):
    clip = ClipSpec(frames=frames * tubelet, size=side * patch)
    grid = Grid.of(clip, tubelet=tubelet, patch=patch)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, clip.frames, clip.size, clip.size), dtype=np.uint8)
    cut = cut_tubelets(torch.from_numpy(pixels), tubelet=tubelet, patch=patch).numpy()
    assert cut.shape == (2, grid.num_tokens, 3, tubelet, patch, patch)
    for frame, row, column in np.ndindex(grid.frames, grid.rows, grid.columns):
        number = (frame * grid.rows + row) * grid.columns + column
        expected = pixels[
            :,
            :,
            frame * tubelet : (frame + 1) * tubelet,
            row * patch : (row + 1) * patch,
            column * patch : (column + 1) * patch,
        ]
        np.testing.assert_array_equal(cut[:, number], expected)


def test_tokens_are_picked_in_the_order_given():
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert gather_tokens(tokens, index).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


@settings(deadline=None)
@given(st.builds(Grid, sizes, sizes, sizes), st.integers(9, 70))
def test_every_token_has_a_position_of_its_own(grid, dim):
    positions = sincos_positions(grid, dim)
    assert positions.shape == (grid.num_tokens, dim)
    assert len(torch.unique(positions, dim=0)) == grid.num_tokens
    # The first third depends on the frame alone.
    share = 2 * -(-dim // 6)
    by_frame = positions[:, :share].reshape(grid.frames, -1, share)
    assert torch.equal(by_frame, by_frame[:, :1].expand_as(by_frame))


@pytest.mark.parametrize("dim", [1, 4, 8])
def test_widths_that_leave_columns_without_a_position_are_refused(dim):
    with pytest.raises(GeometryError, match="choose 9 or more"):
        sincos_positions(Grid(2, 2, 2), dim)
