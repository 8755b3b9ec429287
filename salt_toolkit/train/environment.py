"""What this machine is, and what a run does differently because of it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from salt_toolkit.cards import ModelCard
from salt_toolkit.component import StudentConfig, TeacherConfig
from salt_toolkit.errors import MissingArtifact, SaltError
from salt_toolkit.recipe import Recipe, Teaching
from salt_toolkit.teaching.identity import identify

PACKAGES = ("salt-toolkit", "torch", "torchvision", "timm", "transformers", "av", "decord", "numpy", "safetensors")


@dataclass(frozen=True)
class Machine:
    """The device of a run, and the precision that it computes in."""

    device: torch.device
    bf16: bool

    @classmethod
    def here(cls, recipe: Recipe) -> Machine:
        """A GPU (of several processes each takes its own), or the CPU; set up as the recipe's ``[train]`` wishes.

        bf16 is used where the recipe asks for it and the device has it.
        """
        settings = recipe.train
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(settings.deterministic)
        if not torch.cuda.is_available():
            return cls(torch.device("cpu"), bf16=False)
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
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
        "teachers": fingerprints(recipe),
        "cards": cards(recipe),
        "components": {key: str(selected.provided) for key, selected in recipe.selected().items()},
    }


def fingerprints(recipe: Recipe) -> dict[str, str | None]:
    """Who the teachers are, by name; None for one whose weights are not here (yet)."""
    return {teaching.name: _fingerprint(recipe, teaching) for teaching in recipe.teachings()}


def cards(recipe: Recipe) -> dict[str, dict[str, str] | None]:
    """Licence and labels of all weights that the run comes from, by the recipe's key; None for what has no weights."""
    found = {teaching.key: _card(teaching.teacher.config) for teaching in recipe.teachings()}
    return {**found, "student": _card(recipe.student.config)} if recipe.student else found


def _card(config: TeacherConfig | StudentConfig) -> dict[str, str] | None:
    try:
        card = config.card()
    except SaltError:  # whoever needs the weights will say why
        card = ModelCard()
    return asdict(card) if card else None


def _fingerprint(recipe: Recipe, teaching: Teaching) -> str | None:
    """Of a teacher whose weights are here; a run from a cache needs none."""
    try:
        return identify(teaching.teacher.use, teaching.teacher.config, recipe.clip).fingerprint
    except MissingArtifact:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
