"""What this machine is, and what a run does differently because of it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from salt_toolkit.recipe import Recipe

PACKAGES = ("salt-toolkit", "torch", "torchvision", "timm", "transformers", "av", "decord", "numpy", "safetensors")


@dataclass(frozen=True)
class Machine:
    """The device of a run, and the precision that it computes in."""

    device: torch.device
    bf16: bool

    @classmethod
    def here(cls, recipe: Recipe) -> Machine:
        """The first GPU, or the CPU; bf16 where the recipe asks for it and the device has it."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = recipe.train.cudnn_benchmark
        return cls(device, recipe.train.precision == "bf16" and native)

    def on(self, device: torch.device) -> Machine:
        """The same decisions for another device."""
        return Machine(device, self.bf16 and device.type == "cuda")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def compiled(self, module: nn.Module, mode: str) -> nn.Module:
        """The module, compiled in torch.compile's mode; unless that is "none"."""
        if mode == "none":
            return module
        # torch.compile returns an OptimizedModule, whatever its annotation says.
        return torch.compile(module, mode=mode)  # pyright: ignore[reportReturnType]

    def describe(self) -> str:
        """One line for people."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{name}, {'bf16' if self.bf16 else 'fp32'}"

    def notes(self, recipe: Recipe) -> list[str]:
        """Settings of the recipe that have no effect here."""
        if recipe.train.precision == "bf16" and not self.bf16:
            return ['train.precision = "bf16": this device does not compute in bfloat16 natively; the run uses fp32']
        return []


def describe_environment(recipe: Recipe, machine: Machine) -> dict[str, Any]:
    """What a reader of the run would need to repeat it."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": machine.describe(),
        "notes": machine.notes(recipe),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "components": {key: str(selected.provided) for key, selected in recipe.selected().items()},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
