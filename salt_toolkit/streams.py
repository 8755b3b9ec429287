"""What a sample, or a model's output, consists of: named tensors, declared by arithmetic; no torch.

A `StreamSpec` describes one tensor of one sample, without the batch axis. A `SampleSpec` maps names to such
specs. Data sets declare their samples in this form, and teachers their outputs, so disk, memory and random test
batches follow from the declaration alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import ClipSpec, Grid, TokenSpec

Encoding = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
"""How a cache may store the floating-point numbers of a stream."""

CLIP = "clip"
"""The tensor of a video's frames: uint8 of shape (frames, height, width, channels)."""

LATENTS = "latents"
"""The stream of a teacher, and of a student, that declares nothing but `token_spec`."""

ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes of one number, by safetensors' names of types."""


@dataclass(frozen=True)
class StreamSpec:
    """One named tensor of a sample.

    Attributes:
        shape: Of one sample, without the batch axis; () for a single number.
        dtype: safetensors' name of its type, such as "F32", "BF16", "U8" or "I64".
        grid: If it holds a grid's tokens: which grid. Either the first axis counts all tokens, or the first counts
            frames and the second the tokens of one frame, as image models give them.
        prefix: Tokens before those of the grid, such as class and register tokens: once, or at the head of each
            frame where the first axis counts frames.
        encoding: How a cache stores it; None: as the recipe's ``cache.dtype`` says. Whole numbers are stored as
            they are.

    Raises:
        GeometryError: The values contradict one another.
    """

    shape: tuple[int, ...]
    dtype: str = "F32"
    grid: Grid | None = None
    prefix: int = 0
    encoding: Encoding | None = None

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.shape):
            raise GeometryError(f"every axis of a stream has at least one entry, found the shape {self.shape}")
        if self.dtype not in ITEM_BYTES:
            raise GeometryError(f"a stream's dtype is one of {', '.join(ITEM_BYTES)}; found {self.dtype!r}")
        if self.encoding is not None and not self.is_float:
            raise GeometryError(f"{self.dtype} is stored as it is; take encoding = {self.encoding!r} away")
        if self.prefix < 0 or (self.prefix and self.grid is None):
            raise GeometryError(f"prefix counts the tokens before those of a grid, found {self.prefix} and no grid")
        if self.grid is not None and not (self._is_flat or self.by_frame):
            per_frame = self.prefix + self.grid.rows * self.grid.columns
            raise GeometryError(
                f"the first axis of {self.shape} counts tokens: expected {self.prefix + self.grid.num_tokens} "
                f"({self.prefix} before the grid and {self.grid}), or {self.grid.frames} frames of {per_frame}"
            )

    @property
    def _is_flat(self) -> bool:
        return self.grid is not None and self.shape[:1] == (self.prefix + self.grid.num_tokens,)

    @property
    def by_frame(self) -> bool:
        """Whether the first axis counts frames and the second the tokens of a frame, its prefix first."""
        if self.grid is None or self._is_flat:
            return False
        return self.shape[:2] == (self.grid.frames, self.prefix + self.grid.rows * self.grid.columns)

    @property
    def is_float(self) -> bool:
        """Whether its numbers are floating-point numbers."""
        return "F" in self.dtype

    @property
    def numel(self) -> int:
        """Numbers in one sample's tensor."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of one sample's tensor, unencoded."""
        return self.numel * ITEM_BYTES[self.dtype]

    @property
    def tokens(self) -> TokenSpec | None:
        """Grid and width, without the prefix, where the stream has a vector for every token of a grid."""
        vector = self.shape[2:] if self.by_frame else self.shape[1:]
        return TokenSpec(self.grid, vector[0]) if self.grid is not None and len(vector) == 1 else None

    def __str__(self) -> str:
        if self.tokens is not None and self.by_frame:
            before = f", with {self.prefix} more before each frame's" if self.prefix else ", frame by frame"
            return f"{self.tokens}{before}"
        if self.tokens is not None:
            before = f"{self.prefix} and " if self.prefix else ""
            return f"{before}{self.tokens}"
        return f"{' x '.join(map(str, self.shape)) or '1'} of {self.dtype}"


SampleSpec: TypeAlias = Mapping[str, StreamSpec]
"""The tensors of one sample, or the outputs of one forward pass, by name."""


def clip_stream(clip: ClipSpec) -> StreamSpec:
    """The frames of a clip, as decoders write them."""
    return StreamSpec((clip.frames, clip.size, clip.size, 3), "U8")


def token_stream(spec: TokenSpec) -> StreamSpec:
    """A vector of float32 for every token of a grid."""
    return StreamSpec((spec.grid.num_tokens, spec.dim), "F32", spec.grid)


def sample_bytes(sample: SampleSpec) -> int:
    """Bytes of all tensors of one sample, unencoded."""
    return sum(stream.num_bytes for stream in sample.values())
