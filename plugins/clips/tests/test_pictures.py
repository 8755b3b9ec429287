"""The box of a view, resized: against Pillow, which computes the same filter by other code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from salt_toolkit.geometry import ClipSpec
from salt_toolkit.video.opening import open_video
from salt_toolkit.video.pictures import cut_out
from salt_toolkit.views import View, choose_view

BOXES = st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(1, 70), st.integers(1, 70), st.booleans())


def picture_and_view(noise: bytes, top: int, left: int, height: int, width: int, flip: bool) -> tuple[np.ndarray, View]:
    picture = np.resize(np.frombuffer(noise, np.uint8), (top + height + 5, left + width + 3, 3))
    return picture, View((0,), top, left, height, width, flip)


@settings(deadline=None)
@given(st.binary(min_size=97, max_size=97), BOXES, st.integers(1, 64))
def test_a_box_is_resized_as_pillow_does(noise, box, size):
    picture, view = picture_and_view(noise, *box)
    inside = picture[view.top : view.top + view.height, view.left : view.left + view.width]
    expected = np.asarray(Image.fromarray(inside).resize((size, size), Image.Resampling.BILINEAR))
    if view.flip:
        expected = expected[:, ::-1]
    # Rows, then columns, each rounded to whole numbers: either pass may round the other way.
    assert np.abs(cut_out(picture, view, size).astype(int) - expected).max() <= 2


@settings(deadline=None)
@given(st.binary(min_size=97, max_size=97), BOXES)
def test_what_lies_outside_the_box_never_matters(noise, box):
    picture, view = picture_and_view(noise, *box)
    changed = np.full_like(picture, 255)
    rows, columns = slice(view.top, view.top + view.height), slice(view.left, view.left + view.width)
    changed[rows, columns] = picture[rows, columns]
    np.testing.assert_array_equal(cut_out(picture, view, 16), cut_out(changed, view, 16))


def test_a_box_of_the_asked_size_is_not_touched():
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cut_out(picture, View((0,), 10, 20, 32, 32, False), 32), picture[10:42, 20:52])
    np.testing.assert_array_equal(cut_out(picture, View((0,), 10, 20, 32, 32, True), 32), picture[10:42, 51:19:-1])


@pytest.mark.parametrize("crop", ["center", "random_resized"])
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_decoded_view_shows_its_box(webm, crop, decoder):
    clip = ClipSpec(frames=4, size=48, crop=crop)
    with open_video(str(webm), decoder) as reader:
        view = choose_view(
            clip, seed=1, view=0, clip_id="a", num_frames=reader.num_frames, height=reader.height, width=reader.width
        )
        shown = reader.read(view, 48)
    with open_video(str(webm), decoder) as reader:
        # The largest square boxes, left and right, are whole pictures when put side by side.
        side = reader.height
        left = reader.read(View(view.frames, 0, 0, side, side, False), side)
        right = reader.read(View(view.frames, 0, reader.width - side, side, side, False), side)
    whole = np.concatenate([left[:, :, : reader.width - side], right], axis=2)
    for picture, frame in zip(whole, shown, strict=True):
        box = picture[view.top : view.top + view.height, view.left : view.left + view.width]
        expected = np.asarray(Image.fromarray(box).resize((48, 48), Image.Resampling.BILINEAR))
        assert np.abs(frame.astype(int) - expected).max() <= 1
