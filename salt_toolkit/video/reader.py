"""What a decoder must do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from salt_toolkit.errors import BadClip, SaltError
from salt_toolkit.views import View


class VideoReader(Protocol):
    """One opened video. Every method raises `BadClip` when the video cannot be used.

    A reader belongs to one thread; any number of readers may work at once.

    Attributes:
        path: The file's absolute path.
        num_frames: Frames that can be read.
        height: Rows of an upright picture, in pixels.
        width: Columns of an upright picture, in pixels.
    """

    path: str
    num_frames: int
    height: int
    width: int

    def read(self, view: View, size: int) -> UInt8[np.ndarray, "frames size size 3"]:
        """Decodes the view's frames, each cut to its box and resized to ``size`` x ``size`` pixels.

        Returns:
            Upright red, green and blue pictures in the order of ``view.frames``, which may repeat.
        """
        ...


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """Makes a bad clip of whatever a decoder raises while it works on one file, foreseen or not.

    Only for a decoder's work: mistakes in the code of a data set must not pass for bad files.

    Raises:
        BadClip: With what was raised, unless it was a `SaltError`, or memory ran out.
    """
    try:
        yield
    except (SaltError, MemoryError):
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadClip(path, f"its decoder did not expect it: {what}") from error
