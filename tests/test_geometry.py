"""Clips, grids and shares: integers that must be right for every input."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import ClipSpec, Grid, share_of


def test_the_published_grid():
    grid = Grid.of(ClipSpec(), tubelet=2, patch=16)
    assert (grid.frames, grid.rows, grid.columns) == (8, 14, 14)
    assert grid.num_tokens == 1568
    assert grid.tokens_per_frame == 196


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.integers(1, 32))
def test_a_grid_tiles_its_clip_exactly_or_is_refused(frames, size, tubelet, patch):
    clip = ClipSpec(frames=frames, size=size)
    if frames % tubelet or size % patch:
        with pytest.raises(GeometryError, match="not a multiple"):
            Grid.of(clip, tubelet=tubelet, patch=patch)
    else:
        grid = Grid.of(clip, tubelet=tubelet, patch=patch)
        assert grid.num_tokens * tubelet * patch**2 == frames * size**2


def test_a_misfit_names_the_sizes_that_would_fit():
    with pytest.raises(GeometryError, match=r"clip.size = 225 .* patch of 16 pixels; choose 224 or 240"):
        Grid.of(ClipSpec(size=225), tubelet=2, patch=16)


@given(st.decimals(0, 1, places=4), st.integers(1, 5000))
def test_a_share_is_exact_for_the_decimal_as_written(ratio, total):
    share = share_of(float(ratio), total)
    assert share <= Fraction(ratio) * total < share + 1


def test_a_share_does_not_lose_a_token_to_binary_fractions():
    assert 0.29 * 100 < 29
    assert share_of(0.29, 100) == 29


def test_the_span_counts_both_ends():
    assert ClipSpec(frames=16, stride=2).span == 31
    assert ClipSpec(frames=1, stride=7).span == 1


def test_evaluation_leaves_nothing_to_chance():
    clip = ClipSpec(crop="random_resized", flip=True, views=5, frames=8).for_evaluation()
    assert (clip.start, clip.crop, clip.flip, clip.views, clip.frames) == ("center", "center", False, 1, 8)


@pytest.mark.parametrize("field", ["crop_scale", "crop_aspect"])
def test_ranges_must_ascend(field):
    with pytest.raises(ValidationError, match="ascending"):
        ClipSpec(**{field: (0.9, 0.5)})
