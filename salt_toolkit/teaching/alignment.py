"""Teachers whose clips or grids differ from the student's: pixels are fitted, latents are resampled."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import Grid, TokenSpec
from salt_toolkit.streams import LATENTS, StreamSpec


def fit_clip(
    clip: UInt8[Tensor, "batch channels frames height width"], *, frames: int, size: int
) -> UInt8[Tensor, "batch channels model_frames model_size model_size"]:
    """Brings clips to the frames and pixels that a model wants; clips that have them stay untouched.

    Frames are picked evenly, each from the middle of its share of the clip, so that a longer wish
    repeats frames and a shorter one leaves some out. Pictures are resized bilinearly, with
    antialiasing.
    """
    found = clip.shape[2]
    if found != frames:
        picked = [(2 * index + 1) * found // (2 * frames) for index in range(frames)]
        clip = clip[:, :, torch.tensor(picked, device=clip.device)]
    if clip.shape[-2:] == (size, size):
        return clip
    pictures = clip.transpose(1, 2).flatten(0, 1).float()
    resized = functional.interpolate(pictures, (size, size), mode="bilinear", antialias=True, align_corners=False)
    resized = resized.round_().clamp_(0, 255).to(torch.uint8)
    return resized.unflatten(0, (clip.shape[0], frames)).transpose(1, 2)


def resampling_matrix(source: int, target: int) -> Float64[Tensor, "target source"]:
    """Weights that resample a row of ``source`` cells to ``target`` cells over the same length.

    A cell takes the source cells that it overlaps, each by its overlap (so four frames to two are
    plain means, and nothing is skipped), and at least the two that lie nearest. Then the weights are
    tilted so that they sum to 1 and average the source cells' centres to its own centre: whatever is
    constant or linear along the row stays so, up to the borders.
    """
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for row in range(target):
        begin, end = Fraction(row * source, target), Fraction((row + 1) * source, target)
        centre = (begin + end) / 2
        cells = range(math.floor(begin), math.ceil(end))
        overlaps = {cell: min(end, Fraction(cell + 1)) - max(begin, Fraction(cell)) for cell in cells}
        if len(overlaps) == 1 and source > 1:
            near = sorted(range(source), key=lambda cell: abs(Fraction(2 * cell + 1, 2) - centre))[:2]
            overlaps = dict.fromkeys(near, Fraction(1))
        for cell, weight in _tilted(overlaps, centre).items():
            matrix[row, cell] = float(weight)
    return matrix


def _tilted(overlaps: dict[int, Fraction], centre: Fraction) -> dict[int, Fraction]:
    """Multiplies weights by a line so that they sum to 1 and their mean place is ``centre``; exact."""
    offsets = {cell: Fraction(2 * cell + 1, 2) - centre for cell in overlaps}
    zeroth = sum(overlaps.values(), Fraction(0))
    first = sum((weight * offsets[cell] for cell, weight in overlaps.items()), Fraction(0))
    second = sum((weight * offsets[cell] ** 2 for cell, weight in overlaps.items()), Fraction(0))
    spread = zeroth * second - first**2
    if spread == 0:  # one cell alone
        return {cell: weight / zeroth for cell, weight in overlaps.items()}
    return {cell: weight * (second - first * offsets[cell]) / spread for cell, weight in overlaps.items()}


class GridAlignment(nn.Module):
    """Resamples latents from one token grid to another: over frames, rows and columns, one after another.

    Args:
        source: The latents' grid.
        target: The grid wanted, over the same clip.
    """

    def __init__(self, source: Grid, target: Grid) -> None:
        super().__init__()
        self.source, self.target = source, target
        for axis in ("frames", "rows", "columns"):
            matrix = resampling_matrix(getattr(source, axis), getattr(target, axis)).float()
            self.register_buffer(axis, matrix, persistent=False)

    def forward(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch aligned dim"]:
        """The latents on the target grid, time-major."""
        if self.source == self.target:
            return latents
        grid = latents.unflatten(1, (self.source.frames, self.source.rows, self.source.columns))
        for axis, name in ((1, "frames"), (2, "rows"), (3, "columns")):
            matrix = getattr(self, name)
            if matrix.shape[0] != matrix.shape[1]:
                grid = (grid.movedim(axis, -1) @ matrix.to(grid.dtype).T).movedim(-1, axis)
        return grid.flatten(1, 3)


class AlignedTeacher(Teacher):
    """A teacher whose latents are resampled to the student's grid, without the tokens before its own grid.

    Args:
        teacher: With its own grid.
        grid: The student's.
        name: Of the teacher's stream.
        stream: The stream; None: what the teacher's ``token_spec`` says.
    """

    def __init__(self, teacher: Teacher, grid: Grid, name: str = LATENTS, stream: StreamSpec | None = None) -> None:
        super().__init__()
        own = stream.tokens if stream else teacher.token_spec
        if own is None:
            raise GeometryError(f"the stream {name} is {stream}: it lies on no grid, so it cannot be resampled")
        self.teacher, self.name = teacher, name
        self.prefix, self.by_frame = (stream.prefix, stream.by_frame) if stream else (0, False)
        self.alignment = GridAlignment(own.grid, grid)
        self.token_spec = TokenSpec(grid, own.dim)

    @torch.no_grad()
    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """The teacher's latents of whole clips, on the student's grid."""
        latents = self.teacher.outputs(batch)[self.name]
        latents = latents[:, :, self.prefix :].flatten(1, 2) if self.by_frame else latents[:, self.prefix :]
        latents = latents.float()
        with torch.autocast(latents.device.type, enabled=False):  # which would resample in half precision
            return self.alignment(latents)
