"""Damage that decoders hide: a file that holds less than its header promises, or has a hole."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

_TOLERANCE = Fraction(1, 10)
"""How much shorter than its header a sound file may be: writers round, and estimate."""

_HOLE_BYTES = 4096
"""Bytes between packets that no header of a container needs."""

_HOLE_PERIODS = 3
"""How many frames' time a hole skips at least."""


@dataclass(frozen=True)
class Header:
    """What a container and its header promise.

    Attributes:
        end: Seconds at which the file ends; None where the header is silent.
        num_frames: Frames of the video; 0 where the header is silent.
        tick: The video stream's unit of time, in seconds.
        may_hide_frames: Whether an edit list may hide frames that the header counts.
        is_dense: Whether packets lie in the order of the file with next to nothing between them.
    """

    end: Fraction | None
    num_frames: int
    tick: Fraction
    may_hide_frames: bool
    is_dense: bool


@dataclass
class Timeline:
    """What the packets of a file say, gathered in one pass.

    Attributes:
        end: Seconds at which the last packet ends.
        shown: Presentation times of the packets that hold a shown frame, in the stream's unit.
        keys: Number and presentation time of the packets from which decoding may begin.
        num_packets: Packets of the video stream.
        num_corrupt: Of these, packets that are cut or marked as damaged.
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
        """Notes where in the file a packet of any stream lies."""
        if position is None:
            return
        if self._position is not None and position > self._reached:
            self.unused_bytes += position - self._reached
        # Small packets may share a block, and then also its position.
        self._reached = (self._reached if position == self._position else position) + size
        self._position = position

    def note_packet(self, pts: int | None, *, is_key: bool, is_shown: bool) -> None:
        """Notes a packet of the video stream; its bytes have been noted before."""
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
    """Compares what the header promises with what the packets hold.

    Returns:
        What is wrong, as a clause; empty for a sound file.
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
    # Where frames may be hidden on purpose, a lower count is damage only if the end is missing too.
    is_cut = lost_time > period / 2 if header.may_hide_frames else lost_frames > _TOLERANCE * header.num_frames
    if lost_frames > 0 and is_cut:
        return f"its header promises {header.num_frames} frames and it holds {timeline.num_packets}: it is cut short"
    gaps = [(num_bytes, ticks * header.tick) for num_bytes, ticks in timeline.gaps]
    for num_bytes, seconds in [*gaps, (timeline.unused_bytes, lost_time)] if header.is_dense else ():
        # Both at once: slow recordings skip time without losing bytes, and side data take bytes but no time.
        if num_bytes > _HOLE_BYTES and seconds > _HOLE_PERIODS * period:
            return f"it has a hole: {num_bytes} bytes and {float(seconds):.2f} s belong to no packet"
    return ""
