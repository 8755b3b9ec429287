"""The interface of a decoder."""

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
    """Turns any exception of a decoder, expected or not, into a `BadClip`.

    Wrap only calls to the decoder: bugs in a dataset's code must not look like bad files.

    Raises:
        BadClip: With the original exception's text. A `SaltError` or MemoryError passes through.
    """
    try:
        yield
    except (SaltError, MemoryError):
        raise
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadClip(path, f"its decoder did not expect it: {what}") from error
