"""What this machine is, and what a run does differently because of it."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from salt_toolkit.errors import RunError
from salt_toolkit.recipe import Recipe
from salt_toolkit.system.launch import Launch


@dataclass(frozen=True)
class Machine:
    """The device of a run, and the precision that it computes in."""

    device: torch.device
    bf16: bool

    @classmethod
    def here(cls, recipe: Recipe) -> Machine:
        """A GPU (of several processes each takes its own), or the CPU; set up as the recipe's ``[train]`` wishes.

        bf16 is used where the recipe asks for it and the device has it.

        Raises:
            RunError: A launcher has started more processes here than there are GPUs.
        """
        settings = recipe.train
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(settings.deterministic)
        if not torch.cuda.is_available():
            return cls(torch.device("cpu"), bf16=False)
        number, gpus = Launch.here().local_rank, torch.cuda.device_count()
        if number >= gpus:
            raise RunError(
                f"LOCAL_RANK is {number}, and this machine has {gpus} GPU(s)", "Start fewer processes on it."
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = settings.cudnn_benchmark and not settings.deterministic
        torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return cls(device, settings.precision == "bf16" and native)

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
