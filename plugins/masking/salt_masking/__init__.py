"""Maskers: which tokens of a clip the student sees, and which it has to predict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_masking.config import MultiblockConfig, RandomConfig, TubeConfig
from salt_toolkit import Component, Grid, hookimpl

if TYPE_CHECKING:
    from salt_toolkit.contracts import Masker


def build_random(config: RandomConfig, *, grid: Grid) -> Masker:
    """Builds the masker that hides tokens one by one."""
    from salt_masking.scattered import RandomMasker

    return RandomMasker(config, grid)


def build_tube(config: TubeConfig, *, grid: Grid) -> Masker:
    """Builds the masker that hides the same positions in every frame."""
    from salt_masking.scattered import TubeMasker

    return TubeMasker(config, grid)


def build_multiblock(config: MultiblockConfig, *, grid: Grid) -> Masker:
    """Builds the masker that hides a union of blocks."""
    from salt_masking.multiblock import MultiblockMasker

    return MultiblockMasker(config, grid)


@hookimpl
def salt_maskers() -> Iterable[Component]:
    """The maskers of this plugin."""
    yield Component("random", RandomConfig, build_random, "Hides tokens drawn one by one.")
    yield Component("tube", TubeConfig, build_tube, "Hides the same positions in every frame, as VideoMAE does.")
    yield Component("multiblock", MultiblockConfig, build_multiblock, "Hides a union of blocks, after V-JEPA.")
