"""AdamW, set from the schedules at every step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from salt_toolkit.contracts import Method
from salt_toolkit.recipe.model import OptimizerSection
from salt_toolkit.train.checkpoint import owned_parameters


def build_optimizer(method: Method, section: OptimizerSection) -> torch.optim.AdamW:
    """Fused AdamW in two groups: with weight decay, and without (biases, norms: whatever is 1-D)."""
    parameters: Mapping[str, nn.Parameter] = owned_parameters(method)
    decayed = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    undecayed = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [{"params": decayed, "decays": True}, {"params": undecayed, "decays": False, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=section.betas, eps=section.eps, weight_decay=0.0, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Sets a step's learning rate, and its weight decay where the group has any."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0
