"""How much memory and disk a recipe takes, by arithmetic; no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from salt_toolkit.cache.encodings import Coding
from salt_toolkit.geometry import Cost, TokenSpec
from salt_toolkit.recipe import CacheSection, Recipe

FP32 = 4
"""Bytes of a number in weights, gradients and AdamW's two moments."""


@dataclass(frozen=True)
class TrainedCosts:
    """What the parts of a training cost for one clip.

    Attributes:
        student: All its passes together.
        predictor: Likewise.
        teachers: All of them together; None where they have no weights, or that is unknown.
    """

    student: Cost
    predictor: Cost
    teachers: Cost | None


def device_memory(recipe: Recipe, costs: TrainedCosts) -> int:
    """Bytes on the device: weights, gradients, moments, and the activations of a batch, without what kernels borrow."""
    trained = costs.student.parameters + costs.predictor.parameters
    weights = 4 * FP32 * trained + _average(recipe, costs)
    if costs.teachers:
        weights += FP32 * costs.teachers.parameters
    number = 2 if recipe.train.precision == "bf16" else FP32
    return weights + recipe.train.batch_size * number * (costs.student.activations + costs.predictor.activations)


def checkpoint_disk(recipe: Recipe, costs: TrainedCosts, num_steps: int | None) -> int:
    """Bytes of all checkpoints that lie on the disk at once, and of the finished student."""
    trained = costs.student.parameters + costs.predictor.parameters
    one = 3 * FP32 * trained + _average(recipe, costs)
    # One more is there while it is written.
    number = recipe.train.keep_checkpoints + 1
    if recipe.train.keep_every and num_steps:
        number += num_steps // recipe.train.keep_every
    return number * one + FP32 * costs.student.parameters + _average(recipe, costs)


def host_memory(recipe: Recipe, teachers: Collection[TokenSpec]) -> int:
    """Bytes of the clips that the loader holds, and of their cached latents where the recipe has a cache."""
    clip = clip_bytes(recipe)
    if recipe.cache:
        clip += latent_bytes(recipe.cache, teachers)
    # As many batches as the loader's ring of memory holds.
    batches = 2 * recipe.loader.prefetch + 2
    return batches * recipe.train.batch_size * clip + recipe.loader.ram_cache_mb * 10**6


def cache_disk(recipe: Recipe, cache: CacheSection, teachers: Collection[TokenSpec], num_clips: int) -> int:
    """Bytes of a complete cache: every view of every clip."""
    row = latent_bytes(cache, teachers) + (clip_bytes(recipe) if cache.keep else 0)
    return num_clips * recipe.clip.views * row


def latent_bytes(cache: CacheSection, teachers: Collection[TokenSpec]) -> int:
    """Bytes of one clip's latents as a cache stores them, each teacher's on its own grid."""
    streams = (
        stream
        for spec in teachers
        for stream in Coding("latents", "F32", (spec.grid.num_tokens, spec.dim), cache.dtype).streams
    )
    return sum(stream.row_bytes for stream in streams)


def clip_bytes(recipe: Recipe) -> int:
    """Bytes of one clip's pixels."""
    return 3 * recipe.clip.frames * recipe.clip.size**2


def _average(recipe: Recipe, costs: TrainedCosts) -> int:
    """Bytes of the student's averaged weights, if there are any."""
    return FP32 * costs.student.parameters if recipe.train.ema is not None else 0
