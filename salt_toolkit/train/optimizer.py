"""AdamW, set from the schedules at every step."""

from __future__ import annotations

from typing import Any

import torch

from salt_toolkit.contracts import Method, ParameterGroup
from salt_toolkit.errors import PluginError
from salt_toolkit.recipe.core_sections import OptimizerSection
from salt_toolkit.train.checkpoint import owned_parameters


def build_optimizer(method: Method, section: OptimizerSection) -> torch.optim.AdamW:
    """Fused AdamW; each of the method's groups is split so that 1-D parameters (biases, norms) have no weight decay.

    Raises:
        PluginError: A group contains a parameter that is not trained, or a parameter appears twice.
    """
    groups = [group for each in _groups(method) for group in _by_decay(each)]
    return torch.optim.AdamW(groups, lr=0.0, betas=section.betas, eps=section.eps, weight_decay=0.0, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Sets a step's learning rate, and its weight decay where the group has any."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        group["weight_decay"] = weight_decay * group["decay_factor"]


def _groups(method: Method) -> list[ParameterGroup]:
    """All trainable parameters; those that the method puts in no group come first."""
    left = {id(parameter): parameter for parameter in owned_parameters(method).values()}
    groups = list(method.parameter_groups())
    for group in groups:
        for parameter in group.parameters:
            if left.pop(id(parameter), None) is None:
                raise PluginError(
                    f"{type(method).__name__}.parameter_groups() names a parameter of shape {tuple(parameter.shape)} "
                    "twice, or one of no owned module, or one that does not learn"
                )
    return [ParameterGroup(list(left.values())), *groups]


def _by_decay(group: ParameterGroup) -> list[dict[str, Any]]:
    decayed = [parameter for parameter in group.parameters if parameter.ndim > 1]
    undecayed = [parameter for parameter in group.parameters if parameter.ndim <= 1]
    return [
        {"params": decayed, "lr_factor": group.lr, "decay_factor": group.weight_decay},
        {"params": undecayed, "lr_factor": group.lr, "decay_factor": 0.0, "weight_decay": 0.0},
    ]
