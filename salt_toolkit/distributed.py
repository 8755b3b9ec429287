"""What a plugin may ask of the other processes of a run; with one process every answer is its own."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def num_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def mean_over_processes(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of a tensor over all processes, which have to ask together; without gradient.

    Every process trains on as many clips as the others, so means over a part of a batch become means over the
    whole of it. Nothing is waited for: on a GPU the answer comes in the order of its work.
    """
    if num_processes() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / num_processes()
