"""Which frames and which part of the picture a clip shows: a pure function of seed, view and clip id."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from salt_toolkit.errors import SaltError
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.seeding import generator_for

_CROP_DRAWS = 10


class ClipTooShort(SaltError):
    """A video with too few frames for the requested clip; datasets turn it into a `BadClip`."""


@dataclass(frozen=True)
class View:
    """The frames of a video, and the box of its pictures, that one clip shows.

    Attributes:
        frames: Indices into the video's frames, ascending; the last may repeat.
        top: First row of the box, in source pixels.
        left: First column of the box, in source pixels.
        height: Rows of the box.
        width: Columns of the box.
        flip: Whether the clip is mirrored left to right.
    """

    frames: tuple[int, ...]
    top: int
    left: int
    height: int
    width: int
    flip: bool


def choose_view(
    clip: ClipSpec, *, seed: int, view: int, clip_id: str, num_frames: int, height: int, width: int
) -> View:
    """Chooses frames and box for one view of one video.

    Args:
        clip: How videos become clips.
        seed: The run's seed.
        view: Number of the view, from 0.
        clip_id: The video's id within its dataset.
        num_frames: Frames in the video.
        height: Rows of its pictures, in pixels.
        width: Columns of its pictures, in pixels.

    Returns:
        The same view for the same arguments, on every machine. Where a clip starts does not depend
        on how it is cropped, so two recipes that differ in the crop show the same moments.

    Raises:
        ClipTooShort: The video is a still image, or shorter than the clip where ``clip.short`` is "skip".
    """
    generator = generator_for(seed, "view", view, clip_id)
    # Make every draw whether it is used or not, and the box (a varying number of draws) last, so that
    # changing one setting does not change the others' draws.
    start_draw, flip_draw = generator.random(), generator.random()
    frames = _choose_frames(clip, num_frames, start_draw)
    if clip.crop == "center":
        box = _center_box(height, width, min(height, width), min(height, width))
    else:
        box = _random_resized_box(clip, generator, height, width)
    return View(frames, *box, flip=clip.flip and flip_draw < 0.5)


def _choose_frames(clip: ClipSpec, num_frames: int, draw: float) -> tuple[int, ...]:
    if num_frames < 2:
        raise ClipTooShort(f"it has {num_frames} frame{'s' * (num_frames != 1)}; a still image is not a clip")
    spare = num_frames - clip.span
    if spare < 0 and clip.short == "skip":
        raise ClipTooShort(
            f"it has {num_frames} frames, and a clip of {clip.frames} frames at stride {clip.stride} needs {clip.span}"
        )
    if spare <= 0:
        start = 0
    elif clip.start == "center":
        start = spare // 2
    else:
        start = int(draw * (spare + 1))
    return tuple(min(start + index * clip.stride, num_frames - 1) for index in range(clip.frames))


def _center_box(height: int, width: int, box_height: int, box_width: int) -> tuple[int, int, int, int]:
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _random_resized_box(
    clip: ClipSpec, generator: np.random.Generator, height: int, width: int
) -> tuple[int, int, int, int]:
    """A box of random area and aspect, as torchvision's RandomResizedCrop draws it."""
    low, high = (math.log(aspect) for aspect in clip.crop_aspect)
    for _ in range(_CROP_DRAWS):
        area = height * width * generator.uniform(*clip.crop_scale)
        aspect = math.exp(generator.uniform(low, high))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return top, left, box_height, box_width
    # No drawn box fits a picture this wide or tall: use the largest centred box of an allowed aspect.
    aspect = min(max(width / height, clip.crop_aspect[0]), clip.crop_aspect[1])
    box_height, box_width = min(height, round(width / aspect)), min(width, round(height * aspect))
    return _center_box(height, width, max(box_height, 1), max(box_width, 1))
