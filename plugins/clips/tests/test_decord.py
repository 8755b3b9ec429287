"""decord runs in processes of its own: what makes it crash or hang is one bad clip, named, and the next is read."""

from __future__ import annotations

import os
import select
import signal
import threading
from pathlib import Path

import pytest

from salt_toolkit.errors import BadClip
from salt_toolkit.video import decord_decoder
from salt_toolkit.video.opening import open_video
from salt_toolkit.views import View

ABORTS = Path(__file__).parent / "files" / "decord_aborts.mp4"
WHOLE = View((0, 5), 0, 0, 96, 160, False)


def numbers(path: Path, number_of) -> list[int]:
    with open_video(str(path), "decord") as reader:
        return [number_of(picture) for picture in reader.read(WHOLE, 96)]


def process() -> int:
    return decord_decoder._local.worker._process.pid


def ended(number: int) -> bool:
    """Whether a process ends, within a limit that nothing sound comes near."""
    try:
        descriptor = os.pidfd_open(number)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 60)[0])
    finally:
        os.close(descriptor)


def test_a_file_that_makes_decord_abort_is_named_and_the_next_one_is_read(mp4, number_of):
    with pytest.raises(BadClip, match="decord crashes over it") as caught:
        open_video(str(ABORTS), "decord")
    assert caught.value.path == str(ABORTS)
    assert numbers(mp4, number_of) == [0, 5]


def test_a_crash_while_frames_are_read_is_named_too(mp4, number_of):
    with open_video(str(mp4), "decord") as reader:
        os.kill(process(), signal.SIGSEGV)
        with pytest.raises(BadClip, match=r"crashes over it \(signal 11\)"):
            reader.read(WHOLE, 96)
    assert numbers(mp4, number_of) == [0, 5]


def test_a_file_over_which_decord_hangs_is_given_up(mp4, number_of, monkeypatch):
    with open_video(str(mp4), "decord") as reader:
        os.kill(process(), signal.SIGSTOP)
        monkeypatch.setattr(decord_decoder, "TIME_LIMIT", 0.2)
        with pytest.raises(BadClip, match="does not answer"):
            reader.read(WHOLE, 96)
    monkeypatch.undo()
    assert numbers(mp4, number_of) == [0, 5]


def test_two_files_may_be_open_at_once(mp4, webm, number_of):
    with open_video(str(mp4), "decord") as one, open_video(str(webm), "decord") as other:
        for _ in range(2):
            assert [number_of(picture) for picture in one.read(WHOLE, 96)] == [0, 5]
            assert [number_of(picture) for picture in other.read(View((3, 7), 0, 0, 96, 161, False), 96)] == [3, 7]


def test_every_thread_has_a_process_of_its_own_which_ends_with_it(mp4, number_of):
    found: list[int] = []

    def read() -> None:
        numbers(mp4, number_of)
        found.append(process())

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*found, os.getpid()}) == 3
    for number in found:
        assert ended(number)
