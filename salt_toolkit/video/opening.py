"""Opens a video with the decoder of a name, after a look at the file."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from salt_toolkit.errors import BadClip

if TYPE_CHECKING:
    from salt_toolkit.video.reader import VideoReader

DecoderName = Literal["pyav", "decord"]

_PICTURES = {b"\x89PNG": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture"}


def open_video(path: str, decoder: DecoderName) -> AbstractContextManager[VideoReader]:
    """Opens a video file with the named decoder.

    Raises:
        BadClip: The file is missing, unreadable, damaged, or not a video.
    """
    path = os.path.abspath(path)
    _check_file(path)
    if decoder == "pyav":
        from salt_toolkit.video.pyav_decoder import PyAVReader

        return PyAVReader(path)
    from salt_toolkit.video.decord_decoder import DecordReader

    return DecordReader(path)


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
