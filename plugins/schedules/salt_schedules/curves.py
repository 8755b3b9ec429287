"""The schedules: pure functions of the step, exact at their ends.

Steps count from 0; the end value is reached at ``total_steps``, one step after the last one trained,
as in torch's schedulers. Later steps keep the value of ``total_steps``.
"""

from __future__ import annotations

import math

from salt_schedules.config import ConstantConfig, CosineConfig, LinearConfig, WarmupCosineConfig
from salt_toolkit.errors import Problem, RecipeError


class Constant:
    """One number for the whole run."""

    def __init__(self, config: ConstantConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = _at_least_one(total_steps)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.config.value


class Linear:
    """A straight line from ``start`` to ``end``."""

    def __init__(self, config: LinearConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = _at_least_one(total_steps)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return _between(self.config.start, self.config.end, min(step / self.total_steps, 1.0))


class Cosine:
    """Half a cosine wave from ``start`` to ``end`` (SGDR, arXiv 1608.03983, equation 5, without restarts)."""

    def __init__(self, config: CosineConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = _at_least_one(total_steps)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return _between(self.config.start, self.config.end, _half_wave(min(step / self.total_steps, 1.0)))


class WarmupCosine:
    """A straight line from ``start`` to ``peak``, then half a cosine wave to ``floor``.

    Source: V-JEPA (src/utils/schedulers.py), whose ``ipe_scale`` is ``horizon`` here.

    Raises:
        RecipeError: The warm-up leaves no step for the cosine.
    """

    def __init__(self, config: WarmupCosineConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = _at_least_one(total_steps)
        if config.warmup_steps >= total_steps:
            message = (
                f"a warm-up of {config.warmup_steps} steps leaves no step for the cosine in a run of {total_steps}; "
                f"choose at most {total_steps - 1}, or train longer"
            )
            raise RecipeError([Problem("warmup_steps", message)])

    def __call__(self, step: int) -> float:
        """The value at a step."""
        config = self.config
        if step < config.warmup_steps:
            return _between(config.start, config.peak, step / config.warmup_steps)
        length = config.horizon * self.total_steps - config.warmup_steps
        done = min(step, self.total_steps) - config.warmup_steps
        return _between(config.peak, config.floor, _half_wave(done / length))


def _between(start: float, end: float, share: float) -> float:
    # Not start + share * (end - start), which misses end by a rounding error at share = 1.
    return (1.0 - share) * start + share * end


def _half_wave(share: float) -> float:
    return (1.0 - math.cos(math.pi * share)) / 2


def _at_least_one(total_steps: int) -> int:
    if total_steps < 1:
        raise RecipeError([Problem("", f"a run of {total_steps} steps has nothing to schedule; train at least 1 step")])
    return total_steps
