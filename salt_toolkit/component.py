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
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from salt_toolkit.cards import KnownCheckpoint, ModelCard
from salt_toolkit.context import Inputs, MethodContext, Reads
from salt_toolkit.errors import GeometryError, MissingArtifact, PluginError
from salt_toolkit.geometry import ClipSpec, Cost, Grid, MaskCounts, TokenSpec
from salt_toolkit.streams import CLIP, LATENTS, SampleSpec, StreamSpec, clip_stream, token_stream


class Config(BaseModel):
    """Base of every component's config: frozen, strict, and without unknown keys.

    Attributes:
        movable: Settings that only say where something lies, such as a data set's root. They may differ between a run
            and its continuation, and are no part of the identity.
        revision: Stamp of the code, raised by hand whenever equal settings would give other numbers. None: any change
            of the plugin's source counts as such.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    movable: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int | None] = None

    def missing(self) -> Sequence[MissingArtifact]:
        """What this component would need and cannot find on this machine, found without opening it."""
        return ()

    def identity(self, inputs: Inputs) -> Mapping[str, Any]:
        """Plain values that, with `weight_files` and the code, decide what the component computes.

        By default every setting that is not `movable`. A config with two ways to say one thing gives one answer for
        both: equal components have equal identities.
        """
        return self.model_dump(mode="json", exclude=set(self.movable))

    def weight_files(self) -> Sequence[Path]:
        """The files on this machine whose bytes decide what it computes; none for a component without weights."""
        return ()

    def card(self) -> ModelCard | None:
        """Licence and labels of the weights that it brings or starts from; None where there are none."""
        return None


class TeacherConfig(Config):
    """Base of teachers' configs; one whose latents lie on a grid answers `token_spec`, any other `streams`."""

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The grid and width of the latents for such a clip.

        Raises:
            GeometryError: The clip does not fit the teacher.
            MissingArtifact: The answer lies in a file that is not there.
        """
        raise _no_tokens(self)

    def reads(self) -> tuple[str, ...]:
        """Names of the samples' tensors that it needs."""
        return (CLIP,)

    def streams(self, inputs: Inputs) -> SampleSpec:
        """Its outputs, one or several from one forward pass; by default the one that `token_spec` describes.

        Raises:
            GeometryError: The samples do not fit the teacher.
            MissingArtifact: The answer lies in a file that is not there.
        """
        return {LATENTS: token_stream(self.token_spec(inputs.video))}

    def precision(self) -> Literal["fp32", "bf16"] | None:
        """The precision that it has to run in; None: fp32, or bfloat16 under autocast where the machine chooses it."""
        return None

    def cost(self, inputs: Inputs) -> Cost | None:
        """Parameters and FLOPs for one sample; None when unknown."""
        return None

    @classmethod
    def known_checkpoints(cls) -> Sequence[KnownCheckpoint]:
        """The published checkpoints that it can load, for `salt teachers`."""
        return ()


class StudentConfig(Config):
    """Base of students' configs.

    A later run may ask whose teacher this student is, once it is trained; its `identity` then leaves out what matters
    in training alone.
    """

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The grid and width of the student's tokens for such a clip; see `TeacherConfig`."""
        raise _no_tokens(self)

    def streams(self, inputs: Inputs) -> SampleSpec:
        """Its outputs for a whole sample; see `TeacherConfig.streams`."""
        return {LATENTS: token_stream(self.token_spec(inputs.video))}

    def cost(self, inputs: Inputs, visible: int) -> Cost | None:
        """Parameters and FLOPs for one sample of which the student sees ``visible`` tokens."""
        return None

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
    """Base of datasets' configs; ``split`` lets one recipe train on one part and be judged on another."""

    split: str = Field("train", description="Which part of the data set to read.")

    def num_clips(self) -> int | None:
        """How many samples the split holds, without opening any; None when that is unknown here."""
        return None

    def sample_spec(self, clip: ClipSpec | None) -> SampleSpec:
        """The tensors of a sample, by name; by default a clip of video, as ``[clip]`` says.

        Args:
            clip: The recipe's section; None where it has none.

        Raises:
            GeometryError: The data set cuts clips, and the recipe has no ``[clip]``.
        """
        if clip is None:
            raise GeometryError("the data set cuts clips from videos, and the recipe has no [clip] section; add one")
        return {CLIP: clip_stream(clip)}

    def label_spec(self) -> StreamSpec | None:
        """A sample's label: ``StreamSpec((), "I64")`` for the number of a class, "F32" for one or several numbers.

        None where samples have no label, or where only the files can tell.
        """
        return None

    def identity(self, inputs: Inputs) -> Mapping[str, Any]:
        """Plain values that, with ids and split, decide the samples: by default all settings, the clip and the seed.

        A config leaves out what changes no number. Stored videos depend on the seed only where views are drawn
        (`ClipSpec.draws`), and a table of features depends on neither seed nor clip.
        """
        clip = {"clip": inputs.clip.identity()} if inputs.clip else {}
        settings = self.model_dump(mode="json", exclude={"split", *self.movable})
        return {**settings, **clip, "seed": inputs.seed}


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

    def reads(self) -> Reads | None:
        """What it takes from a batch; None: everything.

        A run whose cache holds all of it reads the cache alone, and decodes no video.
        """
        return None

    def check(self, context: MethodContext) -> Mapping[str, str]:
        """Settings that cannot work in this recipe: the reason, by the setting's name; "" for the method as a whole.

        Raises:
            GeometryError: Likewise, for the method as a whole.
        """
        return {}

    def cost(self, context: MethodContext) -> Cost | None:
        """What all modules that it trains cost for one sample's step, all passes together.

        None: student and predictor, as their configs say; else `salt check --deep` and `salt bench` count.
        """
        return None

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


def _no_tokens(config: Config) -> GeometryError:
    name = type(config).__name__
    return GeometryError(
        f"{name} knows no grid of tokens: the plugin that defines it has to override token_spec(), or streams() for "
        "outputs that lie on no grid"
    )


def unanswered(config: Config, method: str) -> PluginError:
    """The error of a config whose plugin forgot a method that its kind must have."""
    name = type(config).__name__
    return PluginError(f"{name} does not answer {method}(); the plugin that defines it has to override it")
