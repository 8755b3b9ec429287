"""Settings of the maskers, and how many tokens they hide: by arithmetic, before anything is drawn."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Literal

from pydantic import Field, model_validator

from salt_toolkit import GeometryError, Grid, MaskCounts, MaskerConfig, SettingError
from salt_toolkit.geometry import share_of


class RandomConfig(MaskerConfig):
    """Settings of the random masker."""

    ratio: float = Field(
        0.75, gt=0, lt=1, description="Share of all tokens to hide, rounded down to whole tokens; the rest is visible."
    )

    def counts(self, grid: Grid, ratio: float | None = None) -> MaskCounts:
        """Visible and target tokens of every clip; see `MaskerConfig.counts`."""
        num_target = _num_hidden(self.ratio if ratio is None else ratio, grid.num_tokens, "token", grid)
        return MaskCounts(visible=grid.num_tokens - num_target, target=num_target)


class TubeConfig(MaskerConfig):
    """Settings of the tube masker."""

    ratio: float = Field(
        0.9,
        gt=0,
        lt=1,
        description=(
            "Share of the positions in one frame to hide, rounded down to whole positions; each is hidden in all "
            "frames. 0.9 of 14 x 14 is 176, as in VideoMAE (V-JEPA's random tubes round the visible share down: 177)."
        ),
    )

    def counts(self, grid: Grid, ratio: float | None = None) -> MaskCounts:
        """Visible and target tokens of every clip; see `MaskerConfig.counts`."""
        positions = grid.tokens_per_frame
        num_hidden = self.num_tubes(grid, ratio)
        return MaskCounts(visible=(positions - num_hidden) * grid.frames, target=num_hidden * grid.frames)

    def num_tubes(self, grid: Grid, ratio: float | None = None) -> int:
        """Hidden positions of one frame."""
        return _num_hidden(self.ratio if ratio is None else ratio, grid.tokens_per_frame, "frame position", grid)


class MultiblockConfig(RandomConfig):
    """Settings of the multi-block masker, after V-JEPA (src/masks/multiblock3d.py).

    V-JEPA draws a fixed number of blocks, and then cuts every clip's lists to the shortest in the
    batch. Here blocks are added until ``ratio`` of the tokens is covered, and only the surplus of the
    last block is given back, so that the number of hidden tokens is fixed without regard to a batch.
    """

    spatial_scale: tuple[float, float] = Field(
        (0.15, 0.15), description="Least and largest share of a frame's positions that one block covers."
    )
    temporal_scale: tuple[float, float] = Field(
        (1.0, 1.0), description="Least and largest share of the frames that one block covers."
    )
    aspect: tuple[float, float] = Field(
        (0.75, 1.5), description="Least and largest height over width of a block, both counted in tokens."
    )
    placement: Literal["wrap", "inside"] = Field(
        "wrap",
        description=(
            "wrap: a block that leaves the grid on one side comes in again on the other, so every token is hidden "
            "equally often. inside: blocks stay inside the grid, as V-JEPA publishes; the centre is hidden more "
            "often than the corners (and, for blocks shorter than the clip, the middle frames more than the ends)."
        ),
    )
    trim: Literal["random", "first"] = Field(
        "random",
        description=(
            "Which tokens leave the hidden set when the blocks cover more than ratio. random: randomly drawn tubes of "
            "the last block, so no frame is favoured. first: the latest tokens, which become visible; the last frames "
            "are then hidden less often than the first. V-JEPA drops its surplus from both lists instead."
        ),
    )

    @model_validator(mode="after")
    def _ranges_ascend(self) -> MultiblockConfig:
        for name in ("spatial_scale", "temporal_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                message = f"{name} must be two ascending shares above 0 and up to 1, found {[low, high]}"
                raise SettingError(message, fields=[name])
        if not 0 < self.aspect[0] <= self.aspect[1]:
            message = f"aspect must be two ascending positive ratios, found {list(self.aspect)}"
            raise SettingError(message, fields=["aspect"])
        return self


def _num_hidden(ratio: float, total: int, what: str, grid: Grid) -> int:
    """``ratio`` of ``total``, rounded down; at least one is hidden and at least one is not."""
    hidden = share_of(ratio, total) if 0 <= ratio <= 1 else None
    if hidden is not None and 0 < hidden < total:
        return hidden
    if total == 1:
        raise GeometryError(
            f"a grid of {grid} has only 1 {what}, so none is left either to see or to predict; "
            "choose a larger clip or smaller patches"
        )
    least = (1 / Decimal(total)).quantize(Decimal("0.0001"), ROUND_CEILING).normalize()
    found = "is not a share" if hidden is None else f"hides {'all' if hidden else 'none'}"
    raise GeometryError(
        f"ratio = {ratio} {found} of the {total} {what}s (grid: {grid}); choose a ratio from {least} to below 1"
    )
