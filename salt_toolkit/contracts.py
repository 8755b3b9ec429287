"""What a Teacher, Student, Predictor, Masker, Dataset, Schedule, Objective and Method must do.

The legend of tensor axes, used in every annotation of the project:

====================  ==========================================================
batch                 samples in a batch; behind several masks of each, a row for each mask
channels              colour channels of a clip: red, green, blue
frames height width   of a clip, in video frames and pixels
token                 all tokens of a clip, time-major (see `geometry.Grid`)
visible               tokens that the student sees
target                hidden tokens to predict
dim                   numbers in one token or latent
====================  ==========================================================

A sample is a set of named tensors. A video's is one clip, and clips travel as uint8: every model normalises its own
input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from salt_toolkit.context import MethodContext
from salt_toolkit.errors import PluginError
from salt_toolkit.geometry import MaskCounts, TokenSpec
from salt_toolkit.streams import LATENTS

Label = int | float | Tensor
"""The number of a class; or a number, or a vector of shape (dim,), to regress."""


@dataclass(frozen=True)
class Sample:
    """One item of a dataset.

    Attributes:
        clip_id: Unique within the dataset, and the same on every machine.
        tensors: Named tensors, of the shapes and types that `DatasetConfig.sample_spec` declares; a video's clip is
            ``"clip"``, uint8 of shape (frames, height, width, channels), as decoders write it.
        label: The number of a class, or a number or vector to regress, if there is one.
        caption: Text, if there is one.
        source: The file that it was read from, if it is one file.
    """

    clip_id: str
    tensors: Mapping[str, Tensor]
    label: Label | None = None
    caption: str | None = None
    source: Path | None = None


@dataclass(frozen=True)
class ClipBatch:
    """Samples stacked along a first axis, on one device.

    Attributes:
        clip_ids: One for each row.
        tensors: The samples' tensors, stacked, and what `Method.prepare` adds (such as masks).
        labels: Where every sample has one: class numbers as int64 of shape (batch,), or float32 of shape (batch,) or
            (batch, dim).
        captions: Where every sample has one.
    """

    clip_ids: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    labels: Tensor | None = None
    captions: tuple[str, ...] | None = None

    @property
    def clip(self) -> UInt8[Tensor, "batch channels frames height width"]:
        """The clips; a view of the stored (batch, frames, height, width, channels)."""
        return self.tensors["clip"].permute(0, 4, 1, 2, 3)

    def with_tensors(self, **tensors: Tensor) -> ClipBatch:
        """The same batch with further named tensors."""
        return replace(self, tensors={**self.tensors, **tensors})

    def to(self, device: torch.device) -> ClipBatch:
        """The same batch on a device; the copy does not wait where memory is pinned."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()}
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return replace(self, tensors=moved, labels=labels)


@dataclass(frozen=True)
class Mask:
    """Which tokens of each clip are visible, and which are targets: disjoint, ascending, fixed in number."""

    visible: Int64[Tensor, "batch visible"]
    target: Int64[Tensor, "batch target"]


@runtime_checkable
class Dataset(Protocol):
    """A source of samples that can be read in any order, from any thread."""

    @property
    def clip_ids(self) -> Sequence[str]:
        """The unique id of each clip, in a stable order."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """The name of each label; empty where there are no labels."""
        ...

    def read(self, index: int, view: int) -> Sample:
        """Reads one view of one clip: always the same bytes for the same arguments.

        Raises:
            BadClip: The clip cannot be used; the loader records it and goes on.
        """
        ...


@runtime_checkable
class TableDataset(Dataset, Protocol):
    """A dataset that reads many samples at once faster than one by one, such as a table."""

    def read_many(self, indices: Sequence[int], view: int) -> ClipBatch:
        """Reads one view of several samples, stacked in the order of the indices; each equals what `read` gives.

        Raises:
            BadClip: One of them cannot be used; they are then read one by one.
        """
        ...


@runtime_checkable
class FileDataset(Dataset, Protocol):
    """A dataset whose samples lie in files, one or several in each."""

    def path_of(self, index: int) -> Path:
        """The file that a sample is read from, without opening it."""
        ...


class Masker(ABC):
    """Chooses visible and target tokens for one clip at a time.

    The generator is the only source of chance; the caller seeds it from (seed, epoch, clip id, the mask's number).
    """

    @abstractmethod
    def counts(self, ratio: float | None = None) -> MaskCounts:
        """Visible and target tokens of every draw; the same answer as the config's ``counts``."""

    @abstractmethod
    def draw(self, generator: np.random.Generator, ratio: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draws one clip's mask.

        Args:
            generator: Seeded by the caller.
            ratio: Share of hidden tokens from a schedule; None takes the config's own.

        Returns:
            Indices of the visible and of the target tokens: disjoint, ascending, int64, as many as
            `counts` says.
        """


class Teacher(nn.Module, ABC):
    """A frozen model in evaluation mode; no parameter asks for a gradient.

    Attributes:
        token_spec: Grid and width of the latents, equal to the config's answer; of teachers that have such.
    """

    token_spec: TokenSpec

    @abstractmethod
    def forward(self, batch: ClipBatch) -> Tensor | Mapping[str, Tensor]:
        """What it says of whole samples: (batch, token, dim), or a tensor (batch, ...) for each of its streams.

        The same sample gives the same numbers, whatever else is in the batch.
        """

    def outputs(self, batch: ClipBatch) -> dict[str, Tensor]:
        """`forward`, by the names of its config's streams."""
        given = self(batch)
        return {LATENTS: given} if isinstance(given, Tensor) else dict(given)


class Student(nn.Module, ABC):
    """The encoder that a run trains.

    Attributes:
        token_spec: Grid and width of the tokens, equal to the config's answer.
    """

    token_spec: TokenSpec

    @abstractmethod
    def forward(
        self, batch: ClipBatch, visible: Int64[Tensor, "batch visible"] | None = None
    ) -> Float[Tensor, "batch visible dim"]:
        """Encodes the visible tokens, in the order given; None means all of them, in grid order."""

    def tokens_after(self, batch: ClipBatch, layers: Sequence[int]) -> list[Float[Tensor, "batch token dim"]]:
        """Tokens of whole clips as if the student ended after each given block, final norm applied.

        Only asked of students whose config has `StudentConfig.teachable_layers`.

        Args:
            batch: Whole clips.
            layers: Numbers of blocks, the first of which is 1. After the last block the tokens are those of `forward`.
        """
        name = type(self).__name__
        raise PluginError(f"{name} does not answer tokens_after(), though its config says so; report it to its authors")


class Predictor(nn.Module, ABC):
    """Predicts latents at the targets."""

    @abstractmethod
    def forward(
        self, tokens: Float[Tensor, "batch visible student_dim"], mask: Mask
    ) -> Float[Tensor, "batch target teacher_dim"]:
        """Predicts the teacher's latents at ``mask.target`` from the student's tokens at ``mask.visible``.

        Several teachers' latents come side by side along the last axis, as one teacher's of their joint width.
        """


@runtime_checkable
class Schedule(Protocol):
    """A number for every step of a run."""

    def __call__(self, step: int) -> float:
        """The value at a step, counted from 0; a pure function, finite for 0 <= step <= total_steps."""
        ...


class Objective(nn.Module, ABC):
    """A loss between predictions and one teacher's latents, after their normalisation.

    Before the first step of a new run, `observe` gets the latents of `calibration_clips` clips, batch after
    batch, and then `calibrate` is called.

    Attributes:
        calibration_clips: Clips to observe; 0 for none, and then neither is called.
    """

    calibration_clips: int = 0

    def observe(self, latents: Float[Tensor, "batch token dim"]) -> None:
        """Takes in the latents of some calibration clips."""

    def calibrate(self) -> None:
        """Makes statistics of what was observed, once; keeps them in buffers."""

    @abstractmethod
    def targets(self, latents: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """The latents as the loss wants them; in training mode they may also update running statistics."""

    @abstractmethod
    def forward(
        self, predicted: Float[Tensor, "batch target dim"], targets: Float[Tensor, "batch target dim"]
    ) -> Float[Tensor, ""]:
        """The loss, a mean over clips, targets and numbers."""


@dataclass(frozen=True)
class Parts:
    """What `assemble` built for a method; None or empty where the method did not ask for it.

    Attributes:
        seed: The run's seed, for what the method draws.
        teachers: By name, in the recipe's order; their latents are on the student's grid.
        objectives: One for each teacher, by the teacher's name.
        weights: How much each teacher's loss counts against the others', by the teacher's name; absent: 1.
        student: The encoder to train.
        predictor: Its output is as wide as all teachers together, in their order.
        masker: Chooses visible and target tokens.
        schedules: The schedules that the method's config names.
        others: What was built of the kinds that plugins add and the method's ``needs`` names: by kind, then by the
            name of the section, which is the kind's where there is only one.
        context: Samples and streams as the method's config sees them.
    """

    seed: int
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    student: Student | None = None
    predictor: Predictor | None = None
    masker: Masker | None = None
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    context: MethodContext = field(default_factory=MethodContext)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that learn at a rate of their own.

    Attributes:
        parameters: Of modules that the method owns.
        lr: Factor on the scheduled learning rate.
        weight_decay: Factor on the scheduled weight decay. Parameters with one axis never decay.
    """

    parameters: Sequence[nn.Parameter]
    lr: float = 1.0
    weight_decay: float = 1.0


@dataclass(frozen=True)
class StepOutput:
    """What a method says of a batch.

    Attributes:
        loss: What to minimise.
        metrics: Named scalars without gradient, on the device; the loop reads them late.
    """

    loss: Float[Tensor, ""]
    metrics: Mapping[str, Tensor]


class Method(nn.Module, ABC):
    """Turns a batch into a loss and metrics, and owns the modules that learn.

    The loop calls `calibrate` once (in a new run), then for every batch `prepare` on the host and
    ``method(batch)`` on the device.

    Attributes:
        student: What the run is for, unless `exports` says otherwise.
        calibration_clips: Clips that `calibrate` wants; 0 for none.
    """

    student: Student
    calibration_clips: int = 0

    @abstractmethod
    def owned_modules(self) -> Mapping[str, nn.Module]:
        """The modules whose state belongs to the run, by name: trained here, saved in checkpoints."""

    def exports(self) -> Mapping[str, nn.Module]:
        """The modules that a finished run leaves, each as ``<name>.safetensors``."""
        return {"student": self.student}

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Parameters with rates of their own; all others that the method owns learn as the schedules say."""
        return ()

    def prepare(self, batch: ClipBatch, *, epoch: int, step: int) -> ClipBatch:
        """Adds what the step needs and the host computes; pure, and runs ahead in another thread."""
        return batch

    def calibrate(self, batches: Iterable[ClipBatch]) -> None:
        """Takes statistics before the first step, from batches on the device."""

    @abstractmethod
    def forward(self, batch: ClipBatch) -> StepOutput:
        """The loss and the metrics of one batch."""
