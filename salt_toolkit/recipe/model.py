"""The recipe as the program sees it: typed sections, and the components that they select."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

import tomli_w
from pydantic import BaseModel

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
from salt_toolkit.errors import Problem, RecipeError
from salt_toolkit.geometry import ClipSpec
from salt_toolkit.kinds import KINDS, TeacherKeys
from salt_toolkit.recipe.core_sections import CacheSection, LoaderSection, OptimizerSection, RunSection, TrainSection
from salt_toolkit.registry import Provided

ConfigT_co = TypeVar("ConfigT_co", bound=Config, covariant=True)


@dataclass(frozen=True)
class Selected(Generic[ConfigT_co]):
    """A component that a recipe names, with its validated config.

    Attributes:
        provided: The component, and the plugin that it comes from.
        config: The section's settings.
        extra: What the section says that belongs to the kind, such as a teacher's weight.
    """

    provided: Provided
    config: ConfigT_co
    extra: Config | None = None

    @property
    def use(self) -> str:
        """The component's name, as the recipe writes it."""
        return self.provided.component.name

    def build(self, **context: Any) -> Any:
        """Builds the real thing; its build function gets what it names of the kind's context."""
        given = {name: context[name] for name in self.provided.asks if name in context}
        return self.provided.component.build(self.config, **given)

    def table(self) -> dict[str, Any]:
        """The section in plain values, with every default written out."""
        return {"use": self.use, **(_plain(self.extra) if self.extra else {}), **_plain(self.config)}


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
    """A complete, validated recipe.

    Attributes:
        run: ``[run]``, and so on for the core's own sections; ``cache`` is None where there is no such section.
        components: What the other sections select, by the section's dotted key: ``student``, ``schedules.lr``,
            ``teachers.motion``, ``teachers.motion.objective``. The properties below name those of the core's kinds.
    """

    run: RunSection
    clip: ClipSpec | None
    train: TrainSection
    optimizer: OptimizerSection
    loader: LoaderSection
    cache: CacheSection | None = None
    components: Mapping[str, Selected[Any]] = field(default_factory=dict)

    @property
    def dataset(self) -> Selected[DatasetConfig]:
        """Where clips come from."""
        return self.need("dataset")

    @property
    def trains(self) -> bool:
        """Whether it was read as a recipe that trains, and not only fills a cache."""
        return "method" in self.components

    @property
    def method(self) -> Selected[MethodConfig]:
        """How the student learns."""
        return self.need("method")

    @property
    def teacher(self) -> Selected[TeacherConfig] | None:
        """``[teacher]``; read `teachings` instead, which knows both ways to write teachers."""
        return self.components.get("teacher")

    @property
    def student(self) -> Selected[StudentConfig] | None:
        """The encoder that the run trains."""
        return self.components.get("student")

    @property
    def predictor(self) -> Selected[PredictorConfig] | None:
        """What predicts latents from the student's tokens."""
        return self.components.get("predictor")

    @property
    def masker(self) -> Selected[MaskerConfig] | None:
        """What chooses visible and target tokens."""
        return self.components.get("masker")

    @property
    def objective(self) -> Selected[ObjectiveConfig] | None:
        """The objective of all teachers that have none of their own."""
        return self.components.get("objective")

    @property
    def schedules(self) -> dict[str, Selected[ScheduleConfig]]:
        """The schedules by name."""
        return self.named("schedule")

    def need(self, key: str) -> Selected[Any]:
        """The component of a section.

        Args:
            key: Dotted, such as ``student`` or ``teachers.motion``.

        Raises:
            RecipeError: The recipe has no such section.
        """
        if key in self.components:
            return self.components[key]
        raise RecipeError([Problem(key, f"missing; this needs the section [{key}]", kind="section")])

    def named(self, kind: str) -> dict[str, Selected[Any]]:
        """What a kind's named sections select, by name and in the recipe's order: "lr" is ``[schedules.lr]``."""
        parts = {key: key.split(".") for key in self.components}
        return {
            parts[key][1]: selected
            for key, selected in self.components.items()
            if len(parts[key]) == 2 and parts[key][0] == f"{kind}s"
        }

    def with_component(self, key: str, selected: Selected[Any]) -> Recipe:
        """The same recipe with another component in a section."""
        return replace(self, components={**self.components, key: selected})

    @property
    def views(self) -> int:
        """Different views of each sample; 1 in a recipe that cuts no video."""
        return self.clip.views if self.clip else 1

    @property
    def noun(self) -> str:
        """What texts call one of the data set's samples."""
        return "clip" if self.clip else "sample"

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
        return tuple(self._teaching(name, teacher) for name, teacher in self.named("teacher").items())

    def _teaching(self, name: str, teacher: Selected[TeacherConfig]) -> Teaching:
        assert isinstance(teacher.extra, TeacherKeys)
        key = f"{KINDS['teacher'].plural}.{name}"
        own = f"{key}.objective"
        objective_key = own if own in self.components else "objective"
        objective = self.components.get(objective_key)
        return Teaching(name, teacher.extra.weight, teacher, objective, key, objective_key)

    def selected(self) -> dict[str, Selected[Config]]:
        """Every component of the recipe by its dotted key, such as ``schedules.lr`` or ``teachers.motion``."""
        return dict(self.components)

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out; itself a valid recipe, in plain values."""
        sections = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        tables: dict[str, Any] = {
            name: _plain(section) for name, section in sections.items() if isinstance(section, BaseModel)
        }
        for key, selected in self.components.items():
            *above, name = key.split(".")
            table = tables
            for part in above:
                table = table.setdefault(part, {})
            table[name] = selected.table()
        return tables

    def to_toml(self) -> str:
        """`resolved`, as the text of a TOML file."""
        return tomli_w.dumps(self.resolved())


def _plain(model: BaseModel) -> dict[str, Any]:
    # TOML has no null: an absent key means None.
    return model.model_dump(mode="json", exclude_none=True)
