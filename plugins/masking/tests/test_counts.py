"""How many tokens are hidden follows from ratio and grid alone, rounded down."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from salt_masking.config import MultiblockConfig, RandomConfig, TubeConfig

from salt_toolkit import GeometryError, Grid, MaskCounts

VITB = Grid(8, 14, 14)

grids = st.builds(Grid, st.integers(1, 8), st.integers(1, 16), st.integers(1, 16))
ratios = st.integers(1, 999).map(lambda thousandths: thousandths / 1000)


def floor_of(ratio: float, total: int) -> int:
    return int((Decimal(repr(ratio)) * total).to_integral_value(ROUND_FLOOR))


@pytest.mark.parametrize("config_class", [RandomConfig, MultiblockConfig])
@given(grid=grids, ratio=ratios)
def test_tokens_are_rounded_down(config_class, grid, ratio):
    hidden = floor_of(ratio, grid.num_tokens)
    config = config_class(ratio=ratio)
    if hidden == 0:
        with pytest.raises(GeometryError):
            config.counts(grid)
    else:
        assert config.counts(grid) == MaskCounts(visible=grid.num_tokens - hidden, target=hidden)


@given(grid=grids, ratio=ratios)
def test_tubes_are_rounded_down_within_a_frame(grid, ratio):
    hidden = floor_of(ratio, grid.rows * grid.columns)
    if hidden == 0:
        with pytest.raises(GeometryError):
            TubeConfig(ratio=ratio).counts(grid)
    else:
        counts = TubeConfig(ratio=ratio).counts(grid)
        assert counts.target == hidden * grid.frames
        assert counts.visible == grid.num_tokens - counts.target


def test_published_counts():
    assert TubeConfig(ratio=0.9).counts(VITB) == MaskCounts(visible=160, target=1408)  # VideoMAE
    assert MultiblockConfig(ratio=0.75).counts(VITB) == MaskCounts(visible=392, target=1176)
    assert RandomConfig(ratio=0.9).counts(VITB) == MaskCounts(visible=157, target=1411)


def test_a_written_decimal_loses_no_token():
    # In binary floating point 0.29 * 100 is 28.999999999999996.
    assert RandomConfig(ratio=0.29).counts(Grid(1, 10, 10)).target == 29


def test_a_scheduled_ratio_takes_the_place_of_the_config():
    assert RandomConfig(ratio=0.5).counts(VITB, 0.75).target == 1176
    assert TubeConfig(ratio=0.5).counts(VITB, 0.75).target == 147 * 8


@pytest.mark.parametrize(
    ("ratio", "found"),
    [(0.1, "hides none"), (1.0, "hides all"), (-0.5, "is not a share"), (float("nan"), "is not a share")],
)
def test_an_impossible_ratio_says_which_would_do(ratio, found):
    grid = Grid(2, 2, 2)
    with pytest.raises(GeometryError, match=rf"{found} of the 8 tokens .*from 0\.125 to below 1"):
        RandomConfig().counts(grid, ratio)
    assert RandomConfig(ratio=0.125).counts(grid).target == 1


@given(total=st.integers(2, 3000))
def test_the_least_ratio_in_the_message_is_right(total):
    with pytest.raises(GeometryError) as caught:
        RandomConfig().counts(Grid(1, 1, total), 0.0)
    least = float(str(caught.value).split("from ")[1].split(" to")[0])
    assert RandomConfig(ratio=least).counts(Grid(1, 1, total)).target >= 1


def test_one_token_cannot_be_split():
    with pytest.raises(GeometryError, match="choose a larger clip"):
        RandomConfig().counts(Grid(1, 1, 1))
    with pytest.raises(GeometryError, match="choose a larger clip"):
        TubeConfig().counts(Grid(8, 1, 1))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"spatial_scale": (0.5, 0.2)}, "spatial_scale must be two ascending shares"),
        ({"temporal_scale": (0.5, 1.2)}, "temporal_scale must be two ascending shares"),
        ({"spatial_scale": (0.0, 0.2)}, "spatial_scale must be two ascending shares"),
        ({"aspect": (1.5, 0.75)}, "aspect must be two ascending positive ratios"),
        ({"ratio": 1.0}, "less than 1"),
        ({"num_blocks": 8}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused_with_a_sentence(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        MultiblockConfig(**settings)
