"""A view is a pure function of seed, view number and clip id, and always lies inside its video."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salt_toolkit.geometry import ClipSpec
from salt_toolkit.views import ClipTooShort, View, choose_view

clips = st.builds(
    ClipSpec,
    frames=st.integers(1, 20),
    stride=st.integers(1, 6),
    start=st.sampled_from(["random", "center"]),
    crop=st.sampled_from(["center", "random_resized"]),
    crop_scale=st.sampled_from([(0.3, 1.0), (0.08, 0.1), (1.0, 1.0)]),
    crop_aspect=st.sampled_from([(0.75, 1.35), (1.0, 1.0), (3.0, 4.0)]),
    flip=st.booleans(),
    short=st.just("repeat_last"),
)
sides = st.integers(1, 700)


def view_of(clip: ClipSpec, *, seed=0, view=0, clip_id="a", num_frames=100, height=240, width=427) -> View:
    return choose_view(clip, seed=seed, view=view, clip_id=clip_id, num_frames=num_frames, height=height, width=width)


@given(clips, st.integers(2, 200), sides, sides, st.integers(), st.integers(0, 50), st.text())
def test_a_view_lies_inside_its_video(clip, num_frames, height, width, seed, view, clip_id):
    chosen = view_of(clip, seed=seed, view=view, clip_id=clip_id, num_frames=num_frames, height=height, width=width)
    assert len(chosen.frames) == clip.frames
    assert 0 <= chosen.frames[0] <= chosen.frames[-1] < num_frames
    assert 0 <= chosen.top < chosen.top + chosen.height <= height
    assert 0 <= chosen.left < chosen.left + chosen.width <= width
    assert clip.flip or not chosen.flip


@given(clips, st.integers(2, 200))
def test_frames_ascend_by_the_stride_until_the_last_frame_repeats(clip, num_frames):
    frames = view_of(clip, num_frames=num_frames).frames
    if num_frames >= clip.span:
        assert all(later - earlier == clip.stride for earlier, later in pairwise(frames))
    else:
        assert frames == tuple(min(index * clip.stride, num_frames - 1) for index in range(clip.frames))


@given(clips, st.integers(), st.integers(0, 9), st.text(), st.integers(2, 200), sides, sides)
def test_the_same_inputs_give_the_same_view_whatever_was_drawn_before(
    clip, seed, view, clip_id, num_frames, height, width
):
    arguments = dict(seed=seed, view=view, clip_id=clip_id, num_frames=num_frames, height=height, width=width)
    first = choose_view(clip, **arguments)
    np.random.seed(1)
    np.random.random(10)
    view_of(clip, clip_id="another", view=3)
    assert choose_view(clip, **arguments) == first


def test_a_view_is_the_same_in_another_process():
    script = (
        "from salt_toolkit.geometry import ClipSpec\n"
        "from salt_toolkit.views import choose_view\n"
        "clip = ClipSpec(crop='random_resized', flip=True)\n"
        "print(choose_view(clip, seed=7, view=2, clip_id='x/y.mp4', num_frames=90, height=240, width=320))\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    clip = ClipSpec(crop="random_resized", flip=True)
    here = choose_view(clip, seed=7, view=2, clip_id="x/y.mp4", num_frames=90, height=240, width=320)
    assert shown.strip() == str(here)


def test_seeds_views_and_clips_differ_from_one_another():
    clip = ClipSpec(crop="random_resized", flip=True)
    chosen = [view_of(clip, seed=seed, num_frames=1000) for seed in range(20)]
    chosen += [view_of(clip, view=view, num_frames=1000) for view in range(1, 20)]
    chosen += [view_of(clip, clip_id=clip_id, num_frames=1000) for clip_id in "bcdefghijkl"]
    assert len(set(chosen)) == len(chosen)


def test_how_a_clip_is_cropped_or_flipped_does_not_move_it_in_time():
    plain = ClipSpec()
    cropped = ClipSpec(crop="random_resized", crop_aspect=(0.2, 5.0), flip=True)
    flipped = ClipSpec(flip=True)
    for view in range(50):
        assert view_of(plain, view=view).frames == view_of(cropped, view=view).frames
        assert view_of(flipped, view=view).flip == view_of(cropped, view=view).flip


def test_starts_are_uniform_over_all_places_where_the_clip_fits():
    clip = ClipSpec(frames=4, stride=2)
    starts = [view_of(clip, clip_id=str(index), num_frames=16).frames[0] for index in range(10_000)]
    counts = np.bincount(starts, minlength=10)
    assert len(counts) == 10  # 16 frames hold a clip of 7 at ten places
    # Chi-squared with 9 degrees of freedom exceeds 33.7 once in ten thousand trials.
    assert ((counts - 1000) ** 2 / 1000).sum() < 33.7


def test_half_of_the_views_are_flipped():
    flips = sum(view_of(ClipSpec(flip=True), view=view).flip for view in range(4000))
    assert abs(flips - 2000) < 4 * np.sqrt(4000) / 2


def test_the_middle_of_the_video_and_of_the_picture():
    clip = ClipSpec(frames=4, stride=2, start="center")
    assert view_of(clip, num_frames=17).frames == (5, 7, 9, 11)
    wide, tall = view_of(clip), view_of(clip, height=427, width=240)
    assert (wide.top, wide.left, wide.height, wide.width) == (0, 93, 240, 240)
    assert (tall.top, tall.left, tall.height, tall.width) == (93, 0, 240, 240)


def test_random_boxes_keep_the_asked_area_and_aspect():
    clip = ClipSpec(crop="random_resized", crop_scale=(0.3, 0.6), crop_aspect=(0.75, 1.35))
    boxes = [view_of(clip, view=view, height=1000, width=1000) for view in range(500)]
    shares = np.array([box.height * box.width / 1e6 for box in boxes])
    aspects = np.array([box.width / box.height for box in boxes])
    assert 0.298 < shares.min() < 0.32 and 0.58 < shares.max() < 0.602
    assert 0.745 < aspects.min() < 0.77 and 1.32 < aspects.max() < 1.36
    # Log-uniform: the median is the geometric, not the arithmetic mean of the ends.
    assert abs(np.median(np.log(aspects)) - (np.log(0.75) + np.log(1.35)) / 2) < 0.05
    assert min(box.top for box in boxes) < 30 and max(box.top + box.height for box in boxes) > 970


def test_a_picture_that_no_random_box_fits_gives_the_largest_allowed_centred_box():
    clip = ClipSpec(crop="random_resized", crop_scale=(0.9, 1.0), crop_aspect=(1.0, 1.0))
    box = view_of(clip, height=100, width=1000)
    assert (box.top, box.left, box.height, box.width) == (0, 450, 100, 100)


def test_a_short_video_is_refused_or_its_last_frame_repeats():
    clip = ClipSpec(frames=4, stride=3)
    assert view_of(clip, num_frames=10).frames == (0, 3, 6, 9)
    with pytest.raises(ClipTooShort, match=r"9 frames.*needs 10"):
        view_of(clip, num_frames=9)
    repeating = ClipSpec(frames=4, stride=3, short="repeat_last")
    assert view_of(repeating, num_frames=5).frames == (0, 3, 4, 4)


@pytest.mark.parametrize("num_frames", [0, 1])
def test_a_still_image_is_never_a_clip(num_frames):
    for clip in (ClipSpec(frames=1), ClipSpec(short="repeat_last")):
        with pytest.raises(ClipTooShort, match="still image"):
            view_of(clip, num_frames=num_frames)
