"""Teachers that have to run in a precision of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.geometry import TokenSpec


class FixedPrecision(Teacher):
    """A teacher that runs in one precision, whatever autocast says around it.

    Args:
        teacher: The teacher.
        precision: "fp32", or "bf16" for autocast to bfloat16.
    """

    def __init__(self, teacher: Teacher, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__()
        self.teacher = teacher
        self.precision = precision
        self.train(teacher.training)

    @property
    def token_spec(self) -> TokenSpec:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The teacher's."""
        return self.teacher.token_spec

    def forward(self, batch: ClipBatch) -> Tensor | Mapping[str, Tensor]:
        """What the teacher says."""
        device = next(iter(batch.tensors.values())).device.type
        if device == "meta":
            return self.teacher(batch)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            return self.teacher(batch)
