"""The kinds of components, one record each.

A record says which configs belong to the kind, how its section of a recipe is written, and what a build function
may ask for. Registry, recipes, JSON Schema, contract kit and the tables of the docs read it; nothing else lists the
kinds. A plugin adds one with the hook ``salt_kinds``, and from then on ``salt_<kind>s`` is a hook of every plugin.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

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
from salt_toolkit.errors import PluginError

NAME = r"[a-z][a-z0-9_]*"
"""What a kind, and a section of its own name such as ``[teachers.motion]``, may be called."""

RESERVED_SECTIONS = ("run", "clip", "train", "optimizer", "loader", "cache", "extends", "remove")
"""What a kind's section cannot be called: the core's own sections and keys of a recipe."""


@dataclass(frozen=True)
class Kind:
    """One kind of component.

    Attributes:
        name: Singular. The hook is ``salt_<name>s``.
        config: The base of its configs. `salt_toolkit.testing` asks every public method that the base defines.
        contract: What is built, as ``module:class``; imported only when it is needed.
        summary: What such components are, in one line.
        context: What a build function may ask for by keyword. It gets what its signature names.
        section: How a recipe writes it. one: ``[masker]``. named: ``[schedules.lr]``. either: ``[teacher]`` or
            ``[teachers.motion]``.
        presence: always: every recipe that trains has one. needed: if the method's ``needs`` names the kind;
            otherwise it is refused. optional: as the recipe likes.
        default: The component of a section without ``use``.
        extra: Keys of a named section that belong to the kind, not to the component.
        nested: Kinds that a named section may hold in a section of their own, in place of the recipe's.
        light: Whether `salt check` builds it too, so that its build function must import nothing heavy.
    """

    name: str
    config: type[Config]
    contract: str
    summary: str
    context: tuple[str, ...] = ()
    section: Literal["one", "named", "either"] = "one"
    presence: Literal["always", "needed", "optional"] = "optional"
    default: str | None = None
    extra: type[Config] | None = None
    nested: tuple[str, ...] = ()
    light: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME, self.name):
            raise PluginError(
                f"kind name {self.name!r} is not made of lowercase letters, digits and underscores; rename it"
            )
        if taken := {self.name, self.plural} & set(RESERVED_SECTIONS):
            raise PluginError(f"kind name {self.name!r}: recipes have a section [{min(taken)}] already; rename it")
        if not (isinstance(self.config, type) and issubclass(self.config, Config)):
            raise PluginError(f"the config base of kind {self.name!r}, {self.config!r}, is no subclass of Config")

    @property
    def plural(self) -> str:
        """The name of a named section: ``teachers``."""
        return f"{self.name}s"

    @property
    def hook(self) -> str:
        """The hook that yields its components."""
        return f"salt_{self.plural}"

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections that a recipe may write it in."""
        names = {"one": (self.name,), "named": (self.plural,), "either": (self.name, self.plural)}
        return names[self.section]

    @property
    def extra_keys(self) -> tuple[str, ...]:
        """Keys of a named section that stay when ``use`` names another component."""
        return (*(self.extra.model_fields if self.extra else ()), *self.nested)

    @property
    def reserved(self) -> tuple[str, ...]:
        """Keys of its sections that no config may have as a field."""
        return ("use", *self.extra_keys)

    def built(self) -> type[Any]:
        """The class named by ``contract``; importing it may import torch."""
        module, _, name = self.contract.partition(":")
        return getattr(importlib.import_module(module), name)


def asked_for(build: Callable[..., Any], offered: Iterable[str]) -> tuple[str, ...]:
    """Which of the offered keyword arguments a build function names.

    Args:
        build: ``build(config, *, ...)``.
        offered: Names of what there is to give.

    Returns:
        All that it names; everything where it takes ``**context``.

    Raises:
        PluginError: It cannot be called without something that is not offered.
    """
    offered = tuple(offered)
    try:
        parameters = list(inspect.signature(build).parameters.values())[1:]  # the first is the config
    except ValueError:  # some functions written in C tell nothing
        return offered
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return offered
    named = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    unknown = [each.name for each in named if each.name not in offered and each.default is each.empty]
    if unknown:
        there = f"there is: {', '.join(offered)}" if offered else "there is nothing to ask for"
        raise PluginError(f"its build function asks for {', '.join(unknown)}; {there}")
    return tuple(each.name for each in named if each.name in offered)


class TeacherKeys(Config):
    """What ``[teachers.<name>]`` holds besides the teacher's own settings and its objective."""

    weight: float = Field(
        1.0, gt=0, description="How much its loss counts, against the other teachers': the losses' weighted mean."
    )


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "dataset",
            DatasetConfig,
            "salt_toolkit.contracts:Dataset",
            "Sources of samples.",
            context=("clip", "seed"),
            presence="always",
        ),
        Kind(
            "teacher",
            TeacherConfig,
            "salt_toolkit.contracts:Teacher",
            "Frozen models whose latents are the targets.",
            context=("clip", "inputs"),
            section="either",
            presence="needed",
            extra=TeacherKeys,
            nested=("objective",),
        ),
        Kind(
            "student",
            StudentConfig,
            "salt_toolkit.contracts:Student",
            "Encoders to train.",
            context=("clip", "inputs"),
            presence="needed",
        ),
        Kind(
            "predictor",
            PredictorConfig,
            "salt_toolkit.contracts:Predictor",
            "Predict the latents at the targets from the student's tokens.",
            context=("student", "teacher"),
            presence="needed",
        ),
        Kind(
            "masker",
            MaskerConfig,
            "salt_toolkit.contracts:Masker",
            "Choose visible and target tokens.",
            context=("grid",),
            presence="needed",
        ),
        Kind(
            "objective",
            ObjectiveConfig,
            "salt_toolkit.contracts:Objective",
            "Losses, and the normalisation of the latents.",
            context=("teacher",),
            presence="needed",
        ),
        Kind(
            "schedule",
            ScheduleConfig,
            "salt_toolkit.contracts:Schedule",
            "Numbers that change over a run.",
            context=("total_steps",),
            section="named",
            presence="always",
            light=True,
        ),
        Kind(
            "method",
            MethodConfig,
            "salt_toolkit.contracts:Method",
            "Ways to train.",
            context=("parts",),
            presence="always",
            default="masked_latent",
        ),
    )
}
"""The kinds of the core, by name."""
