"""Teachers on other grids: whatever is linear in space and time stays so, whatever fits stays untouched."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.teaching.alignment import AlignedTeacher, GridAlignment, fit_clip, resampling_matrix

sides = st.integers(1, 24)
grids = st.builds(Grid, st.integers(1, 9), st.integers(1, 16), st.integers(1, 16))
slopes = st.tuples(*[st.floats(-4, 4)] * 4)


def centres(cells: int) -> np.ndarray:
    """Where cells lie on a row of length 1."""
    return (np.arange(cells) + 0.5) / cells


def linear_field(grid: Grid, slopes: tuple[float, ...], alone: tuple[bool, ...] = (False,) * 3) -> torch.Tensor:
    """A value for each token: a constant, and a slope along each axis; an axis that was one cell long has none."""
    places = np.meshgrid(*(centres(n) for n in (grid.frames, grid.rows, grid.columns)), indexing="ij")
    field = np.full(places[0].shape, slopes[3])
    for place, slope, was_alone in zip(places, slopes, alone, strict=False):
        field = field + slope * (0.5 if was_alone else place)
    return torch.tensor(field).flatten()


@given(grids, grids, slopes)
@settings(max_examples=100, deadline=None)
def test_a_linear_ramp_stays_that_ramp_between_any_two_grids(source, target, slopes):
    """Over frames, rows, columns and all their combinations; a single cell holds the ramp's middle."""
    alone = tuple(getattr(source, axis) == 1 for axis in ("frames", "rows", "columns"))
    latents = torch.stack([linear_field(source, slopes), linear_field(source, (0, 0, 0, slopes[3]))], dim=-1)[None]
    found = GridAlignment(source, target)(latents.float())
    expected = torch.stack([linear_field(target, slopes, alone), torch.full((target.num_tokens,), slopes[3])], dim=-1)
    torch.testing.assert_close(found[0].double(), expected.double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_own_ramp(axis):
    """As known numbers: the published VideoMAE's 8 x 14 x 14 to V-JEPA's 16 x 16 x 16."""
    source, target = Grid(8, 14, 14), Grid(16, 16, 16)
    slope = [0.0, 0.0, 0.0]
    slope[axis] = 1.0
    found = GridAlignment(source, target)(linear_field(source, (*slope, 0.0)).float()[None, :, None])
    ramp = found.reshape(16, 16, 16).movedim(axis, 0)
    assert torch.allclose(ramp, torch.tensor(centres(16)).float().view(-1, 1, 1).expand(16, 16, 16), atol=1e-5)


@given(sides, sides)
@settings(max_examples=100, deadline=None)
def test_weights_sum_to_one_and_keep_their_place(source, target):
    matrix = resampling_matrix(source, target).numpy()
    assert matrix.shape == (target, source)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix @ centres(source), centres(target) if source > 1 else 0.5, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)  # no end is preferred


@given(st.integers(1, 12), st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_integer_ratios_are_plain_means(target, ratio):
    expected = np.kron(np.eye(target), np.full(ratio, 1 / ratio))
    np.testing.assert_allclose(resampling_matrix(target * ratio, target).numpy(), expected, atol=1e-15)


def test_known_weights():
    assert resampling_matrix(4, 4).equal(torch.eye(4, dtype=torch.float64))
    assert resampling_matrix(1, 3).equal(torch.ones(3, 1, dtype=torch.float64))
    # Halves between neighbours' centres, and the line through them beyond the last ones.
    quarters = [[5, -1], [3, 1], [1, 3], [-1, 5]]
    np.testing.assert_allclose(resampling_matrix(2, 4), np.array(quarters) / 4, atol=1e-15)
    # Each of two covers one of three cells and half of the next: 2 to 1 would lie a twelfth too far inside.
    np.testing.assert_allclose(resampling_matrix(3, 2), [[3 / 4, 1 / 4, 0], [0, 1 / 4, 3 / 4]], atol=1e-15)


@given(st.integers(2, 24), st.integers(1, 24))
@settings(max_examples=50, deadline=None)
def test_nothing_is_skipped(source, target):
    """Where cells become fewer, each counts towards some of them."""
    if target < source:
        assert (resampling_matrix(source, target).abs().sum(0) > 0).all()


@given(grids, st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_the_same_grid_is_the_identity_bit_for_bit(grid, seed):
    latents = torch.randn(2, grid.num_tokens, 3, generator=torch.Generator().manual_seed(seed))
    latents[0, 0, 0] = torch.inf  # which a product with zeros would spread
    assert torch.equal(GridAlignment(grid, grid)(latents), latents)


def test_an_axis_that_fits_is_left_alone():
    """Four frames to two are means of pairs, and every place keeps its own numbers."""
    latents = torch.randn(2, 4 * 3 * 5, 7)
    found = GridAlignment(Grid(4, 3, 5), Grid(2, 3, 5))(latents)
    expected = latents.reshape(2, 2, 2, 15, 7).mean(2).reshape(2, 30, 7)
    torch.testing.assert_close(found, expected)


class Ramp(Teacher):
    """Its latents are their own places: frame, row, column, each from 0 to 1."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.token_spec = TokenSpec(grid, 3)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: ClipBatch) -> torch.Tensor:
        axes = torch.eye(3).tolist()
        field = torch.stack([linear_field(self.token_spec.grid, (*axis, 0.0)) for axis in axes], dim=-1)
        return self.weight * field.float().expand(len(batch.clip_ids), -1, -1)


BATCH = ClipBatch(("a", "b"), {"clip": torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8)})


@pytest.mark.parametrize("autocast", [False, True])
def test_an_aligned_teacher_has_the_students_grid_in_single_precision(autocast):
    source, target = Grid(8, 16, 16), Grid(4, 14, 14)
    teacher = AlignedTeacher(Ramp(source), target)
    assert teacher.token_spec == TokenSpec(target, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        latents = teacher(BATCH)
    assert latents.dtype == torch.float32
    assert not latents.requires_grad
    torch.testing.assert_close(latents, Ramp(target)(BATCH).detach(), rtol=0, atol=1e-6)


def test_the_alignment_leaves_nothing_in_a_state_dict():
    assert list(AlignedTeacher(Ramp(Grid(2, 2, 2)), Grid(4, 4, 4)).state_dict()) == ["teacher.weight"]


frames = st.integers(1, 20)


@given(frames, frames)
@settings(max_examples=100, deadline=None)
def test_frames_are_picked_evenly_from_the_middle_of_their_share(found, wanted):
    clip = torch.arange(found, dtype=torch.uint8).view(1, 1, -1, 1, 1).expand(2, 3, -1, 4, 4)
    fitted = fit_clip(clip, frames=wanted, size=4)
    assert fitted.shape == (2, 3, wanted, 4, 4)
    picked = fitted[1, 2, :, 3, 0].tolist()
    # The middle of the share in exact numbers; the frame that is on show at that time.
    assert picked == [int(Fraction(2 * index + 1, 2 * wanted) * found) for index in range(wanted)]
    assert picked == sorted(picked)
    if found % wanted == 0:
        steps = {later - earlier for earlier, later in pairwise(picked)}
        assert steps <= {found // wanted}


def test_known_frames():
    def picked(found, wanted):
        clip = torch.arange(found, dtype=torch.uint8).view(1, 1, -1, 1, 1)
        return fit_clip(clip, frames=wanted, size=1).flatten().tolist()

    assert picked(16, 8) == [1, 3, 5, 7, 9, 11, 13, 15]
    assert picked(8, 16) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    assert picked(16, 1) == [8]
    assert picked(4, 6) == [0, 1, 1, 2, 3, 3]
    assert picked(3, 2) == [0, 2]


def test_a_clip_that_fits_is_not_touched():
    clip = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    assert fit_clip(clip, frames=4, size=8) is clip


@given(st.integers(0, 255), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_plain_picture_stays_plain(value, found, wanted):
    clip = torch.full((1, 3, 2, found, found), value, dtype=torch.uint8)
    fitted = fit_clip(clip, frames=3, size=wanted)
    assert fitted.shape == (1, 3, 3, wanted, wanted)
    assert fitted.dtype == torch.uint8
    assert (fitted == value).all()


@pytest.mark.parametrize(("found", "wanted"), [(64, 32), (32, 64), (64, 48), (40, 56)])
def test_a_picture_that_brightens_evenly_keeps_its_slope(found, wanted):
    """Inside; at the borders there is nothing to look at beyond."""
    columns = torch.tensor(centres(found) * 240).round().to(torch.uint8)
    clip = columns.expand(1, 3, 1, found, found).clone()
    fitted = fit_clip(clip, frames=1, size=wanted)[0, 0, 0]
    border = 3 * wanted // found + 2
    expected = torch.tensor(centres(wanted) * 240).expand(wanted, wanted)
    inside = slice(border, -border)
    assert ((fitted - expected).abs()[:, inside] <= 1.5).all()
    turned = fit_clip(clip.transpose(-1, -2), frames=1, size=wanted)[0, 0, 0]
    assert ((turned.int() - fitted.T.int()).abs() <= 1).all()  # rows and columns are treated alike, up to rounding


def test_shrinking_is_antialiased_and_extremes_do_not_wrap():
    """Fine stripes become grey, wherever they lie; and 255 never becomes 0."""
    stripes = (torch.arange(64) % 4 == 0) * 255
    shrunk = fit_clip(stripes.to(torch.uint8).expand(1, 3, 1, 64, 64), frames=1, size=16).float()
    assert ((shrunk - 255 / 4).abs()[..., 1:-1] < 8).all()
    edges = torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8)
    edges[..., 4:] = 255
    grown = fit_clip(edges, frames=1, size=33)[0, 0, 0, 0].int()
    assert (grown.diff() >= 0).all()
    assert (grown.min(), grown.max()) == (0, 255)
