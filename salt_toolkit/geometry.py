"""The arithmetic of clips and tokens: integers only, and no torch.

Everything that a recipe promises about shapes is decided here, before anything is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from salt_toolkit.errors import GeometryError, SettingError


class ClipSpec(BaseModel):
    """How a video becomes a clip: the ``[clip]`` section of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    frames: int = Field(default=16, ge=1, description="Frames in a clip, as the models see them.")
    stride: int = Field(default=2, ge=1, description="Video frames from one clip frame to the next.")
    size: int = Field(default=224, ge=1, description="Height and width of a clip, in pixels.")
    start: Literal["random", "center"] = Field(
        default="random", description="Where the clip lies in its video: drawn for each view, or the middle."
    )
    crop: Literal["center", "random_resized"] = Field(
        default="center",
        description="The picture's part: the largest centred square, or a box drawn for each view.",
    )
    crop_scale: tuple[float, float] = Field(
        default=(0.3, 1.0), description="Least and largest share of the picture's area in a random_resized box."
    )
    crop_aspect: tuple[float, float] = Field(
        default=(0.75, 1.35), description="Least and largest width over height of a random_resized box."
    )
    flip: bool = Field(
        default=False, description="Mirror half of the views left to right (wrong where left and right matter)."
    )
    views: int = Field(
        default=1, ge=1, description="Different views of each video; epoch e reads view e modulo this number."
    )
    short: Literal["skip", "repeat_last"] = Field(
        default="skip",
        description="A video shorter than (frames - 1) * stride + 1 frames: a bad clip, or its last frame repeats.",
    )

    @model_validator(mode="after")
    def _ranges_ascend(self) -> ClipSpec:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            message = f"crop_scale must be two ascending shares within 0 to 1, found {list(self.crop_scale)}"
            raise SettingError(message, fields=["crop_scale"])
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            message = f"crop_aspect must be two ascending positive ratios, found {list(self.crop_aspect)}"
            raise SettingError(message, fields=["crop_aspect"])
        return self

    @property
    def span(self) -> int:
        """Video frames from the clip's first to its last frame, both counted."""
        return (self.frames - 1) * self.stride + 1

    @property
    def draws(self) -> bool:
        """Whether chance decides which frames and which part of the picture a clip shows."""
        return self.start == "random" or self.crop != "center" or self.flip

    def identity(self) -> dict[str, Any]:
        """The settings that decide a clip's numbers, in plain values; not those without effect."""
        idle: set[str] = {"crop_scale", "crop_aspect"} if self.crop == "center" else set()
        return self.model_dump(mode="json", exclude={"views", *idle})

    def for_evaluation(self) -> ClipSpec:
        """The same clip without chance: the middle of the video, the centre of the picture."""
        return self.model_copy(update={"start": "center", "crop": "center", "flip": False, "views": 1})


@dataclass(frozen=True)
class Grid:
    """A clip cut into tokens: frames x rows x columns, **counted in tokens**.

    Tokens are numbered time-major: ``(frame * rows + row) * columns + column``.
    """

    frames: int
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if min(self.frames, self.rows, self.columns) < 1:
            raise GeometryError(f"a token grid needs at least 1 x 1 x 1 tokens, found {self}")

    @classmethod
    def of(cls, clip: ClipSpec, *, tubelet: int, patch: int) -> Grid:
        """The grid of a clip cut into cuboids of ``tubelet`` frames x ``patch`` x ``patch`` pixels.

        Raises:
            GeometryError: The cuboids do not tile the clip.
        """
        _require_multiple("clip.frames", clip.frames, tubelet, f"tubelet of {tubelet} frames")
        _require_multiple("clip.size", clip.size, patch, f"patch of {patch} pixels")
        return cls(clip.frames // tubelet, clip.size // patch, clip.size // patch)

    @property
    def num_tokens(self) -> int:
        """Tokens in the whole clip."""
        return self.frames * self.tokens_per_frame

    @property
    def tokens_per_frame(self) -> int:
        """Tokens in one token frame (that is, in one tubelet of video frames)."""
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.frames} x {self.rows} x {self.columns} = {self.num_tokens} tokens"


@dataclass(frozen=True)
class TokenSpec:
    """What a model gives for a clip: one vector of ``dim`` numbers for each token of ``grid``."""

    grid: Grid
    dim: int

    def __str__(self) -> str:
        return f"{self.grid} of {self.dim} numbers"


@dataclass(frozen=True)
class MaskCounts:
    """How many tokens of every clip are visible, and how many are targets; the rest is neither."""

    visible: int
    target: int


@dataclass(frozen=True)
class Cost:
    """What a module costs, by arithmetic; 2 FLOPs are one multiplication with its addition.

    Attributes:
        parameters: Learnable numbers.
        forward_flops: FLOPs of one clip's forward pass (matrix products only, as profilers count).
        input_flops: The share of ``forward_flops`` in layers fed by data itself, for which no
            input gradient is ever computed.
        activations: Numbers that one clip's forward pass keeps for the backward pass, roughly.
    """

    parameters: int
    forward_flops: int
    input_flops: int = 0
    activations: int = 0

    def times(self, passes: int) -> Cost:
        """What ``passes`` forward passes for one clip cost, all with the same parameters."""
        return Cost(
            parameters=self.parameters,
            forward_flops=passes * self.forward_flops,
            input_flops=passes * self.input_flops,
            activations=passes * self.activations,
        )


def share_of(ratio: float, total: int) -> int:
    """``ratio`` of ``total``, rounded down, with the ratio taken as the decimal that was written.

    Exact decimals matter: in floating point 0.29 * 100 is 28.999..., and would lose a token.
    """
    return math.floor(Fraction(str(ratio)) * total)


def _require_multiple(name: str, size: int, piece: int, what: str) -> None:
    if size % piece:
        raise GeometryError(f"{name} = {size} is not a multiple of the {what}; choose {_multiples_near(size, piece)}")


def _multiples_near(number: int, unit: int) -> str:
    below = number // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)
