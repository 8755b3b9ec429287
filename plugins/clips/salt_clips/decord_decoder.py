"""The decoder that much of the field's code uses, for comparison with it.

decord finds frames by seeking, and returns wrong ones without a word on AVI and MPEG-TS, on MP4 with
edit lists, and on open groups of pictures; it does not report damage either. Its last release is of
2021, for Linux on x86-64 and Windows only. Prefer "pyav" unless a number must be reproduced.
"""

from __future__ import annotations

import re

import decord
import numpy as np
from jaxtyping import UInt8

from salt_clips.pictures import cut_out
from salt_toolkit.errors import BadClip
from salt_toolkit.views import View

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")

# A bad file is reported once, as an error with its path, and not on the terminal as well.
decord.logging.set_level(decord.logging.QUIET)


class DecordReader:
    """One video, opened with decord; see `decoders.VideoReader`."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            self.num_frames = len(self._reader)
            if self.num_frames < 2:
                raise BadClip(path, "it holds no second picture: a still image is no clip")
            self.height, self.width = self._reader[0].shape[:2]
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise self._broken(error) from error

    def __enter__(self) -> DecordReader:
        return self

    def __exit__(self, *exception: object) -> None:
        del self._reader

    def read(self, view: View, size: int) -> UInt8[np.ndarray, "frames size size 3"]:
        """Decodes a view; see `decoders.VideoReader.read`."""
        try:
            pictures = self._reader.get_batch(list(view.frames)).asnumpy()
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise self._broken(error) from error
        return np.stack([cut_out(picture, view, size) for picture in pictures])

    def _broken(self, error: Exception) -> BadClip:
        # A time and a place in C++ stand before the reason, and a stack after it.
        reason = _PLACE.sub("", str(error)).strip().partition("\n")[0]
        return BadClip(self.path, f"decord cannot decode it: {reason or type(error).__name__}")
