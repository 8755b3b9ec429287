"""The decoder that much of the field's code uses, for comparison with it.

decord finds frames by seeking, and returns wrong ones without a word on AVI and MPEG-TS, on MP4 with
edit lists, and on open groups of pictures; it does not report damage either. Its last release is of
2021, for Linux on x86-64 and Windows only. Prefer "pyav" unless a number must be reproduced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import decord
import numpy as np
from jaxtyping import UInt8

from salt_toolkit.errors import BadClip
from salt_toolkit.video.pictures import cut_out
from salt_toolkit.video.reader import blaming
from salt_toolkit.views import View

_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")

# Silences FFmpeg inside decord. For a file that is no video, decord itself still writes a line "ERROR opening: ..." to
# the process's error stream: it has no switch for that, and the stream belongs to all threads.
decord.logging.set_level(decord.logging.QUIET)


class DecordReader:
    """One video, opened with decord; see `decoders.VideoReader`."""

    def __init__(self, path: str) -> None:
        self.path = path
        with _decoding(path):
            self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            self.num_frames = len(self._reader)
            if self.num_frames < 2:
                raise BadClip(path, "it holds no second picture: a still image is no clip")
            self.height, self.width = self._reader[0].shape[:2]

    def __enter__(self) -> DecordReader:
        return self

    def __exit__(self, *exception: object) -> None:
        del self._reader

    def read(self, view: View, size: int) -> UInt8[np.ndarray, "frames size size 3"]:
        """Decodes a view; see `decoders.VideoReader.read`."""
        with _decoding(self.path):
            pictures = self._reader.get_batch(list(view.frames)).asnumpy()
        return np.stack([cut_out(picture, view, size) for picture in pictures])


@contextmanager
def _decoding(path: str) -> Iterator[None]:
    with blaming(path):
        try:
            yield
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            # A time and a place in C++ stand before the reason, and a stack after it.
            reason = _PLACE.sub("", str(error)).strip().partition("\n")[0]
            raise BadClip(path, f"decord cannot decode it: {reason or type(error).__name__}") from error
