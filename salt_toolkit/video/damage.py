"""Damage that decoders conceal: files that contain less than their header promises, or have gaps."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

_TOLERANCE = Fraction(1, 10)
"""How much shorter than its header an intact file may be, because writers round and estimate."""

_HOLE_BYTES = 4096
"""More bytes between packets than any container header needs."""

_HOLE_PERIODS = 3
"""Minimum duration of a gap, in frames."""


@dataclass(frozen=True)
class Header:
    """What a container and its header declare.

    Attributes:
        end: Seconds at which the file ends; None if the header does not say.
        num_frames: Frames of the video; 0 if the header does not say.
        tick: The video stream's unit of time, in seconds.
        may_hide_frames: Whether an edit list may hide frames that the header counts.
        is_dense: Whether packets follow each other in the file with almost nothing in between.
    """

    end: Fraction | None
    num_frames: int
    tick: Fraction
    may_hide_frames: bool
    is_dense: bool


@dataclass
class Timeline:
    """Times and positions of a file's packets, collected in one pass.

    Attributes:
        end: Seconds at which the last packet ends.
        shown: Presentation times of the packets that hold a shown frame, in the stream's unit.
        keys: Index and presentation time of the packets at which decoding can start.
        num_packets: Packets of the video stream.
        num_corrupt: Of these, packets that are truncated or marked as damaged.
        gaps: Bytes that belong to no packet before a packet, and the time from the packet before, in
            the stream's unit.
        unused_bytes: Bytes that belong to no packet, after the last packet of the video.
    """

    end: Fraction = Fraction(0)
    shown: list[int | None] = field(default_factory=list)
    keys: list[tuple[int, int | None]] = field(default_factory=list)
    num_packets: int = 0
    num_corrupt: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    unused_bytes: int = 0
    _position: int | None = None
    _reached: int = 0
    _latest: int | None = None

    def note_bytes(self, position: int | None, size: int) -> None:
        """Records a packet's position in the file, for any stream."""
        if position is None:
            return
        if self._position is not None and position > self._reached:
            self.unused_bytes += position - self._reached
        # Small packets may share a block, and then also its position.
        self._reached = (self._reached if position == self._position else position) + size
        self._position = position

    def note_packet(self, pts: int | None, *, is_key: bool, is_shown: bool) -> None:
        """Records a packet of the video stream, after `note_bytes`."""
        if is_key:
            self.keys.append((self.num_packets, pts))
        if is_shown:
            self.shown.append(pts)
        self.num_packets += 1
        if pts is not None:
            if self._latest is not None and pts > self._latest and self.unused_bytes:
                self.gaps.append((self.unused_bytes, pts - self._latest))
            self._latest = pts if self._latest is None else max(self._latest, pts)
        self.unused_bytes = 0


def find_damage(header: Header, timeline: Timeline) -> str:
    """Compares the header with the packets.

    Returns:
        What is wrong, as a clause; empty for an intact file.
    """
    if timeline.num_packets < 2:
        return "it holds one picture: a still image is no clip" if timeline.num_packets else "it holds no picture"
    if timeline.num_corrupt:
        return f"{timeline.num_corrupt} of its {timeline.num_packets} packets are cut or damaged"
    period = timeline.end / timeline.num_packets
    lost_time = Fraction(0) if header.end is None else header.end - timeline.end
    if header.end is not None and lost_time > max(_TOLERANCE * header.end, 2 * period):
        return (
            f"its header promises {float(header.end):.2f} s and it ends after {float(timeline.end):.2f} s: "
            "it is cut short, or has a hole"
        )
    lost_frames = header.num_frames - timeline.num_packets
    if lost_frames > 0 and header.end is not None and timeline.end > 2 * header.end:
        return (
            f"its header promises {header.num_frames} frames in {float(header.end):.2f} s, and it holds "
            f"{timeline.num_packets} that end after {float(timeline.end):.2f} s: its times are damaged"
        )
    # If an edit list may hide frames, a lower count is damage only if the end is missing too.
    is_cut = lost_time > period / 2 if header.may_hide_frames else lost_frames > _TOLERANCE * header.num_frames
    if lost_frames > 0 and is_cut:
        return f"its header promises {header.num_frames} frames and it holds {timeline.num_packets}: it is cut short"
    gaps = [(num_bytes, ticks * header.tick) for num_bytes, ticks in timeline.gaps]
    for num_bytes, seconds in [*gaps, (timeline.unused_bytes, lost_time)] if header.is_dense else ():
        # Require both: slow recordings skip time without losing bytes, and side data take bytes but no time.
        if num_bytes > _HOLE_BYTES and seconds > _HOLE_PERIODS * period:
            return f"it has a hole: {num_bytes} bytes and {float(seconds):.2f} s belong to no packet"
    return ""
