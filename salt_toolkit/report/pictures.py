"""Pictures of a run: its curves, and its masks on a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from salt_toolkit.geometry import Grid
from salt_toolkit.system.files import read_lines

CURVES = {
    "loss": "loss",
    "explained_variance": "explained variance of the targets (R²)",
    "cosine": "cosine to the targets",
    "lr": "learning rate",
}


def draw_curves(runs: Mapping[str, Path], picture: Path) -> None:
    """Draws the metrics of several runs side by side.

    Args:
        runs: ``metrics.jsonl`` files by the name of their run.
        picture: Where to; a PNG.
    """
    figure = _figure(9.6, 5.6)
    panels = figure.subplots(2, 2).flat
    for panel, (metric, title) in zip(panels, CURVES.items(), strict=True):
        for name, file in runs.items():
            lines = [line for line in read_lines(file) if metric in line]
            panel.plot([line["step"] for line in lines], [line[metric] for line in lines], label=name, linewidth=1.2)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step", fontsize=8)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=8)
        panel.legend(fontsize=8)
    figure.savefig(picture, dpi=120)


def draw_masks(
    clip: UInt8[np.ndarray, "frames height width channels"],
    grid: Grid,
    visible: Mapping[str, Sequence[int]],
    picture: Path,
) -> None:
    """Draws a clip's frames, and below them what each masker leaves visible.

    Args:
        clip: One clip.
        grid: Its tokens.
        visible: Indices of visible tokens by the name of their masker.
        picture: Where to; a PNG.
    """
    rows: dict[str, np.ndarray] = {"clip": clip}
    rows.update({name: grey_out(clip, grid, tokens) for name, tokens in visible.items()})
    figure = _figure(1.3 * len(clip), 1.45 * len(rows))
    panels = figure.subplots(len(rows), len(clip), squeeze=False)
    for line, (name, frames) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for number, (panel, frame) in enumerate(zip(line, frames, strict=True)):
            panel.imshow(frame, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            if name == "clip":
                panel.set_title(f"frame {number}", fontsize=8)
    figure.savefig(picture, dpi=110)


def grey_out(
    clip: UInt8[np.ndarray, "frames height width channels"], grid: Grid, visible: Sequence[int]
) -> UInt8[np.ndarray, "frames height width channels"]:
    """The clip with grey where a token is not visible."""
    seen = np.zeros(grid.num_tokens, dtype=bool)
    seen[list(visible)] = True
    shape = (grid.frames, grid.rows, grid.columns)
    pixels = seen.reshape(shape)
    for axis in range(3):
        pixels = pixels.repeat(clip.shape[axis] // shape[axis], axis=axis)
    return np.where(pixels[..., None], clip, np.uint8(128))


def _figure(width: float, height: float) -> Figure:
    # A figure of its own, not pyplot's: no display, no global state.
    with mpl.rc_context({"font.size": 9}):
        figure: Any = Figure(figsize=(width, height), layout="constrained")
    return figure
