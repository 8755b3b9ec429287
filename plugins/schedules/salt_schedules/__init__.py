"""Schedules: a number for every step of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_schedules.config import ConstantConfig, CosineConfig, LinearConfig, WarmupCosineConfig
from salt_toolkit import Component, hookimpl

if TYPE_CHECKING:
    from salt_toolkit.contracts import Schedule


def build_constant(config: ConstantConfig, *, total_steps: int) -> Schedule:
    """Builds a number that never changes."""
    from salt_schedules.curves import Constant

    return Constant(config, total_steps)


def build_linear(config: LinearConfig, *, total_steps: int) -> Schedule:
    """Builds a straight line over the run."""
    from salt_schedules.curves import Linear

    return Linear(config, total_steps)


def build_cosine(config: CosineConfig, *, total_steps: int) -> Schedule:
    """Builds half a cosine wave over the run."""
    from salt_schedules.curves import Cosine

    return Cosine(config, total_steps)


def build_warmup_cosine(config: WarmupCosineConfig, *, total_steps: int) -> Schedule:
    """Builds a straight warm-up and half a cosine wave after it."""
    from salt_schedules.curves import WarmupCosine

    return WarmupCosine(config, total_steps)


@hookimpl
def salt_schedules() -> Iterable[Component]:
    """The schedules of this plugin."""
    yield Component("constant", ConstantConfig, build_constant, "One number for the whole run.")
    yield Component("linear", LinearConfig, build_linear, "A straight line from start to end.")
    yield Component("cosine", CosineConfig, build_cosine, "Half a cosine wave from start to end.")
    yield Component(
        "warmup_cosine", WarmupCosineConfig, build_warmup_cosine, "A straight warm-up to peak, then a cosine to floor."
    )
