"""Masked latent regression from one or several frozen teachers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from salt_methods.config import MaskedLatentConfig
from salt_methods.metrics import explained_variance, mean_cosine
from salt_toolkit import GeometryError
from salt_toolkit.contracts import ClipBatch, Mask, Method, Objective, Parts, StepOutput, Teacher
from salt_toolkit.errors import Problem, RecipeError
from salt_toolkit.masking import masks_for, some_targets
from salt_toolkit.tokens import gather_tokens


class MaskedLatent(Method):
    """Student and predictor regress frozen teachers' latents at tokens that the student does not see.

    Source: SALT (arXiv 2509.24317, section 3, stage 2), with any number of teachers. They never change, so there
    is no moving average, and nothing that could collapse. All share masks, student and the predictor's trunk.

    Args:
        config: How many masks of a clip, and how much of each to predict.
        parts: Teachers with objectives and weights, student, predictor and masker; the schedule ``mask_ratio``
            if wanted.

    Raises:
        RecipeError: A part is missing.
        GeometryError: A teacher's latents are not on the student's grid.
    """

    def __init__(self, config: MaskedLatentConfig, parts: Parts) -> None:
        super().__init__()
        _require_all(parts)
        self.config = config
        assert parts.student is not None and parts.predictor is not None and parts.masker is not None
        self.student, self.predictor, self.masker = parts.student, parts.predictor, parts.masker
        self.seed = parts.seed
        self.mask_ratio = parts.schedules.get("mask_ratio")
        # Lists, for a dict of modules takes no name that is one of its own methods, such as "type".
        self.names = tuple(parts.teachers)
        self.teachers = nn.ModuleList(parts.teachers.values())
        self.objectives = nn.ModuleList(parts.objectives[name] for name in self.names)
        weights = [parts.weights.get(name, 1.0) for name in self.names]
        self.shares = [weight / sum(weights) for weight in weights]
        self.dims = [teacher.token_spec.dim for teacher in parts.teachers.values()]
        self.calibration_clips = max(objective.calibration_clips for objective in parts.objectives.values())
        self.teachers.requires_grad_(False)
        self.teachers.eval()

    def train(self, mode: bool = True) -> MaskedLatent:
        """Switches student, predictor and objectives; the teachers stay in evaluation mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def owned_modules(self) -> Mapping[str, nn.Module]:
        """Student, predictor and objectives, by the teacher's name if there are several.

        The frozen teachers come from their own checkpoints.
        """
        alone = len(self.names) == 1
        owners = ["objective" if alone else f"objective.{name}" for name in self.names]
        return {
            "student": self.student,
            "predictor": self.predictor,
            **dict(zip(owners, self.objectives, strict=True)),
        }

    def prepare(self, batch: ClipBatch, *, epoch: int, step: int) -> ClipBatch:
        """Adds the batch's masks as the tensors ``visible`` and ``target``, on the CPU.

        Their shape is (batch, visible) and (batch, target), or with several masks of each clip (batch, masks,
        visible) and (batch, masks, target). A clip's mask depends on the run's seed, the epoch, the clip id, the
        mask's number and the step's mask ratio alone, and so does the choice of targets. The first mask is that of
        a run with one.
        """
        ratio = None if self.mask_ratio is None else self.mask_ratio(step)
        masks = [self._masks(batch.clip_ids, epoch, ratio, number) for number in range(self.config.masks_per_clip)]
        if len(masks) == 1:
            return batch.with_tensors(visible=masks[0].visible, target=masks[0].target)
        return batch.with_tensors(
            visible=torch.stack([mask.visible for mask in masks], dim=1),
            target=torch.stack([mask.target for mask in masks], dim=1),
        )

    def calibrate(self, batches: Iterable[ClipBatch]) -> None:
        """Shows each objective the latents of as many clips as it wants, in one pass over the clips."""
        taught = [(pair, pair[1].calibration_clips) for pair in self._taught() if pair[1].calibration_clips]
        num_seen = 0
        for batch in batches if taught else ():
            for (teacher, objective), wanted in taught:
                # Exactly as many clips as were asked for, so that the statistics do not hang on the batch size.
                if num_seen < wanted:
                    objective.observe(_latents(teacher, batch)[: wanted - num_seen])
            num_seen += len(batch.clip_ids)
            if num_seen >= self.calibration_clips:
                break
        for (_, objective), _ in taught:
            objective.calibrate()

    def forward(self, batch: ClipBatch) -> StepOutput:
        """The loss and the metrics of a batch that went through `prepare`.

        The loss is the mean of the teachers' losses, by their weights. Metrics: ``explained_variance`` and
        ``cosine``, both against the normalised targets; with several teachers also both, and ``loss``, for each
        (``motion/cosine``), and the plain ones are weighted means. With several masks of each clip, all of these are
        over all masks; every teacher and its normalisation sees each clip once.
        """
        visible, target = (self._by_mask(batch.tensors[name]) for name in ("visible", "target"))
        # From here on predictor and objectives have a row for each mask, a clip's masks one after another.
        mask = Mask(visible=visible.flatten(0, 1), target=target.flatten(0, 1))
        with torch.no_grad():
            targets = [
                _at_targets(objective.targets(_latents(teacher, batch)), target)
                for teacher, objective in self._taught()
            ]
        # The student runs mask by mask over the batch as it is: a batch of repeated clips would copy pixels, and
        # building one makes torch.compile look at its clip ids, and compile anew for every batch.
        tokens = torch.stack([self.student(batch, seen) for seen in visible.unbind(1)], dim=1)
        predicted = self.predictor(tokens.flatten(0, 1), mask).split(self.dims, dim=-1)
        losses = [
            objective(guess, target)
            for (_, objective), guess, target in zip(self._taught(), predicted, targets, strict=True)
        ]
        metrics = {
            "explained_variance": list(map(explained_variance, predicted, targets)),
            "cosine": list(map(mean_cosine, predicted, targets)),
        }
        return StepOutput(loss=self._mean(losses), metrics=self._named(metrics, losses))

    def _masks(self, clip_ids: Sequence[str], epoch: int, ratio: float | None, number: int) -> Mask:
        """One mask for each clip, with the targets that are to be predicted."""
        key: dict[str, Any] = {"seed": self.seed, "epoch": epoch, "clip_ids": clip_ids, "number": number}
        num_target = self.config.counts(self.masker.counts(ratio)).target
        num_tokens = self.student.token_spec.grid.num_tokens
        return some_targets(masks_for(self.masker, num_tokens=num_tokens, ratio=ratio, **key), num_target, **key)

    def _by_mask(self, index: Int64[Tensor, "batch *masks token"]) -> Int64[Tensor, "batch masks token"]:
        """Indices of tokens by clip and mask, whether or not there are several masks."""
        return index.reshape(index.shape[0], self.config.masks_per_clip, -1)

    def _taught(self) -> list[tuple[Teacher, Objective]]:
        return list(zip(self.teachers, self.objectives, strict=True))  # pyright: ignore[reportReturnType]

    def _mean(self, values: Sequence[Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The mean over teachers, by their weights."""
        return torch.stack([share * value for share, value in zip(self.shares, values, strict=True)]).sum()

    def _named(
        self, metrics: Mapping[str, Sequence[Float[Tensor, ""]]], losses: Sequence[Float[Tensor, ""]]
    ) -> dict[str, Tensor]:
        named = {name: self._mean(values) for name, values in metrics.items()}
        if len(self.names) > 1:
            for number, teacher in enumerate(self.names):
                named[f"{teacher}/loss"] = losses[number].detach()
                named |= {f"{teacher}/{name}": values[number] for name, values in metrics.items()}
        return named


def _require_all(parts: Parts) -> None:
    present = {
        "teacher": bool(parts.teachers),
        "student": parts.student is not None,
        "predictor": parts.predictor is not None,
        "masker": parts.masker is not None,
        "objective": bool(parts.objectives),
    }
    missing = [name for name in MaskedLatentConfig.needs if not present[name]]
    if missing:
        raise RecipeError(
            [Problem(name, f"method masked_latent needs a [{name}] section, found none") for name in missing]
        )
    assert parts.student is not None
    grid = parts.student.token_spec.grid
    for name, teacher in parts.teachers.items():
        if teacher.token_spec.grid != grid:
            raise GeometryError(
                f"the latents of the teacher {name!r} are {teacher.token_spec.grid}, and the student's tokens {grid}; "
                "put the teacher into a salt_toolkit.teaching.alignment.AlignedTeacher"
            )


def _at_targets(
    latents: Float[Tensor, "batch token dim"], target: Int64[Tensor, "batch masks target"]
) -> Float[Tensor, "batch*masks target dim"]:
    """The latents at the targets of every mask, a row for each mask."""
    return gather_tokens(latents, target.flatten(1)).unflatten(1, target.shape[1:]).flatten(0, 1)


@torch.no_grad()
def _latents(teacher: Teacher, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
    return teacher(batch).float()
