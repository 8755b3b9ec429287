"""Small real parts for tests of methods: a linear patch encoder as teacher and student."""

from __future__ import annotations

import torch
from torch import nn

from salt_toolkit import Grid, MaskCounts, TokenSpec
from salt_toolkit.contracts import ClipBatch, Masker, Objective, Parts, Predictor, Student, Teacher

GRID = Grid(2, 2, 2)
PATCH = 4  # pixels


def patches_of(batch: ClipBatch) -> torch.Tensor:
    """Tubelets of 1 frame x 4 x 4 pixels, time-major, as numbers in 0 to 1."""
    clip = batch.tensors["clip"].float() / 255
    num_clips = clip.shape[0]
    cut = clip.reshape(num_clips, GRID.frames, GRID.rows, PATCH, GRID.columns, PATCH, 3)
    return cut.permute(0, 1, 2, 4, 3, 5, 6).reshape(num_clips, GRID.num_tokens, -1)


class TinyTeacher(Teacher):
    def __init__(self, dim=5, grid=GRID):
        super().__init__()
        self.token_spec = TokenSpec(grid, dim)
        self.project = nn.Linear(PATCH * PATCH * 3, dim)
        self.dropout = nn.Dropout(0.5)  # latents differ from call to call unless in evaluation mode

    def forward(self, batch):
        return self.dropout(self.project(patches_of(batch)))


class TinyStudent(Student):
    def __init__(self, dim=6, grid=GRID):
        super().__init__()
        self.token_spec = TokenSpec(grid, dim)
        self.project = nn.Linear(PATCH * PATCH * 3, dim)
        self.position = nn.Parameter(torch.randn(GRID.num_tokens, dim))

    def forward(self, batch, visible=None):
        tokens = self.project(patches_of(batch)) + self.position
        if visible is None:
            return tokens
        return tokens.gather(1, visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class TinyPredictor(Predictor):
    def __init__(self, student_dim=6, teacher_dim=5):
        super().__init__()
        self.query = nn.Parameter(torch.randn(GRID.num_tokens, student_dim))
        self.project = nn.Linear(student_dim, teacher_dim)

    def forward(self, tokens, mask):
        return self.project(tokens.mean(1, keepdim=True) + self.query[mask.target])


class HalfMasker(Masker):
    """Hides half of the tokens, or the scheduled share."""

    def counts(self, ratio=None):
        hidden = int(GRID.num_tokens * (0.5 if ratio is None else ratio))
        return MaskCounts(visible=GRID.num_tokens - hidden, target=hidden)

    def draw(self, generator, ratio=None):
        order = generator.permutation(GRID.num_tokens)
        hidden = self.counts(ratio).target
        order[:hidden].sort()
        order[hidden:].sort()
        return order[hidden:], order[:hidden]


class DoubledMSE(Objective):
    """Twice the latents as targets, and the mean of squares."""

    def targets(self, latents):
        return 2 * latents

    def forward(self, predicted, targets):
        return (predicted - targets).square().mean()


class MeanRemoved(Objective):
    """Takes out the mean over calibration clips."""

    def __init__(self, calibration_clips, dim=5):
        super().__init__()
        self.calibration_clips = calibration_clips
        self.register_buffer("mean", torch.zeros(dim))
        self.seen = []

    def observe(self, latents):
        self.seen.append(latents)

    def calibrate(self):
        self.mean.copy_(torch.cat(self.seen).mean((0, 1)))

    def targets(self, latents):
        return latents - self.mean

    def forward(self, predicted, targets):
        return (predicted - targets).abs().mean()


def parts(**changes) -> Parts:
    torch.manual_seed(0)
    own = {
        "seed": 3,
        "teachers": {"teacher": TinyTeacher()},
        "student": TinyStudent(),
        "predictor": TinyPredictor(),
        "masker": HalfMasker(),
        "objectives": {"teacher": DoubledMSE()},
    }
    return Parts(**{**own, **changes})


def two_teachers(**changes) -> Parts:
    """Of 5 and 3 numbers; the second counts a quarter of the first."""
    own = {
        "teachers": {"motion": TinyTeacher(), "type": TinyTeacher(dim=3)},  # "type" is also a method of modules
        "objectives": {"type": DoubledMSE(), "motion": MeanRemoved(0)},
        "weights": {"motion": 2.0, "type": 0.5},
        "predictor": TinyPredictor(teacher_dim=8),
    }
    return parts(**{**own, **changes})


def batch_of(*clip_ids: str) -> ClipBatch:
    clips = []
    for clip_id in clip_ids:
        generator = torch.Generator().manual_seed(sum(clip_id.encode()))
        clips.append(torch.randint(0, 256, (2, 8, 8, 3), generator=generator, dtype=torch.uint8))
    return ClipBatch(clip_ids=clip_ids, tensors={"clip": torch.stack(clips)})
