"""The objective and the method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from salt_toolkit import TokenSpec
from salt_toolkit.contracts import ClipBatch, Method, Objective, Parts, StepOutput, Teacher
from salt_toolkit.errors import Problem, RecipeError
from salt_toy.config import LogCoshConfig


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
    """Plain feature distillation: a linear head maps the student's tokens to the teachers' latents."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        if parts.student is None or not parts.teachers or not parts.objectives:
            raise RecipeError([Problem("", "the method toy_dense needs a student, a teacher and an objective")])
        self.student = parts.student
        self.teachers = nn.ModuleList(parts.teachers.values())
        self.objectives = nn.ModuleList(parts.objectives[name] for name in parts.teachers)
        weights = [parts.weights.get(name, 1.0) for name in parts.teachers]
        self.shares = [weight / sum(weights) for weight in weights]
        self.dims = [teacher.token_spec.dim for teacher in parts.teachers.values()]
        self.head = nn.Linear(self.student.token_spec.dim, sum(self.dims))
        self.calibration_clips = max(objective.calibration_clips for objective in parts.objectives.values())

    def owned_modules(self) -> Mapping[str, nn.Module]:
        """All but the teachers."""
        return {"student": self.student, "head": self.head, "objectives": self.objectives}

    def train(self, mode: bool = True) -> Dense:
        """The teachers stay in evaluation mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def calibrate(self, batches: Iterable[ClipBatch]) -> None:
        """Shows the objectives the teachers' latents."""
        calibrated = [pair for pair in self._pairs() if pair[1].calibration_clips]
        with torch.no_grad():
            for batch in batches:
                for teacher, objective in calibrated:
                    objective.observe(teacher(batch))
            for _, objective in calibrated:
                objective.calibrate()

    def forward(self, batch: ClipBatch) -> StepOutput:
        """See `Method`."""
        predicted = self.head(self.student(batch)).split(self.dims, dim=-1)
        losses, errors = [], []
        for (teacher, objective), guess in zip(self._pairs(), predicted, strict=True):
            with torch.no_grad():
                targets = objective.targets(teacher(batch))
            losses.append(objective(guess, targets))
            errors.append(functional.mse_loss(guess.detach(), targets).sqrt())
        return StepOutput(self._mean(losses), {"error": self._mean(errors)})

    def _pairs(self) -> list[tuple[Teacher, Objective]]:
        return list(zip(self.teachers, self.objectives, strict=True))  # pyright: ignore[reportReturnType]

    def _mean(self, values: list[Tensor]) -> Tensor:
        return torch.stack([share * value for share, value in zip(self.shares, values, strict=True)]).sum()
