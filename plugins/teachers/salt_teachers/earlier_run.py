"""A teacher that is the student of an earlier run."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from salt_teachers.config import RunConfig
from salt_toolkit import ClipSpec
from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.runs.directory import load_student
from salt_toolkit.teaching.alignment import fit_clip
from salt_toolkit.teaching.encoder import LAYER_NORM_EPS


class EarlierRun(Teacher):
    """Gives the tokens of a trained student that sees the whole clip."""

    def __init__(self, config: RunConfig, clip: ClipSpec) -> None:
        super().__init__()
        for missing in config.missing():
            raise missing
        self.token_spec = config.token_spec(clip)
        self.seen, self.norm = config.run_clip(), config.norm
        self.blocks, self.join = config.blocks(), config.join
        self.student = load_student(config.path, num_layers=max(self.blocks) if self.blocks else None)
        self.student.requires_grad_(False)

    @torch.no_grad()
    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """Encodes the clips with every token visible, in the size and number of frames that the run was trained on."""
        fitted = fit_clip(batch.clip, frames=self.seen.frames, size=self.seen.size)
        seen = batch.with_tensors(clip=fitted.permute(0, 2, 3, 4, 1))
        if self.blocks is None:
            return self._normalised(self.student(seen))
        latents = [self._normalised(tokens) for tokens in self.student.tokens_after(seen, self.blocks)]
        return torch.stack(latents).mean(dim=0) if self.join == "mean" else torch.cat(latents, dim=-1)

    def _normalised(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        tokens = tokens.float()
        if self.norm == "layer":
            return functional.layer_norm(tokens, tokens.shape[-1:], eps=LAYER_NORM_EPS)
        return tokens
