"""Masked latent regression from a frozen teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salt_methods.config import MaskedLatentConfig
from salt_methods.metrics import explained_variance, mean_cosine
from salt_toolkit import GeometryError
from salt_toolkit.contracts import ClipBatch, Mask, Method, Parts, StepOutput
from salt_toolkit.errors import Problem, RecipeError
from salt_toolkit.masking import masks_for
from salt_toolkit.tokens import gather_tokens


class MaskedLatent(Method):
    """Student and predictor regress the teacher's latents at tokens that the student does not see.

    Source: SALT (arXiv 2509.24317, section 3, stage 2). The teacher never changes, so there is no
    moving average, and nothing that could collapse.

    Args:
        parts: Teacher, student, predictor, masker and objective; the schedule ``mask_ratio`` if wanted.

    Raises:
        RecipeError: A part is missing.
        GeometryError: Teacher and student cut a clip into different grids.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        needed = {name: getattr(parts, name) for name in MaskedLatentConfig.needs}
        missing = [name for name, part in needed.items() if part is None]
        if missing:
            raise RecipeError(
                [Problem(name, f"method masked_latent needs a [{name}] section, found none") for name in missing]
            )
        self.teacher = needed["teacher"]
        self.student = needed["student"]
        self.predictor = needed["predictor"]
        self.objective = needed["objective"]
        self.masker = needed["masker"]
        self.seed = parts.seed
        self.mask_ratio = parts.schedules.get("mask_ratio")
        self.calibration_clips = self.objective.calibration_clips
        if self.teacher.token_spec.grid != self.student.token_spec.grid:
            raise GeometryError(
                f"the teacher cuts a clip into {self.teacher.token_spec.grid}, and the student into "
                f"{self.student.token_spec.grid}; choose tubelet and patch so that both grids are the same"
            )
        self.teacher.requires_grad_(False)
        self.teacher.eval()

    def train(self, mode: bool = True) -> MaskedLatent:
        """Switches student, predictor and objective; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def owned_modules(self) -> Mapping[str, nn.Module]:
        """Student, predictor and objective; the frozen teacher comes from its own checkpoint."""
        return {"student": self.student, "predictor": self.predictor, "objective": self.objective}

    def prepare(self, batch: ClipBatch, *, epoch: int, step: int) -> ClipBatch:
        """Adds the batch's masks as the tensors ``visible`` and ``target``, on the CPU.

        A clip's mask depends on the run's seed, the epoch, the clip id and the step's mask ratio alone.
        """
        ratio = None if self.mask_ratio is None else self.mask_ratio(step)
        mask = masks_for(self.masker, seed=self.seed, epoch=epoch, clip_ids=batch.clip_ids, ratio=ratio)
        return batch.with_tensors(visible=mask.visible, target=mask.target)

    def calibrate(self, batches: Iterable[ClipBatch]) -> None:
        """Shows the objective the latents of the first ``calibration_clips`` clips, if it wants any."""
        if self.calibration_clips > 0:
            self.objective.calibrate(self._calibration_latents(batches))

    def forward(self, batch: ClipBatch) -> StepOutput:
        """The loss and the metrics of a batch that went through `prepare`.

        Metrics: ``explained_variance`` and ``cosine``, both against the normalised targets.
        """
        mask = Mask(visible=batch.tensors["visible"], target=batch.tensors["target"])
        with torch.no_grad():
            targets = gather_tokens(self.objective.targets(self._latents(batch)), mask.target)
        tokens = self.student(batch, mask.visible)
        predicted = self.predictor(tokens, mask)
        loss = self.objective(predicted, targets)
        metrics = {
            "explained_variance": explained_variance(predicted, targets),
            "cosine": mean_cosine(predicted, targets),
        }
        return StepOutput(loss=loss, metrics=metrics)

    @torch.no_grad()
    def _latents(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        return self.teacher(batch).float()

    def _calibration_latents(self, batches: Iterable[ClipBatch]) -> Iterator[Float[Tensor, "batch token dim"]]:
        # Exactly as many clips as were asked for, so that the statistics do not hang on the batch size.
        num_left = self.calibration_clips
        for batch in batches:
            latents = self._latents(batch)[:num_left]
            num_left -= latents.shape[0]
            yield latents
            if num_left == 0:
                return
