"""The recipe as the program sees it: typed sections, and the components that they select."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from salt_toolkit.component import (
    Config,
    DatasetConfig,
    MaskerConfig,
    MethodConfig,
    ObjectiveConfig,
    PredictorConfig,
    ScheduleConfig,
    StudentConfig,
    TeacherConfig,
)
from salt_toolkit.context import Inputs
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.kinds import asked_for
from salt_toolkit.recipe.layers import TEACHER_NAME
from salt_toolkit.registry import Provided

RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a run may be called: it becomes a directory."""


class Section(BaseModel):
    """Base of the recipe's own sections: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSection(Section):
    """``[run]``: what the run is called and where it lives."""

    name: str = Field(pattern=f"^{RUN_NAME}$", description="Name of the run and of its directory.")
    seed: int = Field(0, ge=0, description="Decides initial weights, order of clips, views and masks.")
    dir: str = Field("runs", description="Directory that holds the run's directory; counts from the working directory.")

    @field_validator("name", mode="before")
    @classmethod
    def _names_a_directory(cls, name: Any) -> Any:
        rule = "letters, digits, dots, underscores and hyphens, a letter or digit first: it names a directory"
        return _of_form(name, RUN_NAME, rule)


class OptimizerSection(Section):
    """``[optimizer]``: AdamW; its learning rate and weight decay are schedules."""

    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's decay rates of the two moments.")
    eps: float = Field(1e-8, gt=0, description="AdamW's term in the denominator.")
    grad_clip: float | None = Field(
        None, gt=0, description="Largest norm of the whole gradient; absent: gradients are not clipped."
    )

    @model_validator(mode="after")
    def _betas_are_rates(self) -> OptimizerSection:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in 0 <= beta < 1, found {list(self.betas)}")
        return self


class TrainSection(Section):
    """``[train]``: how long, how large, in what precision."""

    epochs: int | None = Field(None, ge=1, description="Passes over the data set; either this or max_steps.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; either this or epochs.")
    batch_size: int = Field(
        32, ge=1, description="Clips in one forward pass, over all processes, which share them evenly."
    )
    accumulate: int = Field(1, ge=1, description="Forward passes whose gradients make one optimizer step.")
    precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="bf16: autocast on devices that compute in bfloat16 natively, fp32 elsewhere."
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = Field(
        "none", description="torch.compile's mode for the step."
    )
    cudnn_benchmark: bool = Field(True, description="Let cuDNN try its algorithms; no effect without a GPU.")
    tf32: bool = Field(True, description="Let GPUs multiply float32 in TF32, where bf16 is not used.")
    deterministic: bool = Field(
        False, description="Take only algorithms that repeat to the bit; slower on a GPU. Turns cudnn_benchmark off."
    )
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp",
        description="With several processes: ddp keeps all weights in each; fsdp2 shares student, predictor and "
        "optimizer out among them.",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the student's weights, which the run then leaves; absent: none.",
    )
    max_skipped_steps: int = Field(
        20,
        ge=0,
        description="Steps to skip, because loss or gradient is not finite, before the run stops.",
    )
    log_every: int = Field(10, ge=1, description="Optimizer steps from one line of metrics.jsonl to the next.")
    checkpoint_every: int = Field(500, ge=1, description="Optimizer steps from one checkpoint to the next.")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay on disk.")
    keep_every: int | None = Field(
        None, ge=1, description="Checkpoints at multiples of so many steps stay as well; absent: no others."
    )

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.epochs is None) == (self.max_steps is None):
            found = "neither" if self.epochs is None else "both"
            raise ValueError(f"found {found} of epochs and max_steps; give exactly one of them")
        return self

    @model_validator(mode="after")
    def _no_gradients_in_graphs(self) -> TrainSection:
        if self.accumulate > 1 and self.compile in ("reduce-overhead", "max-autotune"):
            raise ValueError(
                f"compile = {self.compile!r} replays recorded graphs, which write over the gradients that accumulate = "
                f"{self.accumulate} wants to add up; choose compile = 'default', or accumulate = 1"
            )
        return self

    def num_steps(self, num_clips: int) -> int:
        """Optimizer steps of the whole run: whole batches of each epoch, whole accumulations of the run."""
        if self.max_steps is not None:
            return self.max_steps
        return (self.epochs or 0) * (num_clips // self.batch_size) // self.accumulate


class LoaderSection(Section):
    """``[loader]``: how clips are read while the model trains."""

    workers: int = Field(4, ge=1, description="Threads that read and decode clips.")
    prefetch: int = Field(2, ge=1, description="Batches that are made ready ahead of the model.")
    ram_cache_mb: int = Field(
        0, ge=0, description="Megabytes of decoded clips to keep in memory, for data sets that are small."
    )
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="Share of the clips that may turn out bad before the run stops."
    )


class CacheSection(Section):
    """``[cache]``: where the teachers' latents are kept, computed once by `salt cache`."""

    dir: str = Field(
        description="Directory of the cache; each split gets a folder in it. Training also reads from the URL of an "
        "object store, such as s3://bucket/cache."
    )
    dtype: Literal["fp32", "bf16", "fp16", "int8", "fp8"] = Field(
        "bf16", description="How latents are stored; int8 and fp8 with scales for each channel and each token."
    )
    frames: bool = Field(False, description="Keep the decoded clips too, so that training decodes no video.")
    local_gb: float = Field(50.0, ge=0, description="Gigabytes of an object store's shards to keep on this machine.")
    shard_mb: int = Field(512, ge=1, description="Megabytes of a shard, the unit in which a cache is committed.")


class TeachingSection(Section):
    """What one of ``[[teachers]]`` holds besides the teacher's own settings and its objective."""

    name: str = Field(
        pattern=f"^{TEACHER_NAME}$",
        description="The teacher's name in metrics and checkpoints: lowercase letters, digits and underscores.",
    )
    weight: float = Field(
        1.0, gt=0, description="How much its loss counts, against the other teachers': the losses' weighted mean."
    )

    @field_validator("name", mode="before")
    @classmethod
    def _names_metrics(cls, name: Any) -> Any:
        rule = "lowercase letters, digits and underscores, a letter first: it becomes part of metrics' names"
        return _of_form(name, TEACHER_NAME, rule)


def _of_form(name: Any, form: str, rule: str) -> Any:
    """The name, if it is of a form that the editor's schema knows as a pattern, and a reader by the rule."""
    if isinstance(name, str) and not re.fullmatch(form, name):
        raise ValueError(f"found {json.dumps(name, ensure_ascii=False)}; expected {rule}")
    return name


ConfigT_co = TypeVar("ConfigT_co", bound=Config, covariant=True)


@dataclass(frozen=True)
class Selected(Generic[ConfigT_co]):
    """A component that a recipe names, with its validated config."""

    provided: Provided
    config: ConfigT_co

    @property
    def use(self) -> str:
        """The component's name, as the recipe writes it."""
        return self.provided.component.name

    def build(self, **context: Any) -> Any:
        """Builds the real thing, and gives its build function what that names of the context.

        Raises:
            PluginError: The build function needs something that the context lacks.
        """
        build = self.provided.component.build
        return build(self.config, **{name: context[name] for name in asked_for(build, context)})


@dataclass(frozen=True)
class Teaching:
    """One teacher, and how it is learned from.

    Attributes:
        name: Unique within the recipe.
        weight: How much its loss counts, against the other teachers'.
        teacher: The frozen model.
        objective: The loss; None where the method needs none.
        key: The recipe's dotted key of the teacher, such as ``teachers.motion``.
        objective_key: That of the objective, which teachers may share.
    """

    name: str
    weight: float
    teacher: Selected[TeacherConfig]
    objective: Selected[ObjectiveConfig] | None
    key: str
    objective_key: str


@dataclass(frozen=True)
class Recipe:
    """A whole, validated recipe; sections that the method does not need are None.

    ``teacher`` and ``teachers`` are two ways to write one thing: read `teachings`.
    """

    run: RunSection
    clip: ClipSpec
    dataset: Selected[DatasetConfig]
    method: Selected[MethodConfig]
    train: TrainSection
    optimizer: OptimizerSection
    loader: LoaderSection
    cache: CacheSection | None = None
    teacher: Selected[TeacherConfig] | None = None
    teachers: tuple[Teaching, ...] = ()
    student: Selected[StudentConfig] | None = None
    predictor: Selected[PredictorConfig] | None = None
    masker: Selected[MaskerConfig] | None = None
    objective: Selected[ObjectiveConfig] | None = None
    schedules: Mapping[str, Selected[ScheduleConfig]] = field(default_factory=dict)

    def inputs(self, clip: ClipSpec | None = None) -> Inputs:
        """What reaches the components.

        Args:
            clip: Another clip than the recipe's own, such as ``clip.for_evaluation()``.

        Raises:
            GeometryError: The data set cuts clips, and the recipe has no ``[clip]``.
        """
        clip = clip or self.clip
        return Inputs(self.dataset.config.sample_spec(clip), clip, self.run.seed)

    def teachings(self) -> tuple[Teaching, ...]:
        """The recipe's teachers with their objectives; ``[teacher]`` alone is one called "teacher"."""
        if self.teacher is not None:
            return (Teaching("teacher", 1.0, self.teacher, self.objective, "teacher", "objective"),)
        return tuple(
            teaching if teaching.objective else replace(teaching, objective=self.objective, objective_key="objective")
            for teaching in self.teachers
        )

    def selected(self) -> dict[str, Selected[Config]]:
        """Every component of the recipe by its dotted key, such as ``schedules.lr`` or ``teachers.motion``."""
        found: dict[str, Selected[Config]] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Selected):
                found[entry.name] = value
        for teaching in self.teachers:
            found[teaching.key] = teaching.teacher
            if teaching.objective:
                found[teaching.objective_key] = teaching.objective
        found.update({f"schedules.{name}": schedule for name, schedule in self.schedules.items()})
        return found

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out; itself a valid recipe, in plain values."""
        tables: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Selected):
                tables[entry.name] = _selection(value)
            elif isinstance(value, BaseModel):
                tables[entry.name] = _plain(value)
        if self.teachers:
            tables["teachers"] = [_teaching(teaching) for teaching in self.teachers]
        tables["schedules"] = {name: _selection(schedule) for name, schedule in self.schedules.items()}
        return tables

    def to_toml(self) -> str:
        """`resolved`, as the text of a TOML file."""
        return tomli_w.dumps(self.resolved())


def _plain(model: BaseModel) -> dict[str, Any]:
    # TOML has no null: an absent key means None.
    return model.model_dump(mode="json", exclude_none=True)


def _selection(selected: Selected[Config]) -> dict[str, Any]:
    return {"use": selected.use, **_plain(selected.config)}


def _teaching(teaching: Teaching) -> dict[str, Any]:
    table = {"name": teaching.name, "weight": teaching.weight, **_selection(teaching.teacher)}
    return {**table, "objective": _selection(teaching.objective)} if teaching.objective else table
