"""A closed video is gone: nothing of it waits for the garbage collector, which may come late or be switched off."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from salt_toolkit.errors import BadClip
from salt_toolkit.video.opening import open_video
from salt_toolkit.video.pyav_decoder import PyAVReader
from salt_toolkit.views import View


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> tuple[int, int]:
    """Threads and open files of this process."""
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def read(path: Path, decoder: str, frames: tuple[int, ...] = (0, 5)) -> weakref.ref:
    with open_video(str(path), decoder) as reader:
        reader.read(View(frames, 0, 0, reader.height, reader.width, False), 64)
    return weakref.ref(reader)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("large", [False, True], ids=["kept packets", "packets read again"])
def test_a_closed_video_is_freed_at_once(mp4, webm, monkeypatch, decoder, large):
    if large:
        monkeypatch.setattr("salt_toolkit.video.pyav_decoder._KEEP_BYTES", 0)
    for path in (mp4, webm):
        read(path, decoder)
    before = held()
    readers = [read(path, decoder, frames) for path in (mp4, webm) * 10 for frames in ((0, 5), (30, 35))]
    assert not any(reader() for reader in readers)
    assert held() == before


def test_a_closed_video_holds_no_packets_even_where_an_error_still_holds_the_reader(mp4, monkeypatch):
    kept: list[PyAVReader] = []
    original = PyAVReader.__init__

    def watched(reader: PyAVReader, path: str) -> None:
        kept.append(reader)
        original(reader, path)

    monkeypatch.setattr(PyAVReader, "__init__", watched)
    with pytest.raises(BadClip), open_video(str(mp4), "pyav") as reader:
        reader.read(View((10**6,), 0, 0, 96, 160, False), 64)
    (reader,) = kept
    assert reader._packets is None and reader._first is None and reader._running.gi_frame is None


def test_bad_videos_leave_nothing_behind(tmp_path, mp4):
    broken = tmp_path / "broken.mp4"
    data = bytearray(mp4.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    broken.write_bytes(data)

    def attempt() -> None:
        with pytest.raises(BadClip):
            read(broken, "pyav", tuple(range(40)))

    attempt()
    before = held()
    for _ in range(20):
        attempt()
    assert held() == before
