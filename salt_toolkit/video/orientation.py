"""How a stored picture has to be turned or mirrored before it is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from jaxtyping import UInt8


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways in which a picture can lie, as a file's display matrix says it.

    The matrix (ISO 14496-12, 8.3.2) takes the place (p, q) = (column, row) of a stored pixel to (a p + c q, b p + d q).
    Only the signs count: a matrix that is no quarter turn is taken for the nearest one, as cameras' small angles are.

    Attributes:
        transposed: Rows and columns change places, first.
        mirrored: Columns then run from right to left.
        upside_down: Rows then run from bottom to top.
    """

    transposed: bool = False
    mirrored: bool = False
    upside_down: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """What the file asks for; FFmpeg's decoders report it with a frame, and do not apply it."""
        stored = frame.side_data.get("DISPLAYMATRIX")
        if stored is None:
            return cls()
        a, b, _, c, d, *_ = np.frombuffer(bytes(stored)[:36], dtype=np.int32).tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(transposed=True, mirrored=c < 0, upside_down=b < 0)
        return cls(mirrored=a < 0, upside_down=d < 0)

    def apply(
        self, picture: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "upright_height upright_width 3"]:
        """The picture upright; a view of the same memory."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]
