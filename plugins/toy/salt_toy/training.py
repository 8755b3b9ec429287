"""The objective and the method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salt_toolkit import TokenSpec
from salt_toolkit.contracts import ClipBatch, Method, Objective, Parts, StepOutput
from salt_toolkit.errors import Problem, RecipeError
from salt_toy.config import DenseConfig, LogCoshConfig


class LogCosh(Objective):
    """Squares near zero and lines far from it; smooth everywhere."""

    def __init__(self, config: LogCoshConfig, *, teacher: TokenSpec) -> None:
        super().__init__()
        self.width = config.width

    def targets(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents as they are."""
        return latents

    def forward(
        self, predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
    ) -> Float[Tensor, ""]:
        """The mean; written so that large errors do not overflow."""
        error = ((predicted - targets) / self.width).abs()
        return (error + functional.softplus(-2 * error) - math.log(2)).mean()


class Dense(Method):
    """Plain feature distillation: a linear head maps the student's tokens to the teacher's latents."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        if parts.teacher is None or parts.student is None or parts.objective is None:
            missing = [name for name in DenseConfig.needs if getattr(parts, name) is None]
            raise RecipeError([Problem(name, "missing; the method toy_dense needs it") for name in missing])
        self.teacher, self.student, self.objective = parts.teacher, parts.student, parts.objective
        self.calibration_clips = self.objective.calibration_clips
        self.head = nn.Linear(self.student.token_spec.dim, self.teacher.token_spec.dim)

    def owned_modules(self) -> Mapping[str, nn.Module]:
        """All but the teacher."""
        return {"student": self.student, "head": self.head, "objective": self.objective}

    def train(self, mode: bool = True) -> Dense:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def calibrate(self, batches: Iterable[ClipBatch]) -> None:
        """Shows the objective the teacher's latents."""
        with torch.no_grad():
            self.objective.calibrate(self.teacher(batch) for batch in batches)

    def forward(self, batch: ClipBatch) -> StepOutput:
        """See `Method`."""
        with torch.no_grad():
            targets = self.objective.targets(self.teacher(batch))
        predicted = self.head(self.student(batch))
        loss = self.objective(predicted, targets)
        error = functional.mse_loss(predicted.detach(), targets)
        return StepOutput(loss, {"error": error.sqrt()})
