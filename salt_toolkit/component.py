"""What a hook returns: a name, a typed config, and a function that builds the real thing.

A config is light: importing it must not import torch. It answers by arithmetic what `salt check`
asks; only ``build`` imports the heavy libraries. The classes below are the configs' bases, one for
each kind of component, and state what each kind has to answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from salt_toolkit.cards import KnownCheckpoint, ModelCard
from salt_toolkit.errors import MissingArtifact, PluginError
from salt_toolkit.geometry import ClipSpec, Cost, Grid, MaskCounts, TokenSpec


class Config(BaseModel):
    """Base of every component's config: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def missing(self) -> Sequence[MissingArtifact]:
        """What this component would need and cannot find on this machine, found without opening it."""
        return ()


class TeacherConfig(Config):
    """Base of teachers' configs."""

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The grid and width of the latents for such a clip.

        Raises:
            GeometryError: The clip does not fit the teacher.
            MissingArtifact: The answer lies in a file that is not there.
        """
        raise unanswered(self, "token_spec")

    def cost(self, clip: ClipSpec) -> Cost | None:
        """Parameters and FLOPs for one clip; None when unknown."""
        return None

    def weight_files(self) -> Sequence[Path]:
        """The files on this machine whose bytes decide the latents; none for a teacher without weights."""
        return ()

    def identity(self, clip: ClipSpec) -> Mapping[str, Any]:
        """Plain values that, with the weights, decide the latents of a clip; by default, every setting.

        A config whose settings name files or machines leaves those out: equal teachers have equal identities.
        """
        return self.model_dump(mode="json")

    def card(self) -> ModelCard | None:
        """Licence and labels of the weights; None for a teacher without weights."""
        return None

    @classmethod
    def known_checkpoints(cls) -> Sequence[KnownCheckpoint]:
        """The published checkpoints that it can load, for `salt teachers`."""
        return ()


class StudentConfig(Config):
    """Base of students' configs."""

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The grid and width of the student's tokens for such a clip; see `TeacherConfig`."""
        raise unanswered(self, "token_spec")

    def cost(self, clip: ClipSpec, visible: int) -> Cost | None:
        """Parameters and FLOPs for one clip of which the student sees ``visible`` tokens."""
        return None

    def card(self) -> ModelCard | None:
        """Licence and labels of the weights that it starts from; None where they are random."""
        return None

    # What a later run asks whose teacher this student is, once it is trained.

    def identity(self) -> Mapping[str, Any]:
        """Plain values that, with the trained weights, decide the tokens of a clip; by default, every setting.

        A config leaves out what matters in training alone: equal students have equal identities.
        """
        return self.model_dump(mode="json")

    def structure(self, num_layers: int | None = None) -> StudentConfig:
        """The config of the same student without what it starts from, to be given trained weights; it needs no file.

        Args:
            num_layers: How many blocks to keep, of `teachable_layers`; None keeps the whole student. What is left
                has some of its weights, under the same names.
        """
        return self

    def teachable_layers(self) -> int:
        """Blocks whose tokens the built student gives (`contracts.Student.tokens_after`); 0: only its last tokens."""
        return 0


class PredictorConfig(Config):
    """Base of predictors' configs."""

    def cost(self, student: TokenSpec, teacher: TokenSpec, counts: MaskCounts) -> Cost | None:
        """Parameters and FLOPs for one clip's visible and target tokens."""
        return None


class MaskerConfig(Config):
    """Base of maskers' configs."""

    def counts(self, grid: Grid, ratio: float | None = None) -> MaskCounts:
        """Visible and target tokens of every clip, for the config's own ratio or a scheduled one.

        Raises:
            GeometryError: No token would be left to see, or none to predict.
        """
        raise unanswered(self, "counts")


class DatasetConfig(Config):
    """Base of datasets' configs; ``split`` lets one recipe train on one part and be judged on another.

    Attributes:
        seed_makes_clips: Whether the run's seed decides more than the choice of views; False for stored videos.
    """

    seed_makes_clips: ClassVar[bool] = True

    split: str = Field("train", description="Which part of the data set to read.")

    def num_clips(self) -> int | None:
        """How many clips the split holds, without opening a video; None when that is unknown here."""
        return None

    def identity(self) -> Mapping[str, Any]:
        """Plain values that, with ids and split, decide the clips; by default, every setting.

        A config whose settings name files or machines leaves those out, so that a cache may move.
        """
        return self.model_dump(mode="json", exclude={"split"})


class ScheduleConfig(Config):
    """Base of schedules' configs."""


class ObjectiveConfig(Config):
    """Base of objectives' configs."""

    def check(self, teacher: TokenSpec) -> None:
        """Refuses latents that the objective cannot work on, by arithmetic.

        Args:
            teacher: The latents, on the student's grid.

        Raises:
            GeometryError: It cannot work on latents of this grid and width.
        """


class MethodConfig(Config):
    """Base of methods' configs.

    `salt check` knows what student and predictor cost for one clip and one mask. A method that uses masks in
    another way than each as it was drawn, once, says so in ``counts`` and ``passes``: FLOPs and memory rest on them.

    Attributes:
        needs: The recipe's component sections that this method uses; the others are refused.
        schedules: Schedules that it reads besides ``lr`` and ``weight_decay``, which the loop reads.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    schedules: ClassVar[tuple[str, ...]] = ()

    def counts(self, drawn: MaskCounts) -> MaskCounts:
        """What student and predictor get of a mask: visible tokens and targets, of those that the masker draws."""
        return drawn

    def passes(self) -> int:
        """How often student and predictor run for one clip in a step; the teachers run once."""
        return 1

    def without_effect(self, drawn: MaskCounts) -> Mapping[str, str]:
        """Settings that are set and change nothing for such masks: the reason, by the setting's name."""
        return {}


_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Component:
    """One thing that a recipe can name.

    Attributes:
        name: What stands after ``use =``; lowercase letters, digits and underscores.
        config: The Pydantic class of the rest of the section.
        build: ``build(config, *, ...)``. It names the keyword arguments that it wants of those that its kind offers
            (`hookspecs` lists them). Its heavy imports belong inside.
        summary: One line for ``salt plugins``.
    """

    name: str
    config: type[Config]
    build: Callable[..., Any]
    summary: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PluginError(
                f"component name {self.name!r} is not made of lowercase letters, digits and underscores; rename it"
            )
        if not self.summary.strip():
            raise PluginError(f"component {self.name!r} has no summary; give it one line")


def unanswered(config: Config, method: str) -> PluginError:
    """The error of a config whose plugin forgot a method that its kind must have."""
    name = type(config).__name__
    return PluginError(f"{name} does not answer {method}(); the plugin that defines it has to override it")
