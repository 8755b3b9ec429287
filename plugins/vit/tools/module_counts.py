"""Counts on built modules, for the tables of models."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module) -> int:
    """Numbers that a module could learn."""
    return sum(parameter.numel() for parameter in module.parameters())


def linear_weights(block: nn.Module) -> int:
    """Weights of a block's Linear layers; every token meets each of them once."""
    return sum(module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear))


def attention_flops(block: nn.Module, dim: int) -> int:
    """FLOPs of a block for each pair of tokens, as torch counts them, besides those of its Linear layers.

    Args:
        block: On torch's meta device.
        dim: Numbers in one token.
    """
    num_tokens = 2
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        block(torch.empty(1, num_tokens, dim))
    return (counter.get_total_flops() - 2 * num_tokens * linear_weights(block)) // num_tokens**2
