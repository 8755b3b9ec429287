"""Checkpoints: a directory of safetensors and JSON that is whole or not there.

The teacher is never in one. What a step draws depends on the seed and the step alone, so a
checkpoint needs no state of random generators.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from salt_toolkit.contracts import Method
from salt_toolkit.errors import RunError
from salt_toolkit.files import checksum, sync, write_json

MODULES = "modules.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole.

    Attributes:
        path: Its directory.
        step: Optimizer steps done.
        meter: The metrics that were gathered and not yet logged.
    """

    path: Path
    step: int
    meter: Mapping[str, list[float]]


def owned_tensors(method: Method) -> dict[str, Tensor]:
    """Every parameter and buffer that belongs to the run, by ``module.name``."""
    return {
        f"{owner}.{name}": tensor
        for owner, module in method.owned_modules().items()
        for name, tensor in module.state_dict().items()
    }


def owned_parameters(method: Method) -> dict[str, nn.Parameter]:
    """Every parameter that learns, by ``module.name``."""
    return {
        f"{owner}.{name}": parameter
        for owner, module in method.owned_modules().items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def save(
    folder: Path, step: int, method: Method, optimizer: torch.optim.Optimizer, meter: Mapping[str, list[float]]
) -> Path:
    """Writes a checkpoint; a kill at any moment leaves it whole or not there.

    Returns:
        The checkpoint's directory, ``folder/step-00000500``.
    """
    final = folder / f"step-{step:08d}"
    beside = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file(_contiguous(owned_tensors(method)), beside / MODULES)
    save_file(_contiguous(_optimizer_tensors(method, optimizer)), beside / OPTIMIZER)
    for name in (MODULES, OPTIMIZER):
        sync(beside / name)
    sums = {name: checksum(beside / name) for name in (MODULES, OPTIMIZER)}
    write_json(beside / STATE, {"step": step, "meter": dict(meter), "crc32": sums})
    shutil.rmtree(final, ignore_errors=True)
    beside.rename(final)
    sync(folder)
    return final


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            whole = all(checksum(path / name) == crc for name, crc in state["crc32"].items())
        except (OSError, ValueError, KeyError):
            continue
        if whole:
            return Checkpoint(path, state["step"], state["meter"])
    return None


def remove_old(folder: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` checkpoints, and what a kill left half-written."""
    for path in [*sorted(folder.glob("step-*"))[:-keep], *folder.glob(".step-*.partial")]:
        shutil.rmtree(path)


def restore(checkpoint: Checkpoint, method: Method, optimizer: torch.optim.Optimizer) -> None:
    """Loads a checkpoint into a method and its optimizer.

    Raises:
        RunError: The checkpoint belongs to other modules.
    """
    saved = load_file(checkpoint.path / MODULES)
    for owner, module in method.owned_modules().items():
        prefix = f"{owner}."
        own = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise RunError(f"{checkpoint.path} does not fit the recipe's {owner}: {error}") from error
    _restore_optimizer(load_file(checkpoint.path / OPTIMIZER), method, optimizer)


def _optimizer_tensors(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}|{entry}": torch.as_tensor(value)
        for name, parameter in owned_parameters(method).items()
        for entry, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(saved: Mapping[str, Tensor], method: Method, optimizer: torch.optim.Optimizer) -> None:
    # The optimizer numbers its parameters in the order of its groups.
    numbers = {
        id(parameter): number
        for number, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    state: dict[int, dict[str, Any]] = {}
    parameters = owned_parameters(method)
    for key, value in saved.items():
        name, _, entry = key.rpartition("|")
        state.setdefault(numbers[id(parameters[name])], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
