"""Exact frames with PyAV: frame i is the i-th picture in display order, whatever the container says.

The file's packets are read once, without decoding. Their sorted presentation times index the frames, so a frame is
located by its time, after decoding from the preceding key frame. For containers without presentation times (AVI),
frames are counted as they leave the decoder instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from salt_toolkit.errors import BadClip
from salt_toolkit.video.damage import Header, Timeline, find_damage
from salt_toolkit.video.orientation import Orientation
from salt_toolkit.video.pictures import cut_out
from salt_toolkit.video.reader import blaming
from salt_toolkit.views import View

_KEEP_BYTES = 64 * 2**20
"""Files up to this size keep their packets in memory between indexing and decoding; larger ones are read again."""

_VP8_SHOWN = 0x10
"""Bit of a VP8 packet's first byte: the frame is to be shown (RFC 6386, section 9.1)."""

_Frames = Generator[VideoFrame, None, None]
_Convert = Callable[[VideoFrame], np.ndarray]


class PyAVReader:
    """One video, opened with PyAV; see `reader.VideoReader`.

    There are no reference cycles through the reader, so its packets, codec and threads are freed as soon as it is
    released, without waiting for the garbage collector.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with _decoding(path):
            self._container = _open(path)
            try:
                self._prepare()
            except BaseException:
                self._container.close()
                raise

    def __enter__(self) -> PyAVReader:
        return self

    def __exit__(self, *exception: object) -> None:
        # An exception's traceback may keep the reader alive; free its resources anyway.
        self._running.close()
        self._first = self._packets = None
        self._container.close()

    def read(self, view: View, size: int) -> UInt8[np.ndarray, "frames size size 3"]:
        """Decodes a view; see `reader.VideoReader.read`."""
        wanted = sorted(set(view.frames))
        with _decoding(self.path):
            find = self._find_by_time if self._times else self._find_by_count
            pictures = find(wanted, lambda frame: cut_out(self._picture(frame), view, size))
        lost = [index for index in wanted if index not in pictures]
        if lost:
            raise BadClip(self.path, f"{len(lost)} of {len(wanted)} frames cannot be decoded, first frame {lost[0]}")
        return np.stack([pictures[index] for index in view.frames])

    def _prepare(self) -> None:
        self._stream = _video_stream(self._container, self.path)
        self._context = self._stream.codec_context
        # One codec thread: many readers run at once, and FFmpeg's own threads can deadlock in loaders.
        self._context.thread_count = 1
        # Report damage as an error instead of concealing it with neighbouring pixels.
        self._context.options = {"err_detect": "explode"}
        timeline = self._read_packets()
        damage = find_damage(_header(self._container, self._stream), timeline)
        if damage:
            raise BadClip(self.path, damage)
        self._keys = timeline.keys
        self._times = _presentation_times(self._container, timeline)
        self._running = self._decode(0)
        self._first = next(self._running, None)
        if self._first is None:
            raise BadClip(self.path, "no frame of it can be decoded")
        self._stored_size = (self._first.width, self._first.height)
        self._upright = Orientation.of(self._first)
        self.width, self.height = self._stored_size[:: -1 if self._upright.transposed else 1]
        self._reformatter = VideoReformatter()
        self.num_frames = len(self._times) or sum(1 for _ in self._frames_from(0))

    def _read_packets(self) -> Timeline:
        """Reads all packets once: records their times, and keeps the video packets of small files."""
        timeline = Timeline()
        num_bytes = os.path.getsize(self.path)
        self._packets: list[Packet] | None = [] if num_bytes <= _KEEP_BYTES else None
        # If streams have their own durations, use the video's end; otherwise that of the longest stream.
        streams = self._container.streams if self._stream.duration is None else (self._stream,)
        ends: dict[int, int] = {}
        for packet in self._container.demux(*streams):
            if packet.size == 0:
                continue
            timeline.note_bytes(packet.pos, packet.size)
            if packet.pts is not None:
                key = packet.stream_index
                ends[key] = max(ends.get(key, 0), packet.pts + (packet.duration or 0))
            if packet.stream_index == self._stream.index:
                self._note(packet, timeline)
        timeline.note_bytes(num_bytes, 0)
        timeline.end = max(
            (end * _tick(self._container.streams[key]) for key, end in ends.items()), default=Fraction(0)
        )
        return timeline

    def _note(self, packet: Packet, timeline: Timeline) -> None:
        hidden = self._context.name == "vp8" and not memoryview(packet)[0] & _VP8_SHOWN
        timeline.note_packet(packet.pts, is_key=packet.is_keyframe, is_shown=not (packet.is_discard or hidden))
        timeline.num_corrupt += packet.is_corrupt
        if self._packets is not None:
            self._packets.append(packet)

    def _decode(self, start: int) -> _Frames:
        """All frames that a fresh decoder returns, starting at packet ``start``."""
        if self._packets is not None:
            return _decode_packets(self._context, self._packets, start)
        return _decode_file(self._context, self.path, self._stream.index, start)

    def _frames_from(self, start: int) -> Iterator[VideoFrame]:
        """Frames from a packet on; the first call continues after the probed first frame."""
        first, self._first = self._first, None
        if start == 0 and first is not None:
            return chain((first,), self._running)
        return self._decode(start)

    def _find_by_time(self, wanted: list[int], convert: _Convert) -> dict[int, np.ndarray]:
        first = self._times[wanted[0]]
        start = max((number for number, pts in self._keys if pts is not None and pts <= first), default=0)
        try:
            found = self._frames_at_times(start, wanted, convert)
        except FFmpegError:
            if start == 0:
                raise
            found = {}
        # Not every key frame is a clean entry point (open GOPs, gradual refresh).
        if found is not None and len(found) < len(wanted) and start > 0:
            found = self._frames_at_times(0, wanted, convert)
        return self._find_by_count(wanted, convert) if found is None else found

    def _frames_at_times(self, start: int, wanted: list[int], convert: _Convert) -> dict[int, np.ndarray] | None:
        """Frames by index; None if their times do not ascend and so cannot index frames."""
        index_of = {self._times[index]: index for index in wanted}
        found: dict[int, np.ndarray] = {}
        earlier = None
        for frame in self._frames_from(start):
            if frame.pts is None or (earlier is not None and frame.pts <= earlier):
                return None
            earlier = frame.pts
            if frame.pts in index_of and not frame.is_corrupt:
                found[index_of[frame.pts]] = convert(frame)
            if frame.pts >= self._times[wanted[-1]]:
                break
        return found

    def _find_by_count(self, wanted: list[int], convert: _Convert) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for index, frame in enumerate(self._frames_from(0)):
            if index in wanted and not frame.is_corrupt:
                found[index] = convert(frame)
            if index == wanted[-1]:
                break
        return found

    def _picture(self, frame: VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
        width, height = self._stored_size
        picture = self._reformatter.reformat(frame, width, height, "rgb24").to_ndarray()
        return self._upright.apply(picture)


def _decode_packets(context: VideoCodecContext, packets: Iterable[Packet], start: int) -> _Frames:
    if context.is_open:
        context.flush_buffers()
    for packet in islice(packets, start, None):
        yield from context.decode(packet)
    yield from context.decode(None)


def _decode_file(context: VideoCodecContext, path: str, stream: int, start: int) -> _Frames:
    """Reads the packets of a file again, for files that are too large to keep."""
    with _open(path) as container:
        packets = (packet for packet in container.demux(container.streams[stream]) if packet.size)
        yield from _decode_packets(context, packets, start)


@contextmanager
def _decoding(path: str) -> Iterator[None]:
    with blaming(path):
        try:
            yield
        except FFmpegError as error:
            raise BadClip(path, f"it cannot be decoded: {error.strerror}") from error


def _open(path: str) -> InputContainer:
    try:
        # Never open anything but files; and do not refuse a video because of odd bytes in its title.
        return av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="ignore")
    except FFmpegError as error:
        raise BadClip(path, f"it cannot be opened as a video: {error.strerror}") from error


def _video_stream(container: InputContainer, path: str) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        kinds = sorted({stream.type for stream in container.streams})
        held = f", only {' and '.join(kinds)}" if kinds else " that FFmpeg knows"
        raise BadClip(path, f"it holds no video{held}")
    # PyAV's types deny it, but there is none for a codec that FFmpeg has no decoder for.
    if getattr(stream, "codec_context", None) is None:
        raise BadClip(path, "it cannot be decoded: its codec is unknown to FFmpeg")
    return stream


def _presentation_times(container: InputContainer, timeline: Timeline) -> list[int]:
    """The frames' times in display order; empty if times do not identify frames."""
    times = [pts for pts in timeline.shown if pts is not None]
    # AVI has no presentation times: FFmpeg guesses them, wrongly where frames are reordered.
    if container.format.name == "avi" or len(set(times)) < len(timeline.shown):
        return []
    return sorted(times)


def _header(container: InputContainer, stream: VideoStream) -> Header:
    is_mov, is_matroska = (name in container.format.name.split(",") for name in ("mov", "matroska"))
    end = None
    # For other containers, FFmpeg only estimates the duration.
    if is_mov and stream.duration is not None:
        end = (stream.duration + (stream.start_time or 0)) * _tick(stream)
    elif is_matroska and container.duration is not None:
        end = Fraction(container.duration, av.time_base)
    return Header(end, stream.frames, _tick(stream), may_hide_frames=is_mov, is_dense=is_matroska)


def _tick(stream: Stream) -> Fraction:
    return stream.time_base or Fraction(1, av.time_base)
