"""One optimizer step: loss and gradient of its batches, the guard, the update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from salt_toolkit.contracts import ClipBatch, Method
from salt_toolkit.recipe import Recipe
from salt_toolkit.runs.machine import Machine
from salt_toolkit.seeding import seed_for
from salt_toolkit.train.average import WeightAverage
from salt_toolkit.train.optimizer import build_optimizer, set_rates
from salt_toolkit.train.processes import Processes, replicated_like, whole


@dataclass(frozen=True)
class StepResult:
    """The results of a step, still on the device.

    Attributes:
        scalars: Metrics of each batch, and the gradient norm; NaN if the step was skipped. Reading them synchronises.
        values: Loss and gradient norm, finite or not.
        skipped: 1 if the update was skipped because loss or gradient was not finite; 0 otherwise.
        clip_ids: This process's clips.
    """

    scalars: Mapping[str, list[Tensor]]
    values: Mapping[str, Tensor]
    skipped: Tensor
    clip_ids: tuple[str, ...]


class Stepper:
    """Runs a method's optimizer steps without ever synchronising with the device.

    Args:
        recipe: A valid recipe.
        method: Calibrated or restored, on the machine's device.
        machine: Where, and in what precision.
        processes: The run's processes; gradients are averaged over them.
    """

    def __init__(self, recipe: Recipe, method: Method, machine: Machine, processes: Processes) -> None:
        self.recipe = recipe
        self.method = method
        self.machine = machine
        self.processes = processes
        self._joined = processes.join(method)
        self.optimizer = build_optimizer(method, recipe.optimizer)
        self._module = machine.compiled(self._joined, recipe.train.compile)
        self._replays = machine.device.type == "cuda" and recipe.train.compile in ("reduce-overhead", "max-autotune")
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._copies = torch.cuda.Stream(machine.device) if machine.device.type == "cuda" else None
        ema = recipe.train.ema
        self.average = None if ema is None else WeightAverage(method.exports(), ema)

    def step(self, batches: Iterable[ClipBatch], number: int, *, lr: float, weight_decay: float) -> StepResult:
        """Trains on ``train.accumulate`` batches.

        Args:
            batches: On the host; as many are taken as a step needs.
            number: Of the step, from 0.
            lr: Learning rate.
            weight_decay: Weight decay.
        """
        set_rates(self.optimizer, lr=lr, weight_decay=weight_decay)
        # Each process draws its own stochastic depth; the first draws what a single-process run would.
        key = ("step", number, *([self.processes.rank] if self.processes.rank else []))
        torch.manual_seed(seed_for(self.recipe.run.seed, *key))
        scalars: dict[str, list[Tensor]] = {}
        clip_ids: list[str] = []
        left = self.recipe.train.accumulate
        for batch in batches:
            left -= 1
            self.forward_and_backward(self.to_device(batch), scalars, last=left == 0)
            clip_ids += batch.clip_ids
            if left == 0:
                break
        norm = self._clip_gradient()
        skipped = self._skips(norm, scalars["loss"])
        self._update(number, skipped)
        values = {"loss": torch.stack(scalars["loss"]).mean(), "grad_norm": norm}
        scalars["grad_norm"] = [norm]
        left_in = {
            name: [torch.where(skipped > 0, math.nan, scalar) for scalar in some] for name, some in scalars.items()
        }
        return StepResult(left_in, values, skipped, tuple(clip_ids))

    def to_device(self, batch: ClipBatch) -> ClipBatch:
        """The batch on the device; on a GPU the copy runs in its own stream, in parallel with computation."""
        if self._copies is None:
            return batch.to(self.machine.device)
        with torch.cuda.stream(self._copies):
            moved = batch.to(self.machine.device)
        present = torch.cuda.current_stream(self.machine.device)
        present.wait_stream(self._copies)
        for tensor in (*moved.tensors.values(), *([moved.labels] if moved.labels is not None else [])):
            tensor.record_stream(present)
        return moved

    def forward_and_backward(self, batch: ClipBatch, scalars: dict[str, list[Tensor]], *, last: bool) -> None:
        """Accumulates a batch's gradient, and its metrics in ``scalars``; the last batch synchronises gradients."""
        with nullcontext() if last else self.processes.without_sync(self._joined):
            if self._replays:
                torch.compiler.cudagraph_mark_step_begin()
            with self.machine.autocast():
                output = self._module(batch)
            (output.loss / self.recipe.train.accumulate).backward()
        for name, scalar in {"loss": output.loss.detach(), **output.metrics}.items():
            # Replaying a CUDA graph overwrites the previous outputs, and scalars are read later.
            scalars.setdefault(name, []).append(scalar.clone() if self._replays else scalar)

    def _clip_gradient(self) -> Tensor:
        limit = self.recipe.optimizer.grad_clip
        if limit is None:
            return whole(nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        return whole(nn.utils.clip_grad_norm_(self.parameters, limit))

    def _skips(self, norm: Tensor, losses: list[Tensor]) -> Tensor:
        """Whether loss or gradient is not finite, in any process; 1.0 or 0.0 on the device."""
        finite = torch.stack([norm, *losses]).isfinite().all()
        skipped = 1.0 - finite.float()
        if self.processes.count > 1:
            dist.all_reduce(skipped, dist.ReduceOp.MAX)
        return skipped

    def _update(self, number: int, skipped: Tensor) -> None:
        # The fused optimizer checks the flag on the device and skips the update, without a synchronisation.
        self.optimizer.found_inf = replicated_like(skipped, self.parameters[0])  # pyright: ignore
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(number + 1, skipped)
