"""Whatever is no sound video is a BadClip with its path and a reason, at once: never a hang, never a stand-in."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from salt_toolkit.errors import BadClip
from salt_toolkit.video.opening import open_video
from salt_toolkit.views import View

FILES = Path(__file__).parent / "files"

pytestmark = pytest.mark.timeout(60)

NOISE = np.random.default_rng(0).integers(0, 256, 1 << 16, dtype=np.uint8).tobytes()


def reason(path: Path, decoder: str = "pyav") -> str:
    """Why the whole video cannot be read."""
    with pytest.raises(BadClip) as caught, open_video(str(path), decoder) as reader:
        reader.read(View(tuple(range(reader.num_frames)), 0, 0, reader.height, reader.width, False), 64)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def holed(data: bytes, at: float, size: int = 4096) -> bytes:
    start = int(len(data) * at)
    return data[:start] + NOISE[:size] + data[start + size :]


PLAINLY_NO_VIDEO = {
    "empty": (b"", "empty"),
    "text": ("Grüße\n".encode() * 40, "a text file"),
    "web page": (b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>", "HTML"),
    "playlist of a stream": (b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n", "a text file"),
    "playlist of files": (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "a text file"),
    "random bytes": (NOISE, "cannot"),
    "head of an mp4": (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(60), "cannot"),
}


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize(("data", "words"), PLAINLY_NO_VIDEO.values(), ids=PLAINLY_NO_VIDEO.keys())
def test_what_is_plainly_no_video(tmp_path, data, words, decoder):
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    assert words in reason(path, decoder)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_named_like_a_video(tmp_path, kind, decoder):
    path = tmp_path / "clip.mp4"
    Image.new("RGB", (64, 64)).save(path, kind)
    assert kind in reason(path, decoder)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_sound_without_pictures(tmp_path, decoder):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert ("no video, only audio" if decoder == "pyav" else "decord") in reason(path, decoder)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_what_is_no_regular_file(tmp_path, decoder):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "a pipe" in reason(tmp_path / "pipe.mp4", decoder)
    (tmp_path / "folder.mp4").mkdir()
    assert "a directory" in reason(tmp_path / "folder.mp4", decoder)
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    assert "a device" in reason(tmp_path / "zero.mp4", decoder)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/s.mp4")
        os.close(here)
        assert "a socket" in reason(tmp_path / "s.mp4", decoder)


def test_what_is_not_there(tmp_path):
    assert "No such file" in reason(tmp_path / "missing.mp4")
    (tmp_path / "broken.mp4").symlink_to(tmp_path / "missing.mp4")
    assert "No such file" in reason(tmp_path / "broken.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    assert "cannot be opened" in reason(tmp_path / "loop.mp4")
    assert "null byte" in reason(tmp_path / "null\0byte.mp4")


def test_a_file_that_may_not_be_read(tmp_path, mp4, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(mp4.read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything: the refusal is played
        monkeypatch.setattr("builtins.open", _refuse)
    assert "Permission denied" in reason(path)


def _refuse(path: object, *arguments: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied", path)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_video_of_one_picture(tmp_path, write_video, decoder):
    path = write_video(tmp_path / "still.mp4", codec="libx264", width=160, num_frames=1)
    assert "still image" in reason(path, decoder)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_a_cut_webm(tmp_path, webm, share):
    path = tmp_path / "clip.webm"
    data = webm.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert reason(path)
    if share == 0.5:
        assert "header promises 3.33 s" in reason(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_cut_mp4_whose_index_is_at_the_end(tmp_path, mp4, share):
    path = tmp_path / "clip.mp4"
    data = mp4.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "cannot be opened" in reason(path)


def test_a_cut_mp4_whose_index_is_in_front(tmp_path, mp4):
    path = tmp_path / "clip.mp4"
    with av.open(str(mp4)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for end in (packets[20].pos, packets[20].pos + 5, packets[-1].pos + 1, packets[-4].pos):
        path.write_bytes(data[:end])
        assert reason(path)
    # Only the last packet is cut, and nobody asks for its frame: the file is refused all the same.
    path.write_bytes(data[: packets[-1].pos + packets[-1].size // 2])
    with pytest.raises(BadClip, match="1 of its 40 packets are cut or damaged"), open_video(str(path), "pyav"):
        raise AssertionError("opened")


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_garbage_in_the_middle(tmp_path, mp4, webm, name, at):
    path = tmp_path / name
    path.write_bytes(holed((mp4 if name.endswith("mp4") else webm).read_bytes(), at))
    assert reason(path)


def test_a_hole_that_ends_before_the_end_of_a_long_webm(tmp_path, write_video):
    path = write_video(
        tmp_path / "long.webm",
        codec="libvpx-vp9",
        num_frames=180,
        options={"deadline": "realtime", "cpu-used": "8", "g": "15"},
    )
    with open_video(str(path), "pyav") as reader:
        assert reader.num_frames == 180
    data = path.read_bytes()
    damaged = tmp_path / "damaged.webm"
    damaged.write_bytes(holed(data, 0.3, size=len(data) // 20))
    assert "hole" in reason(damaged)


def test_a_slow_recording_is_not_taken_for_one_with_holes(tmp_path, write_video):
    path = write_video(
        tmp_path / "slow.webm",
        codec="libvpx-vp9",
        options={"deadline": "realtime", "cpu-used": "8"},
        times=lambda index: index if index < 20 else index + 60,
    )
    with open_video(str(path), "pyav") as reader:
        assert reader.num_frames == 40


@pytest.mark.parametrize("name", ["clip.avi", "clip.ts"])
def test_damage_in_containers_without_a_full_header(tmp_path, write_video, name):
    path = write_video(tmp_path / name, codec="libx264", width=160, options={"g": "12"})
    data = path.read_bytes()
    path.write_bytes(holed(data, 0.3, size=len(data) // 4))
    assert reason(path)
    path.write_bytes(data[: len(data) // 2])
    if name == "clip.avi":  # MPEG-TS has no header that could tell
        assert reason(path)


def test_pictures_built_on_a_damaged_one_are_refused(tmp_path, mp4):
    data = bytearray(mp4.read_bytes())
    with av.open(str(mp4)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    at = packets[0].pos + packets[0].size // 2
    data[at : at + 8] = bytes(byte ^ 0xFF for byte in data[at : at + 8])
    path = tmp_path / "flipped.mp4"
    path.write_bytes(data)
    # The next frames are predicted from the damaged one; they are refused even when it is not asked for.
    with pytest.raises(BadClip, match="cannot be decoded"), open_video(str(path), "pyav") as reader:
        reader.read(View((8, 9), 0, 0, reader.height, reader.width, False), 64)


@pytest.mark.parametrize(
    ("name", "tag", "words"),
    [
        ("a.mp4", b"avc1", "codec is unknown"),
        ("a.avi", b"H264", "codec is unknown"),
        ("a.mkv", b"V_MPEG4/ISO/AVC", "no video that FFmpeg knows"),
    ],
)
def test_a_codec_that_nobody_knows(tmp_path, write_video, name, tag, words):
    path = write_video(tmp_path / name, codec="libx264", width=160, num_frames=12)
    path.write_bytes(path.read_bytes().replace(tag, b"z" * len(tag)))
    num_open = len(os.listdir("/dev/fd"))
    with pytest.raises(BadClip, match=words) as caught:
        open_video(str(path), "pyav")
    # The exception is still held, and with it all that the reader held: only closing frees the file.
    assert caught.value.path == str(path) and len(os.listdir("/dev/fd")) <= num_open


@pytest.mark.parametrize("error", [AttributeError("None has no 'x'"), KeyError(3), OverflowError("a\nb")])
def test_whatever_a_decoder_raises_makes_one_bad_clip(mp4, monkeypatch, error):
    whole = View((0, 5), 0, 0, 96, 160, False)
    with open_video(str(mp4), "pyav") as reader, pytest.raises(BadClip, match=type(error).__name__) as caught:
        monkeypatch.setattr("salt_toolkit.video.pyav_decoder.VideoReformatter.reformat", raising(error), raising=True)
        reader.read(whole, 32)
    assert caught.value.__cause__ is error and "\n" not in caught.value.reason
    monkeypatch.setattr("av.open", raising(error))
    assert type(error).__name__ in reason(mp4, "pyav")


def test_times_that_a_header_without_a_time_scale_gives_are_damage():
    assert "its times are damaged" in reason(FILES / "time_scale_0.mp4")


def test_memory_that_runs_out_is_no_fault_of_a_file(mp4, monkeypatch):
    monkeypatch.setattr("av.open", raising(MemoryError()))
    with pytest.raises(MemoryError):
        open_video(str(mp4), "pyav")


def raising(error: Exception):
    def fail(*arguments: object, **options: object) -> None:
        raise error

    return fail


SMALL = {
    "a.mp4": "libx264",
    "a.mov": "mpeg4",
    "a.mkv": "libx264",
    "a.webm": "libvpx",
    "b.webm": "libvpx-vp9",
    "a.avi": "mpeg4",
    "a.ts": "mpeg2video",
}


@pytest.mark.parametrize(("name", "codec"), SMALL.items())
def test_bytes_changed_by_chance_give_a_clip_or_a_bad_clip(tmp_path, write_video, name, codec):
    path = write_video(tmp_path / name, codec=codec, num_frames=12, rate=24, width=64, height=48)
    sound, chance, num_bad = path.read_bytes(), random.Random(name), 0
    for _ in range(50):
        path.write_bytes(damaged(sound, chance))
        try:
            with open_video(str(path), "pyav") as reader:
                frames = (0, reader.num_frames // 2, reader.num_frames - 1)
                view = View(frames, 0, 0, reader.height, reader.width, False)
                assert reader.read(view, 16).shape == (3, 16, 16, 3)
        except BadClip as bad:
            num_bad += 1
            assert bad.path == str(path) and bad.reason and "\n" not in bad.reason
    assert num_bad > 10


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file that was cut, lost some bytes, or has changed ones, most of them near its head."""
    changed, kind = bytearray(data), chance.random()
    if kind < 0.2:
        return bytes(changed[: chance.randrange(1, len(changed))])
    if kind < 0.3:
        start = chance.randrange(len(changed))
        del changed[start : start + chance.randrange(1, 400)]
        return bytes(changed)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        end = len(changed) if chance.random() < 0.4 else min(900, len(changed))
        changed[chance.randrange(end)] = chance.randrange(256)
    return bytes(changed)


def test_odd_bytes_in_a_title_are_no_reason(tmp_path, mp4):
    path = tmp_path / "clip.mkv"
    with av.open(str(mp4)) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = "abcdefgh"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abc\xff\xfeefg"))
    with open_video(str(path), "pyav") as reader:
        assert reader.num_frames == 40


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("name", ["ordinary.mp4", "with blank.mp4", "日本 ü.mp4", "a:b%03d?*[x].mp4", "-dash.mp4"])
def test_any_name_will_do(tmp_path, mp4, name, decoder, monkeypatch):
    (tmp_path / name).write_bytes(mp4.read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):  # relative too: "a:" is no protocol
        with open_video(path, decoder) as reader:
            assert reader.num_frames == 40


@pytest.mark.parametrize("seconds", [1, 9])
@pytest.mark.parametrize(
    ("name", "sound"), [("a.mp4", "aac"), ("a.webm", "libopus"), ("a.mkv", "aac"), ("a.avi", "mp2")]
)
def test_sound_shorter_or_longer_than_the_pictures_is_no_damage(tmp_path, name, sound, seconds):
    pictures = "libvpx-vp9" if name.endswith("webm") else "mpeg4"
    with av.open(str(tmp_path / name), "w") as container:
        video, audio = container.add_stream(pictures, rate=10), container.add_stream(sound, rate=48000, layout="mono")
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for _ in range(20):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        for index in range(50 * seconds):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, index * 960
            container.mux(audio.encode(frame))
        container.mux(video.encode())
        container.mux(audio.encode())
    with open_video(str(tmp_path / name), "pyav") as reader:
        assert reader.num_frames == 20


def test_a_fragmented_mp4_is_sound(tmp_path, mp4):
    path = tmp_path / "fragments.mp4"
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(str(mp4)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with open_video(str(path), "pyav") as reader:
        assert reader.num_frames == 40
