"""Checkpoints: directories of safetensors and JSON, written atomically.

The teacher is never part of a checkpoint. A step's random draws depend only on the seed and the step, so a checkpoint
needs no random-generator state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from salt_toolkit.contracts import Method
from salt_toolkit.errors import RunError
from salt_toolkit.system.files import checksum, sync, write_json
from salt_toolkit.system.formats import check_format, stamped
from salt_toolkit.train.average import WeightAverage
from salt_toolkit.train.processes import sharded_like, whole

MODULES = "modules.safetensors"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average.safetensors"
STATE = "state.json"

NUM_SHOWN = 3
"""How many parameters a message lists."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete, verified checkpoint.

    Attributes:
        path: Its directory.
        step: Optimizer steps completed.
        meter: Metrics collected but not yet logged.
        parameters: Names of the optimizer's parameters.
    """

    path: Path
    step: int
    meter: Mapping[str, list[float]]
    parameters: frozenset[str]


def owned_tensors(method: Method) -> dict[str, Tensor]:
    """Every parameter and buffer that the run owns (not the teachers'), by ``module.name``."""
    return {
        f"{owner}.{name}": tensor
        for owner, module in method.owned_modules().items()
        for name, tensor in module.state_dict().items()
    }


def owned_parameters(method: Method) -> dict[str, nn.Parameter]:
    """Every trainable parameter, by ``module.name``."""
    return {
        f"{owner}.{name}": parameter
        for owner, module in method.owned_modules().items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def collect(
    method: Method, optimizer: torch.optim.Optimizer, average: WeightAverage | None, *, keep: bool = True
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint by file name, gathered on the host. A collective call: all processes must make it.

    Args:
        method: Whose modules.
        optimizer: Of its parameters.
        average: Of the student's weights, if there is one.
        keep: Whether this process keeps the result; the others only contribute their shards.
    """
    found = {MODULES: owned_tensors(method), OPTIMIZER: _optimizer_tensors(method, optimizer)}
    if average is not None:
        found[AVERAGE] = average.tensors()
    return {file: on_host(tensors, keep=keep) for file, tensors in found.items()}


def on_host(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Unsharded tensors in contiguous host memory, for processes that keep them. A collective call."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        unsharded = whole(tensor.detach())
        if keep:
            found[name] = unsharded.cpu().contiguous()
    return found


def save(
    folder: Path,
    step: int,
    files: Mapping[str, Mapping[str, Tensor]],
    meter: Mapping[str, list[float]],
    parameters: Iterable[str],
) -> Path:
    """Writes a checkpoint atomically: after a kill at any moment it is complete or absent.

    Args:
        folder: Folder of checkpoints.
        step: Optimizer steps completed.
        files: Result of `collect`.
        meter: Metrics collected but not yet logged.
        parameters: Names of the optimizer's parameters, including those without state.

    Returns:
        The checkpoint's directory, ``folder/step-00000500``.

    Raises:
        OSError: The disk is full or not writable; partial files are removed.
    """
    final = folder / f"step-{step:08d}"
    partial = folder / f".{final.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, tensors in files.items():
            save_tensors(dict(tensors), partial / name)
            sync(partial / name)
        sums = {name: checksum(partial / name) for name in files}
        state = {"step": step, "meter": dict(meter), "parameters": sorted(parameters), "crc32": sums}
        write_json(partial / STATE, stamped("checkpoint", state))
        if final.exists():
            final.rename(folder / f".{final.name}.{os.getpid()}.old.partial")
        partial.rename(final)
        sync(folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes safetensors; raises OSError if the disk is full or not writable, as for other files."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    path.chmod(0o644)  # safetensors creates files readable by the owner only


def newest(folder: Path, log: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
    """The newest complete checkpoint; damaged ones are skipped.

    Args:
        folder: Where checkpoints are.
        log: Called with a sentence about each damaged checkpoint.

    Raises:
        FormatError: It is in another version's format.
    """
    for path in reversed(paths(folder)):
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            check_format("checkpoint", state, path / STATE)
            damaged = [name for name, crc in state["crc32"].items() if checksum(path / name) != crc]
            if not damaged:
                return Checkpoint(path, state["step"], state["meter"], frozenset(state["parameters"]))
            reason = f"{', '.join(damaged)} does not match its checksum"
        except (OSError, ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
        log(f"the checkpoint {path} is damaged ({reason}); falling back to the previous one")
    return None


def remove_old(folder: Path, keep: int, every: int | None = None) -> None:
    """Removes old checkpoints, and partial files left by a kill.

    Args:
        folder: Where checkpoints are.
        keep: How many of the newest stay.
        every: Also keep checkpoints at multiples of this many steps.
    """
    for path in paths(folder)[:-keep]:
        if every is None or step_of(path) % every:
            shutil.rmtree(path)
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def remove_after(folder: Path, step: int) -> None:
    """Removes the checkpoints of later steps, which are damaged: they must not count as the newest."""
    for path in paths(folder):
        if step_of(path) > step:
            shutil.rmtree(path)


def paths(folder: Path) -> list[Path]:
    """The checkpoints of a run in order of steps, complete or damaged."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name))


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint's directory."""
    return int(path.name.removeprefix("step-"))


def restore_modules(checkpoint: Checkpoint, method: Method) -> None:
    """Loads a checkpoint's weights and statistics into a method.

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


def restore_rest(
    checkpoint: Checkpoint, method: Method, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> None:
    """Loads the state of the optimizer and the average, in shards where the weights are.

    Raises:
        RunError: The checkpoint's optimizer had other parameters.
    """
    _refuse_other_parameters(checkpoint, owned_parameters(method).keys())
    _restore_optimizer(load_file(checkpoint.path / OPTIMIZER), method, optimizer)
    if average is not None:
        whole_ones, like = load_file(checkpoint.path / AVERAGE), average.tensors()
        average.restore({name: sharded_like(tensor, like[name]) for name, tensor in whole_ones.items()})


def _refuse_other_parameters(checkpoint: Checkpoint, present: Collection[str]) -> None:
    missing, unknown = sorted(set(present) - checkpoint.parameters), sorted(checkpoint.parameters - set(present))
    if missing or unknown:
        differences = [f"it has no state for {_some(missing)}"] if missing else []
        differences += [f"it has state for {_some(unknown)}, which are not trained now"] if unknown else []
        raise RunError(
            f"{checkpoint.path} holds the optimizer of other parameters: {', and '.join(differences)}. Train the same "
            "parameters as before, or start over with --restart"
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NUM_SHOWN])
    return f"{shown} and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else shown


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
        parameter = parameters[name]
        # A copy: what was loaded is a view of the file, which would keep its room on the disk.
        state.setdefault(numbers[id(parameter)], {})[entry] = sharded_like(value.clone(), parameter)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
