"""A teacher that is the student of an earlier run."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from salt_teachers.config import RunConfig
from salt_toolkit import ClipSpec
from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.runs import load_student


class EarlierRun(Teacher):
    """Gives the tokens of a trained student that sees the whole clip."""

    def __init__(self, config: RunConfig, clip: ClipSpec) -> None:
        super().__init__()
        self.token_spec = config.token_spec(clip)
        self.student = load_student(config.path).requires_grad_(False)

    @torch.no_grad()
    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """Encodes the clips with every token visible."""
        return self.student(batch).float()
