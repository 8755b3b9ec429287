"""Videos of moving digits, labelled by how they move: what no single frame gives away."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8
from sklearn.datasets import load_digits

from salt_toolkit.seeding import generator_for

DIRECTIONS = {"right": (0, 1), "up": (-1, 0), "left": (0, -1), "down": (1, 0)}
"""Rows and columns in which a digit crosses the picture."""

SPEEDS = {"slow": (1.0, 1.6), "fast": (2.4, 3.2)}
"""Least and largest speed of a digit that crosses the picture, in pixels a frame."""

LABELS = (
    *(f"{direction}_{speed}" for direction in DIRECTIONS for speed in SPEEDS),
    *("approach", "recede", "appear", "vanish", "collide", "pass"),
)
"""A digit crosses the picture, grows, shrinks, fades in, or fades out; two digits rebound, or pass each other."""

SIZE = 32
"""Height and width of a video, in pixels."""

NUM_FRAMES = 8
"""Frames of a video."""

FRAME_RATE = 8

DIGIT_SIZE = 8
"""Height and width of scikit-learn's digits, in their own pixels."""

MAGNIFICATION = (2.4, 3.2)
"""Least and largest size of a digit's pixel, in a video's pixels."""

GROWTH = 1.6
"""How many times larger an approaching digit is in the last frame than in the first; in between, as steadily."""

FADE = 3
"""Frames in which a digit appears or vanishes; they lie anywhere in the video."""

PAIR_MAGNIFICATION = (1.3, 1.7)
"""As `MAGNIFICATION`, of two digits that meet."""

PAIR_SPEED = (1.5, 2.5)
"""Least and largest speed of each of two digits that meet, in pixels a frame."""

MEETING = (2.5, 4.5)
"""Earliest and latest time at which two digits meet, in frames."""

BACKGROUND = (0.35, 0.65)
"""Range of each of a background's colour channels, where 1 is full."""

LEAST_CONTRAST = 1.0
"""Least distance of the digit's colour from the background's: sum over three channels, where 1 is full."""

TRAIN_SHARE = 2 / 3
"""Share of the 1797 digits that only training videos show; the others are for validation."""

ENCODER = {"crf": "8", "preset": "fast", "g": str(NUM_FRAMES), "bf": "0", "threads": "1"}
"""Settings of libx264: little loss, and the same bytes from every run on one machine."""


def write_motion_videos(
    directory: Path,
    *,
    num_train: int,
    num_validation: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes ``directory/{train,validation}/<label>/<label>_<number>.mp4``, h264.

    The two splits show different digits. Every video depends on nothing but the seed, its split and
    its number; labels take turns. A video that is there already stays as it is, so a call that was
    interrupted goes on where it stopped.

    Args:
        directory: Gets the two splits; made if missing.
        num_train: Videos to train on.
        num_validation: Held-out videos.
        seed: Of everything that is drawn.
        progress: Called after each video with the number of videos done and of all.

    Returns:
        How many videos this call wrote.
    """
    jobs = [(split, n) for split, count in (("train", num_train), ("validation", num_validation)) for n in range(count)]
    written = 0
    for done, (split, number) in enumerate(jobs, start=1):
        label = number % len(LABELS)
        path = directory / split / LABELS[label] / f"{LABELS[label]}_{number:05d}.mp4"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_video(path, draw_motion(generator_for(seed, "demo", split, number), label=label, split=split))
            written += 1
        if progress is not None:
            progress(done, len(jobs))
    return written


@dataclass(frozen=True)
class _Part:
    """What one digit does, frame by frame."""

    path: Float[np.ndarray, "frames 2"]
    """Row and column of its centre, in pixels."""

    magnification: Float[np.ndarray, " frames"]
    strength: Float[np.ndarray, " frames"]
    """How opaque it is, 0 to 1."""


def draw_motion(
    generator: np.random.Generator, *, label: int, split: str
) -> UInt8[np.ndarray, "frames height width channels"]:
    """Draws one video: one digit, or two that meet, over a plain background.

    What leaves at one edge comes back at the other, so a digit is equally likely everywhere in every
    frame. A frame out of its video says nothing of direction and speed, and cannot tell growing from
    shrinking or appearing from vanishing (each is the other played backwards), nor rebounding from
    passing (once they have met, two digits stand where the two of the other video would).

    Args:
        generator: Draws digits, colours, magnification, speed, first place, and the time of what happens.
        label: Index into `LABELS`.
        split: Whose digits to show, ``train`` or ``validation``.
    """
    motion = LABELS[label]
    background = generator.uniform(*BACKGROUND, 3)
    parts = _meeting(generator, motion) if motion in ("collide", "pass") else [_solo(generator, motion)]
    frames = np.tile(background, (NUM_FRAMES, SIZE, SIZE, 1))
    for part in parts:
        digits = _digits(split)
        digit = digits[generator.integers(len(digits))]
        colour = _draw_colour(generator, background)
        for frame in range(NUM_FRAMES):
            cover = part.strength[frame] * _place(digit, part.path[frame], part.magnification[frame])[..., None]
            frames[frame] += cover * (colour - frames[frame])
    return np.rint(255 * frames).astype(np.uint8)


def _solo(generator: np.random.Generator, motion: str) -> _Part:
    """A digit that crosses the picture, or stands still and grows, shrinks, appears or vanishes."""
    direction, _, speed = motion.partition("_")
    velocity = np.array(DIRECTIONS.get(direction, (0, 0))) * generator.uniform(*SPEEDS.get(speed, (0, 0)))
    path = generator.uniform(0, SIZE, 2) + np.arange(NUM_FRAMES)[:, None] * velocity
    begin = int(generator.integers(1, NUM_FRAMES - FADE + 1))
    return _Part(path, generator.uniform(*MAGNIFICATION) * _growth(motion), _strength(begin, motion))


def _meeting(generator: np.random.Generator, motion: str) -> list[_Part]:
    """Two digits on neighbouring lanes that come towards each other, touch, and rebound or pass."""
    magnification = generator.uniform(*PAIR_MAGNIFICATION)
    along = generator.uniform(*PAIR_SPEED) * (generator.uniform(*MEETING) - np.arange(NUM_FRAMES))
    if motion == "collide":
        along = np.abs(along)
    # Half a digit's width to either side: they touch and do not cover each other.
    across = np.full(NUM_FRAMES, DIGIT_SIZE * magnification / 2)
    offset = generator.choice([-1, 1]) * np.stack((along, generator.choice([-1, 1]) * across), axis=1)
    offset = offset[:, :: generator.choice([-1, 1])]
    middle, whole = generator.uniform(0, SIZE, 2), np.ones(NUM_FRAMES)
    return [_Part(middle + side * offset, magnification * whole, whole) for side in (-1, 1)]


def _growth(motion: str) -> Float[np.ndarray, " frames"]:
    """Size in each frame, over the middle's."""
    sign = {"approach": 1, "recede": -1}.get(motion, 0)
    return GROWTH ** (sign * np.linspace(-0.5, 0.5, NUM_FRAMES))


def _strength(begin: int, motion: str) -> Float[np.ndarray, " frames"]:
    """How opaque the digit is in each frame, 0 to 1."""
    if motion not in ("appear", "vanish"):
        return np.ones(NUM_FRAMES)
    shown = np.clip((np.arange(NUM_FRAMES) - begin + 1) / FADE, 0, 1)
    return shown if motion == "appear" else 1 - shown


@cache
def _digits(split: str) -> Float[np.ndarray, "digit 10 10"]:
    """The digits of one split: ink from 0 to 1, with a margin of one pixel without ink."""
    digits: Any = load_digits()
    images = np.pad(digits.images / 16, ((0, 0), (1, 1), (1, 1)))
    # Which digit belongs to which split must never depend on the demo's seed.
    order = generator_for("demo", "digits").permutation(len(images))
    num_train = round(TRAIN_SHARE * len(images))
    return images[order[:num_train] if split == "train" else order[num_train:]]


def _draw_colour(generator: np.random.Generator, background: Float[np.ndarray, " 3"]) -> Float[np.ndarray, " 3"]:
    """Draws a colour that stands out from the background, lighter or darker."""
    while True:
        colour = generator.uniform(0, 1, 3)
        if np.abs(colour - background).sum() > LEAST_CONTRAST:
            return colour


def _place(
    digit: Float[np.ndarray, "side side"], centre: Float[np.ndarray, " 2"], magnification: float
) -> Float[np.ndarray, "height width"]:
    """Magnifies a digit and puts its centre (row, column, in pixels) on a picture whose edges join."""
    middle = (len(digit) - 1) / 2
    rows, columns = (((np.arange(SIZE) - c + SIZE / 2) % SIZE - SIZE / 2) / magnification + middle for c in centre)
    return _weights(rows, len(digit)) @ digit @ _weights(columns, len(digit)).T


def _weights(at: Float[np.ndarray, " place"], length: int) -> Float[np.ndarray, "place length"]:
    """Linear interpolation as a matrix: how much each of ``length`` samples counts at each place."""
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(length)))


def _write_video(path: Path, frames: UInt8[np.ndarray, "frames height width channels"]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # The name does not end in .mp4, so the container's format must be given.
    with av.open(str(beside), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    beside.replace(path)
