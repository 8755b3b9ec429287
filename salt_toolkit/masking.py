"""Masks for a batch of clips: each a pure function of seed, epoch and clip id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from salt_toolkit.contracts import Mask, Masker
from salt_toolkit.errors import PluginError
from salt_toolkit.seeding import generator_for


def masks_for(masker: Masker, *, seed: int, epoch: int, clip_ids: Sequence[str], ratio: float | None = None) -> Mask:
    """Draws one mask for each clip, every one from a generator of its own.

    A clip's mask is the same whatever the batch, the order, the worker or the rank it meets it in.

    Args:
        masker: Draws the masks.
        seed: The run's seed.
        epoch: Counted from 0; each epoch hides other tokens of a clip.
        clip_ids: One for each row of the result.
        ratio: Share of hidden tokens from a schedule; None takes the masker's own.

    Returns:
        The masks, on the CPU.

    Raises:
        GeometryError: The ratio leaves no token to see, or none to predict.
        PluginError: The masker drew another number of tokens than it promised.
    """
    counts = masker.counts(ratio)
    visible = np.empty((len(clip_ids), counts.visible), dtype=np.int64)
    target = np.empty((len(clip_ids), counts.target), dtype=np.int64)
    for row, clip_id in enumerate(clip_ids):
        seen, hidden = masker.draw(generator_for(seed, "mask", epoch, clip_id), ratio)
        if seen.shape != (counts.visible,) or hidden.shape != (counts.target,):
            raise PluginError(
                f"{type(masker).__name__}.draw() gave {seen.size} visible and {hidden.size} target tokens for clip "
                f"{clip_id!r}, where its counts() promised {counts.visible} and {counts.target}; mend the masker"
            )
        visible[row], target[row] = seen, hidden
    return Mask(visible=torch.from_numpy(visible), target=torch.from_numpy(target))
