"""Masks for a batch of clips: each a pure function of seed, epoch, clip id and the mask's number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64

from salt_toolkit.contracts import Mask, Masker
from salt_toolkit.errors import PluginError
from salt_toolkit.seeding import generator_for


def masks_for(
    masker: Masker,
    *,
    num_tokens: int,
    seed: int,
    epoch: int,
    clip_ids: Sequence[str],
    ratio: float | None = None,
    number: int = 0,
) -> Mask:
    """Draws one mask per clip, each from its own generator.

    A clip's mask does not depend on the batch, order, worker or rank in which it is drawn.

    Args:
        masker: Draws the masks.
        num_tokens: Tokens of the grid; indices must be smaller.
        seed: The run's seed.
        epoch: Counted from 0; each epoch hides different tokens of a clip.
        clip_ids: One for each row of the result.
        ratio: Share of hidden tokens from a schedule; None takes the masker's own.
        number: Which of a clip's masks, counted from 0; each is drawn independently.

    Returns:
        The masks, on the CPU.

    Raises:
        GeometryError: The ratio leaves no visible token, or no target.
        PluginError: The masker violates the contract of `Masker.draw`.
    """
    counts = masker.counts(ratio)
    visible = np.empty((len(clip_ids), counts.visible), dtype=np.int64)
    target = np.empty((len(clip_ids), counts.target), dtype=np.int64)
    for row, clip_id in enumerate(clip_ids):
        seen, hidden = map(np.asarray, masker.draw(_generator("mask", seed, epoch, clip_id, number), ratio))
        if seen.shape != (counts.visible,) or hidden.shape != (counts.target,):
            raise _broken(
                masker,
                f"gave {seen.size} visible and {hidden.size} target tokens for clip {clip_id!r}, where its counts() "
                f"promised {counts.visible} and {counts.target}",
            )
        if not (np.issubdtype(seen.dtype, np.integer) and np.issubdtype(hidden.dtype, np.integer)):
            raise _broken(masker, f"gave tokens as {seen.dtype} and {hidden.dtype}, where indices are int64")
        visible[row], target[row] = seen, hidden
    _require_places(masker, visible, target, num_tokens)
    return Mask(visible=torch.from_numpy(visible), target=torch.from_numpy(target))


def _require_places(
    masker: Masker, visible: Int64[np.ndarray, "clip visible"], target: Int64[np.ndarray, "clip target"], num: int
) -> None:
    """Refuses indices out of range, duplicated, unsorted, or both visible and target.

    Such masks would train without an error, and a student that sees its targets would merely look good.
    """
    for name, index in (("visible", visible), ("target", target)):
        if index.size and (index.min() < 0 or index.max() >= num):
            raise _broken(masker, f"gave {name} tokens from {index.min()} to {index.max()} of a grid of {num}")
        if (np.diff(index, axis=1) <= 0).any():
            raise _broken(masker, f"gave {name} tokens that do not ascend, or one of them twice")
    both = np.sort(np.concatenate((visible, target), axis=1), axis=1)
    if (np.diff(both, axis=1) == 0).any():
        raise _broken(masker, "gave tokens that are visible and targets at once")


def _broken(masker: Masker, what: str) -> PluginError:
    return PluginError(f"{type(masker).__name__}.draw() {what}; fix the masker")


def some_targets(
    mask: Mask, num_target: int, *, seed: int, epoch: int, clip_ids: Sequence[str], number: int = 0
) -> Mask:
    """Keeps a random subset of each mask's targets; the others become neither visible nor targets.

    The choice does not depend on batch, order, worker or rank. Smaller subsets of the same mask are contained in
    larger ones.

    Args:
        mask: On the CPU, as `masks_for` gives it for the same arguments.
        num_target: Targets to keep per clip.
        seed: The run's seed.
        epoch: Counted from 0.
        clip_ids: One for each row of the mask.
        number: Which of a clip's masks, counted from 0.
    """
    drawn = mask.target.numpy()
    if num_target == drawn.shape[1]:
        return mask
    target = np.empty((len(clip_ids), num_target), dtype=np.int64)
    for row, clip_id in enumerate(clip_ids):
        order = _generator("targets", seed, epoch, clip_id, number).permutation(drawn.shape[1])
        target[row] = drawn[row, np.sort(order[:num_target])]
    return Mask(visible=mask.visible, target=torch.from_numpy(target))


def _generator(purpose: str, seed: int, epoch: int, clip_id: str, number: int) -> np.random.Generator:
    # The first mask's key has no number, so that it equals the mask of a run with one mask per clip.
    return generator_for(seed, purpose, epoch, clip_id, *([number] if number else []))
