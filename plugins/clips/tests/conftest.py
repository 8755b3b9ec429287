"""Videos whose every picture carries its own number, written here so that no test needs a download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

NUM_BARS = 8
HEIGHT, WIDTH = 96, 161  # an odd width, as Something-Something v2 has


def numbered_picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A moving pattern; its upper third shows the number in black and white bars."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack(
        [
            127 + 90 * np.sin((columns * (1 + 0.2 * channel) + 5 * number) / 9) * np.cos(rows / 11)
            for channel in range(3)
        ],
        axis=2,
    ).astype(np.uint8)
    bar = width // NUM_BARS
    for bit in range(NUM_BARS):
        picture[: height // 3, bit * bar : (bit + 1) * bar] = 255 * (number >> bit & 1)
    return picture


def number_of(picture: np.ndarray) -> int:
    """Reads the number off a picture of any size."""
    height, width = picture.shape[:2]
    rows = picture[height // 12 : height // 4]
    bar = width // NUM_BARS
    centers = [rows[:, int((bit + 0.25) * bar) : int((bit + 0.75) * bar)] for bit in range(NUM_BARS)]
    return sum(1 << bit for bit, pixels in enumerate(centers) if pixels.mean() > 127)


def write_numbered(
    path: Path,
    *,
    codec: str,
    num_frames: int = 40,
    rate: int = 12,
    options: dict[str, str] | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    times: Callable[[int], int] = lambda index: index,
) -> Path:
    """Writes pictures 0, 1, 2, ...; the path's ending chooses the container."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p" if codec == "ffv1" else "yuv420p"
        stream.options = {"threads": "1", **(options or {})}
        stream.bit_rate = 400_000
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_picture(index, height, width), format="rgb24")
            frame.pts = times(index)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


H264 = {"codec": "libx264", "width": 160, "options": {"g": "12", "preset": "veryfast"}}
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}


@pytest.fixture(scope="session")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("videos") / "clip.mp4", **H264)


@pytest.fixture(scope="session")
def webm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("videos") / "clip.webm", **VP9)


@pytest.fixture
def write_video() -> Callable[..., Path]:
    return write_numbered


@pytest.fixture(name="number_of")
def _number_of() -> Callable[[np.ndarray], int]:
    return number_of
