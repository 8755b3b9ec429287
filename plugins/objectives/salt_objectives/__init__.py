"""Objectives: losses between predicted and teacher's latents, and the normalisation of the latter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_objectives.config import LatentLossConfig, SmoothL1Config
from salt_toolkit import Component, TokenSpec, hookimpl

if TYPE_CHECKING:
    from salt_toolkit.contracts import Objective


def build_mse(config: LatentLossConfig, *, teacher: TokenSpec) -> Objective:
    """Builds the mean of squared differences."""
    from torch.nn import functional

    from salt_objectives.objective import LatentLoss

    return LatentLoss(config, teacher, functional.mse_loss)


def build_l1(config: LatentLossConfig, *, teacher: TokenSpec) -> Objective:
    """Builds the mean of absolute differences."""
    from torch.nn import functional

    from salt_objectives.objective import LatentLoss

    return LatentLoss(config, teacher, functional.l1_loss)


def build_smooth_l1(config: SmoothL1Config, *, teacher: TokenSpec) -> Objective:
    """Builds the loss that is square near zero and absolute beyond ``beta``."""
    from functools import partial

    from torch.nn import functional

    from salt_objectives.objective import LatentLoss

    return LatentLoss(config, teacher, partial(functional.smooth_l1_loss, beta=config.beta))


def build_cosine(config: LatentLossConfig, *, teacher: TokenSpec) -> Objective:
    """Builds 1 minus the mean cosine."""
    from salt_objectives.objective import LatentLoss, cosine_loss

    return LatentLoss(config, teacher, cosine_loss)


@hookimpl
def salt_objectives() -> Iterable[Component]:
    """The objectives of this plugin."""
    yield Component("mse", LatentLossConfig, build_mse, "Mean squared difference.")
    yield Component("l1", LatentLossConfig, build_l1, "Mean absolute difference, as V-JEPA and SALT.")
    yield Component("smooth_l1", SmoothL1Config, build_smooth_l1, "Squared below beta, absolute above.")
    yield Component("cosine", LatentLossConfig, build_cosine, "1 minus the mean cosine; blind to the latents' length.")
