"""What a decoder must do, and what is checked of a file before any decoder opens it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from salt_clips.config import DecoderName
from salt_toolkit.errors import BadClip, SaltError
from salt_toolkit.views import View

_PICTURES = {b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture"}


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


def open_video(path: str, decoder: DecoderName) -> AbstractContextManager[VideoReader]:
    """Opens a video file with the named decoder.

    Raises:
        BadClip: The file is missing, unreadable, damaged, or not a video.
    """
    path = os.path.abspath(path)
    _check_file(path)
    if decoder == "pyav":
        from salt_clips.pyav_decoder import PyAVReader

        return PyAVReader(path)
    from salt_clips.decord_decoder import DecordReader

    return DecordReader(path)


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


def _check_file(path: str) -> None:
    """Refuses what is plainly no video, with a better reason than a decoder has, and without blocking."""
    try:
        # A pipe without a writer would block open(): ask what it is first.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadClip(path, f"it is {_kind_of(status.st_mode)}, not a regular file")
        if status.st_size == 0:
            raise BadClip(path, "the file is empty")
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise BadClip(path, f"it cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise BadClip(path, f"it cannot be opened: {error}") from error
    for magic, kind in _PICTURES.items():
        if head.startswith(magic):
            raise BadClip(path, f"it is {kind}, not a video")
    # Text is refused here for safety too: playlists are text, and FFmpeg would follow them.
    if _is_text(head):
        page = head.lstrip().lower().startswith((b"<!doctype html", b"<html"))
        kind = "an HTML page (a download that failed?)" if page else "a text file"
        raise BadClip(path, f"it is {kind}, not a video")


def _is_text(head: bytes) -> bool:
    return not any(byte < 32 and byte not in b"\t\n\f\r" for byte in head)


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")
