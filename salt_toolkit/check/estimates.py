"""How much memory and disk a recipe takes, by arithmetic; no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from salt_toolkit.cache.encodings import Coding
from salt_toolkit.cache.identity import kept_tensors
from salt_toolkit.geometry import Cost
from salt_toolkit.recipe import Recipe
from salt_toolkit.streams import SampleSpec, sample_bytes

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


@dataclass(frozen=True)
class SampleBytes:
    """Bytes of one sample on its way to the model, and in a cache.

    Attributes:
        sample: Its tensors, as the data set gives them.
        latents: The teachers' outputs, as the cache stores them; 0 without one.
        kept: What the cache stores of the sample's own tensors.
    """

    sample: int
    latents: int
    kept: int

    @classmethod
    def of(cls, recipe: Recipe, teachers: Collection[SampleSpec]) -> SampleBytes:
        """By arithmetic, from what data set and teachers declare."""
        sample = recipe.inputs().sample
        if recipe.cache is None:
            return cls(sample_bytes(sample), 0, 0)
        dtype = recipe.cache.dtype
        streams = [each for teacher in teachers for each in teacher.values()]
        codings = [Coding.of("", each.dtype, each.shape, each.encoding or dtype) for each in streams]
        latents = sum(stream.row_bytes for coding in codings for stream in coding.streams)
        return cls(
            sample_bytes(sample), latents, sum(sample[name].num_bytes for name in kept_tensors(recipe, recipe.clip))
        )


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


def host_memory(recipe: Recipe, each: SampleBytes) -> int:
    """Bytes of the samples that the loader holds, and of their cached latents where the recipe has a cache."""
    # As many batches as the loader's ring of memory holds.
    batches = 2 * recipe.loader.prefetch + 2
    return batches * recipe.train.batch_size * (each.sample + each.latents) + recipe.loader.ram_cache_mb * 10**6


def cache_disk(recipe: Recipe, each: SampleBytes, num_clips: int) -> int:
    """Bytes of a complete cache: every view of every sample."""
    return num_clips * recipe.views * (each.latents + each.kept)


def _average(recipe: Recipe, costs: TrainedCosts) -> int:
    """Bytes of the student's averaged weights, if there are any."""
    return FP32 * costs.student.parameters if recipe.train.ema is not None else 0
