"""The template of a plugin: what it provides, and how each thing is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from salt_toolkit import ClipSpec, Component, Grid, TokenSpec, hookimpl
from salt_toy.config import (
    DecayConfig,
    DenseConfig,
    LogCoshConfig,
    MixerConfig,
    ProjectionConfig,
    RegressorConfig,
    SquaresConfig,
    WindowConfig,
)


def build_projection(config: ProjectionConfig, *, clip: ClipSpec) -> Any:
    """Builds the teacher. Torch comes in with this import, and not before."""
    from salt_toy.models import ProjectionTeacher

    return ProjectionTeacher(config, clip=clip)


def build_mixer(config: MixerConfig, *, clip: ClipSpec) -> Any:
    """Builds the student."""
    from salt_toy.models import MixerStudent

    return MixerStudent(config, clip=clip)


def build_regressor(config: RegressorConfig, *, student: TokenSpec, teacher: TokenSpec) -> Any:
    """Builds the predictor."""
    from salt_toy.models import Regressor

    return Regressor(config, student=student, teacher=teacher)


def build_window(config: WindowConfig, *, grid: Grid) -> Any:
    """Builds the masker."""
    from salt_toy.data import WindowMasker

    return WindowMasker(config, grid=grid)


def build_squares(config: SquaresConfig, *, clip: ClipSpec, seed: int) -> Any:
    """Builds the dataset."""
    from salt_toy.data import Squares

    return Squares(config, clip=clip, seed=seed)


def build_decay(config: DecayConfig, *, total_steps: int) -> Any:
    """Builds the schedule; a plain function will do."""
    return lambda step: config.start * (config.end / config.start) ** (step / max(1, total_steps))


def build_log_cosh(config: LogCoshConfig, *, teacher: TokenSpec) -> Any:
    """Builds the objective."""
    from salt_toy.training import LogCosh

    return LogCosh(config, teacher=teacher)


def build_dense(config: DenseConfig, *, parts: Any) -> Any:
    """Builds the method."""
    from salt_toy.training import Dense

    return Dense(parts=parts)


@hookimpl
def salt_teachers() -> Iterable[Component]:
    """The teachers of this plugin."""
    yield Component("toy_projection", ProjectionConfig, build_projection, "Frozen random projection of each patch.")


@hookimpl
def salt_students() -> Iterable[Component]:
    """The students of this plugin."""
    yield Component("toy_mixer", MixerConfig, build_mixer, "Patch embedding; tokens meet in their mean.")


@hookimpl
def salt_predictors() -> Iterable[Component]:
    """The predictors of this plugin."""
    yield Component("toy_regressor", RegressorConfig, build_regressor, "Guesses from the place and the mean token.")


@hookimpl
def salt_maskers() -> Iterable[Component]:
    """The maskers of this plugin."""
    yield Component("toy_window", WindowConfig, build_window, "Hides a run of neighbouring tokens.")


@hookimpl
def salt_datasets() -> Iterable[Component]:
    """The datasets of this plugin."""
    yield Component("toy_squares", SquaresConfig, build_squares, "Moving squares, drawn in memory.")


@hookimpl
def salt_schedules() -> Iterable[Component]:
    """The schedules of this plugin."""
    yield Component("toy_decay", DecayConfig, build_decay, "Falls by the same factor at every step.")


@hookimpl
def salt_objectives() -> Iterable[Component]:
    """The objectives of this plugin."""
    yield Component("toy_log_cosh", LogCoshConfig, build_log_cosh, "Mean log cosh of the errors.")


@hookimpl
def salt_methods() -> Iterable[Component]:
    """The methods of this plugin."""
    yield Component("toy_dense", DenseConfig, build_dense, "Regresses the latents of all tokens, hiding none.")
