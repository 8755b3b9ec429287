"""What a component's config knows about the recipe around it; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from salt_toolkit.errors import GeometryError
from salt_toolkit.geometry import ClipSpec, MaskCounts
from salt_toolkit.streams import CLIP, SampleSpec, StreamSpec, clip_stream


@dataclass(frozen=True)
class Inputs:
    """What reaches a component.

    Attributes:
        sample: The tensors of one sample, by name, as the data set declares them.
        clip: The recipe's section ``[clip]``; None in a recipe that cuts no video.
        seed: The run's seed; it decides what a data set draws.
    """

    sample: SampleSpec
    clip: ClipSpec | None = None
    seed: int = 0

    @property
    def video(self) -> ClipSpec:
        """The clip, for components that see nothing but video.

        Raises:
            GeometryError: The recipe has no ``[clip]``.
        """
        if self.clip is None:
            raise GeometryError("it needs clips of video, and the recipe has no [clip] section; add one")
        return self.clip

    def tensor(self, name: str) -> StreamSpec:
        """One tensor of a sample.

        Raises:
            GeometryError: The data set gives no such tensor; with those that it gives.
        """
        if name not in self.sample:
            given = ", ".join(self.sample) or "none"
            raise GeometryError(f"it reads the tensor {name!r}, and samples of this data set have: {given}")
        return self.sample[name]


def video_inputs(clip: ClipSpec, seed: int = 0) -> Inputs:
    """What reaches a component from a data set that gives nothing but clips."""
    return Inputs({CLIP: clip_stream(clip)}, clip, seed)


@dataclass(frozen=True)
class Reads:
    """What a method takes from a batch.

    Attributes:
        sample: Names of the samples' own tensors.
        streams: Names of teachers, for all their streams, or ``teacher.stream`` for one; None: all of all teachers.
    """

    sample: tuple[str, ...] = ()
    streams: tuple[str, ...] | None = None

    def reads_stream(self, teacher: str, stream: str) -> bool:
        """Whether one stream of one teacher is read."""
        return self.streams is None or teacher in self.streams or f"{teacher}.{stream}" in self.streams


@dataclass(frozen=True)
class MethodContext:
    """The recipe as a method's config sees it.

    Attributes:
        inputs: The samples.
        teachers: The streams of each teacher, by its name in the recipe.
        student: The streams of the student; None where the recipe has none.
        counts: Visible and target tokens of the masker's masks; None where there is no masker.
        labels: One sample's label; None where the data set has none, or does not say.
        num_clips: Samples in the data set; None where that is unknown.
        batch_size: Samples in one forward pass, over all processes.
    """

    inputs: Inputs = field(default_factory=lambda: Inputs({}))
    teachers: Mapping[str, SampleSpec] = field(default_factory=dict)
    student: SampleSpec | None = None
    counts: MaskCounts | None = None
    labels: StreamSpec | None = None
    num_clips: int | None = None
    batch_size: int = 1
