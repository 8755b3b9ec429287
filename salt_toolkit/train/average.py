"""Exponential moving average of exported weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from salt_toolkit.train.processes import replicated_like


class WeightAverage:
    """An exponential moving average of some modules' parameters; buffers are the modules' own.

    The decay warms up as ``(1 + n) / (10 + n)`` after n updates, so that the random initial weights are quickly
    forgotten (as in TensorFlow's ExponentialMovingAverage).

    Args:
        modules: Modules to average, by name; the average starts at their current parameters.
        decay: Decay after warm-up.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.modules = modules
        self.decay = decay
        self._average = {name: parameter.detach().clone() for name, parameter in self._parameters()}

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Moves the average towards the parameters.

        Args:
            step: Steps of the run so far.
            skipped: On the device: 1 if the last step was skipped, which leaves the average unchanged; 0 otherwise.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        weight = (1 - decay) * (1 - skipped)
        parameters = dict(self._parameters())
        for name, average in self._average.items():
            average.lerp_(parameters[name], replicated_like(weight, average))

    def tensors(self) -> dict[str, Tensor]:
        """The averages, by ``module.parameter``; sharded like the parameters."""
        return dict(self._average)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores saved averages, which are sharded like the parameters."""
        for name, tensor in tensors.items():
            self._average[name].copy_(tensor)

    def state_dict(self, module: str) -> dict[str, Tensor]:
        """One module's state dict, with averages instead of parameters."""
        names = dict(self.modules[module].named_parameters())
        averages = {name: self._average[f"{module}.{name}"] for name in names}
        return {**self.modules[module].state_dict(), **averages}

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for owner, module in self.modules.items():
            for name, parameter in module.named_parameters():
                yield f"{owner}.{name}", parameter
