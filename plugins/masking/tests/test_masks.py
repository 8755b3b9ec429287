"""What every mask is: disjoint, ascending, complete, of fixed size, and a function of seed, epoch and clip id."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt_masking import build_multiblock, build_random, build_tube
from salt_masking.config import MultiblockConfig, RandomConfig, TubeConfig

from salt_toolkit import GeometryError, Grid, MaskCounts
from salt_toolkit.contracts import Masker
from salt_toolkit.errors import PluginError
from salt_toolkit.masking import masks_for, some_targets
from salt_toolkit.seeding import generator_for

SMALL = Grid(4, 6, 6)
small_masks = partial(masks_for, num_tokens=SMALL.num_tokens)

BUILDERS = {RandomConfig: build_random, TubeConfig: build_tube, MultiblockConfig: build_multiblock}

shares = st.integers(1, 100).map(lambda hundredths: hundredths / 100)
ranges = st.tuples(shares, shares).map(lambda pair: (min(pair), max(pair)))
grids = st.builds(Grid, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
ratios = st.integers(1, 99).map(lambda hundredths: hundredths / 100)
configs = st.one_of(
    st.builds(RandomConfig, ratio=ratios),
    st.builds(TubeConfig, ratio=ratios),
    st.builds(
        MultiblockConfig,
        ratio=ratios,
        spatial_scale=ranges,
        temporal_scale=ranges,
        aspect=ranges.map(lambda pair: (pair[0] * 4, pair[1] * 4)),
        placement=st.sampled_from(["wrap", "inside"]),
        trim=st.sampled_from(["random", "first"]),
    ),
)


def build(config, grid: Grid) -> Masker:
    return BUILDERS[type(config)](config, grid=grid)


def possible(config, grid: Grid) -> bool:
    try:
        return config.counts(grid) is not None
    except GeometryError:
        return False


@settings(max_examples=300, suppress_health_check=[HealthCheck.filter_too_much])
@given(config=configs, grid=grids, key=st.integers(0, 1000))
def test_a_mask_splits_all_tokens_into_fixed_ascending_halves(config, grid, key):
    if not possible(config, grid):
        return
    masker = build(config, grid)
    visible, target = masker.draw(generator_for(key))
    assert MaskCounts(visible=visible.size, target=target.size) == masker.counts() == config.counts(grid)
    assert visible.dtype == target.dtype == np.int64
    assert np.all(np.diff(visible) > 0)
    assert np.all(np.diff(target) > 0)
    assert sorted([*visible, *target]) == list(range(grid.num_tokens))


@pytest.mark.parametrize("config", [RandomConfig(), TubeConfig(), MultiblockConfig()], ids=lambda config: type(config))
def test_a_scheduled_ratio_decides_the_counts(config):
    masker = build(config, Grid(8, 14, 14))
    visible, target = masker.draw(generator_for("scheduled"), 0.5)
    assert target.size == visible.size == 784


def test_tubes_are_equal_in_all_frames():
    masker = build(TubeConfig(), Grid(8, 14, 14))
    _, target = masker.draw(generator_for("tube"))
    frames = target.reshape(8, 176)
    assert np.array_equal(frames - 196 * np.arange(8)[:, None], np.broadcast_to(frames[0], frames.shape))


@pytest.mark.parametrize(("scale", "area"), [(0.15, 29), (0.7, 137)])
def test_blocks_have_vjepas_sizes(scale, area):
    # V-JEPA's published blocks: int(196 * 0.15) = 29 and int(196 * 0.7) = 137 positions, at every aspect.
    masker = build(MultiblockConfig(spatial_scale=(scale, scale)), Grid(8, 14, 14))
    sizes = {masker.block_size(generator_for(draw)) for draw in range(3000)}
    aspects = np.linspace(0.75, 1.5, 20000)
    rows, columns = np.rint(np.sqrt(area * aspects)), np.rint(np.sqrt(area / aspects))
    expected = {(8, min(int(row), 14), min(int(column), 14)) for row, column in zip(rows, columns, strict=True)}
    assert {(size.frames, size.rows, size.columns) for size in sizes} == expected


@pytest.mark.parametrize("trim", ["random", "first"])
@pytest.mark.parametrize("placement", ["wrap", "inside"])
def test_one_block_over_everything_is_trimmed_to_the_ratio(placement, trim):
    config = MultiblockConfig(ratio=0.5, spatial_scale=(1.0, 1.0), aspect=(1.0, 1.0), placement=placement, trim=trim)
    visible, target = build(config, SMALL).draw(generator_for("all"))
    assert visible.size == target.size == 72
    if trim == "first":
        assert np.array_equal(target, np.arange(72))
    else:
        # Whole tubes left: what is hidden is hidden in all four frames.
        assert np.all(np.bincount(target % 36, minlength=36) % 4 == 0)


def test_only_one_tube_is_ever_cut():
    # 0.74 of 144 tokens is 106, which is 26 tubes of 4 frames and 2 tokens.
    masker = build(MultiblockConfig(ratio=0.74), SMALL)
    for draw in range(100):
        _, target = masker.draw(generator_for(draw))
        hidden_frames = np.bincount(target % 36, minlength=36)
        assert sorted(hidden_frames[(hidden_frames > 0) & (hidden_frames < 4)]) == [2]


@settings(max_examples=30)
@given(
    clip_ids=st.lists(st.text(max_size=8), min_size=1, max_size=8, unique=True),
    order=st.randoms(use_true_random=False),
    config=st.sampled_from([RandomConfig(), TubeConfig(), MultiblockConfig()]),
)
def test_a_mask_never_depends_on_the_batch(clip_ids, order, config):
    masker = build(config, SMALL)
    alone = {clip_id: small_masks(masker, seed=7, epoch=3, clip_ids=[clip_id]) for clip_id in clip_ids}
    shuffled = list(clip_ids)
    order.shuffle(shuffled)
    together = small_masks(masker, seed=7, epoch=3, clip_ids=shuffled)
    assert together.visible.device.type == "cpu"
    assert together.visible.dtype == together.target.dtype == torch.int64
    for row, clip_id in enumerate(shuffled):
        assert torch.equal(together.visible[row], alone[clip_id].visible[0])
        assert torch.equal(together.target[row], alone[clip_id].target[0])


def test_seed_epoch_and_clip_id_each_change_the_mask():
    masker = build(MultiblockConfig(), SMALL)
    keys = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]
    masks = [small_masks(masker, seed=seed, epoch=epoch, clip_ids=[clip_id]) for seed, epoch, clip_id in keys]
    assert len({tuple(mask.target[0].tolist()) for mask in masks}) == 4


def test_the_number_of_a_mask_changes_it_and_the_first_is_the_usual_one():
    masker = build(MultiblockConfig(), SMALL)
    usual, *others = (small_masks(masker, seed=0, epoch=0, clip_ids=["a"], number=number) for number in range(4))
    assert torch.equal(usual.target, small_masks(masker, seed=0, epoch=0, clip_ids=["a"]).target)
    assert len({tuple(mask.target[0].tolist()) for mask in (usual, *others)}) == 4


def test_some_targets_hang_on_seed_epoch_clip_id_and_number():
    """Of the same hidden tokens, each key chooses others, as often as asked, and always the same."""
    mask = small_masks(build(RandomConfig(), SMALL), seed=0, epoch=0, clip_ids=["a"])
    keys = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    chosen = []
    for seed, epoch, clip_id, number in keys:
        key = {"seed": seed, "epoch": epoch, "clip_ids": [clip_id], "number": number}
        some = some_targets(mask, 30, **key)
        assert torch.equal(some.target, some_targets(mask, 30, **key).target)
        assert torch.equal(some.visible, mask.visible)
        assert some.target.dtype == torch.int64
        assert set(some.target[0].tolist()) < set(mask.target[0].tolist())
        assert bool((some.target.diff() > 0).all())
        chosen.append(tuple(some.target[0].tolist()))
    assert len(set(chosen)) == 5
    assert all(len(choice) == 30 for choice in chosen)


def test_an_empty_batch_has_empty_masks():
    mask = small_masks(build(RandomConfig(), SMALL), seed=0, epoch=0, clip_ids=[])
    assert mask.visible.shape == (0, 36)
    assert mask.target.shape == (0, 108)
    assert some_targets(mask, 5, seed=0, epoch=0, clip_ids=[]).target.shape == (0, 5)


@pytest.mark.parametrize(
    ("visible", "target", "message"),
    [
        ([0], [1, 2, 3], r"gave 1 visible and 3 target tokens for clip 'a'"),
        ([0, 1], [1, 2], "gave tokens that are visible and targets at once"),
        ([0, 0], [1, 2], "gave visible tokens that do not ascend, or one of them twice"),
        ([0, 1], [3, 2], "gave target tokens that do not ascend"),
        ([0, 1], [2, 4], "gave target tokens from 2 to 4 of a grid of 4"),
        ([-1, 0], [1, 2], "gave visible tokens from -1 to 0 of a grid of 4"),
        ([0.0, 1.0], [2, 3], "gave tokens as float64 and int64"),
    ],
)
@pytest.mark.parametrize("kind", [list, np.array])
def test_a_masker_that_breaks_its_promise_is_named(visible, target, message, kind):
    class Careless(Masker):
        def counts(self, ratio=None):
            return MaskCounts(visible=2, target=2)

        def draw(self, generator, ratio=None):
            return kind(visible), kind(target)

    with pytest.raises(PluginError, match=rf"Careless\.draw\(\) {message}"):
        masks_for(Careless(), num_tokens=4, seed=0, epoch=0, clip_ids=["a"])
