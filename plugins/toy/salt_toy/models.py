"""The teacher, the student and the predictor."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from salt_toolkit import ClipSpec, TokenSpec
from salt_toolkit.contracts import ClipBatch, Mask, Predictor, Student, Teacher
from salt_toy.config import MixerConfig, ProjectionConfig, RegressorConfig


def patches_of(batch: ClipBatch, *, tubelet: int, patch: int) -> Float[Tensor, "batch token numbers"]:
    """The clips cut into tubelets, time-major, as numbers from -1 to 1."""
    pixels = batch.tensors["clip"].float() / 127.5 - 1
    cut = pixels.unflatten(1, (-1, tubelet)).unflatten(3, (-1, patch)).unflatten(5, (-1, patch))
    # batch, frame, tubelet, row, height, column, width, channel
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4).flatten(1, 3)


class ProjectionTeacher(Teacher):
    """A random projection of each patch, never trained; the weights depend on no run."""

    def __init__(self, config: ProjectionConfig, *, clip: ClipSpec) -> None:
        super().__init__()
        self.config = config
        self.token_spec = config.token_spec(clip)
        inputs = config.tubelet * config.patch**2 * 3
        self.projection = nn.Linear(inputs, config.dim)
        weight = torch.randn(config.dim, inputs, generator=torch.Generator().manual_seed(0))
        self.projection.load_state_dict({"weight": weight / inputs**0.5, "bias": torch.zeros(config.dim)})
        self.eval().requires_grad_(False)

    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """See `Teacher`."""
        return self.projection(patches_of(batch, tubelet=self.config.tubelet, patch=self.config.patch))


class MixerStudent(Student):
    """A linear patch embedding with learned positions; the tokens meet in their mean."""

    def __init__(self, config: MixerConfig, *, clip: ClipSpec) -> None:
        super().__init__()
        self.config = config
        self.token_spec = config.token_spec(clip)
        self.embed = nn.Linear(config.tubelet * config.patch**2 * 3, config.dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.token_spec.grid.num_tokens, config.dim))
        self.mix = nn.Linear(config.dim, config.dim)

    def forward(
        self, batch: ClipBatch, visible: Int64[Tensor, "batch visible"] | None = None
    ) -> Float[Tensor, "batch visible dim"]:
        """See `Student`."""
        patches = patches_of(batch, tubelet=self.config.tubelet, patch=self.config.patch)
        position = self.position
        if visible is not None:
            patches = patches.gather(1, visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            position = self.position[visible]
        tokens = self.embed(patches) + position
        return tokens + functional.gelu(self.mix(tokens + tokens.mean(dim=1, keepdim=True)))


class Regressor(Predictor):
    """Guesses each latent from a learned query for its place, and the mean of the visible tokens."""

    def __init__(self, config: RegressorConfig, *, student: TokenSpec, teacher: TokenSpec) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(teacher.grid.num_tokens, student.dim))
        self.summary = nn.Linear(student.dim, student.dim)
        self.head = nn.Linear(student.dim, teacher.dim)

    def forward(
        self, tokens: Float[Tensor, "batch visible student_dim"], mask: Mask
    ) -> Float[Tensor, "batch target teacher_dim"]:
        """See `Predictor`."""
        summary = self.summary(tokens.mean(dim=1, keepdim=True))
        return self.head(functional.gelu(summary + self.query[mask.target]))
