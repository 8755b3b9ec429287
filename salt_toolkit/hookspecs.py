"""Every hook on one page.

A plugin is a module (or package) named by an entry point in the group ``salt_toolkit``. It defines
some of the functions below, marked with ``@hookimpl``. salt calls them once, when it starts; they
must be cheap and must not import torch. Each yields `Component` records, so one plugin may offer
several teachers, or a teacher and a masker. ``build`` is called later, once for a run, with the
validated config and those of the keyword arguments stated here that its signature names.

A whole plugin::

    # my_package/__init__.py                       # pyproject.toml:
    from salt_toolkit import Component, hookimpl   #   [project.entry-points.salt_toolkit]
    from my_package.config import MyConfig         #   my_plugin = "my_package"

    def build_mine(config, *, clip):
        from my_package.models import MyTeacher    # the heavy import stays inside
        return MyTeacher(config, clip)

    @hookimpl
    def salt_teachers():
        yield Component("mine", MyConfig, build_mine, "What it is, in one line.")

Commands come by another group, ``salt_toolkit.commands``: see `salt_toolkit.cli.extensions`.

A recipe then says ``[teacher]`` ``use = "mine"``. What the built objects must do stands in
`salt_toolkit.contracts`; `salt_toolkit.testing` checks it; ``plugins/toy`` is a template to copy.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from salt_toolkit.component import Component
from salt_toolkit.kinds import Kind

GROUP = "salt_toolkit"
"""The entry-point group, and pluggy's project name."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def salt_teachers() -> Iterable[Component]:
    """Frozen models whose latents are the targets.

    Config: a `TeacherConfig` (``token_spec`` or ``streams``, ``cost``, ``missing``).
    Build: ``build(config, *, clip: ClipSpec, inputs: Inputs) -> contracts.Teacher``.
    """
    raise AssertionError


@hookspec
def salt_students() -> Iterable[Component]:
    """Encoders to be trained; they see the visible tokens only.

    Config: a `StudentConfig` (``token_spec``, ``cost``, ``missing``; and for a later run that learns from it,
    ``identity``, ``structure``, ``teachable_layers``).
    Build: ``build(config, *, clip: ClipSpec, inputs: Inputs) -> contracts.Student``.
    """
    raise AssertionError


@hookspec
def salt_predictors() -> Iterable[Component]:
    """Networks that guess the latents at the target tokens from the student's visible tokens.

    Config: a `PredictorConfig` (``cost``).
    Build: ``build(config, *, student: TokenSpec, teacher: TokenSpec) -> contracts.Predictor``. Both are on
    the student's grid. Several teachers are one that is as wide as all of them: the last layer is then a head
    for each, stacked, and what comes before it is shared.
    """
    raise AssertionError


@hookspec
def salt_maskers() -> Iterable[Component]:
    """Choices of visible and target tokens.

    Config: a `MaskerConfig` (``counts``).
    Build: ``build(config, *, grid: Grid) -> contracts.Masker``.
    """
    raise AssertionError


@hookspec
def salt_datasets() -> Iterable[Component]:
    """Sources of samples.

    Config: a `DatasetConfig` (``split``, ``num_clips``, ``missing``).
    Build: ``build(config, *, clip: ClipSpec, seed: int) -> contracts.Dataset``.
    """
    raise AssertionError


@hookspec
def salt_schedules() -> Iterable[Component]:
    """Numbers that change over a run: learning rate, weight decay, mask ratio.

    Config: a `ScheduleConfig`.
    Build: ``build(config, *, total_steps: int) -> contracts.Schedule``, a pure function of the step.
    Light, without torch: `salt check` builds schedules too.
    """
    raise AssertionError


@hookspec
def salt_objectives() -> Iterable[Component]:
    """Losses between predicted and teacher's latents, and the normalisation of the latter.

    Config: an `ObjectiveConfig` (``check``).
    Build: ``build(config, *, teacher: TokenSpec) -> contracts.Objective``, once for each teacher; the latents
    are on the student's grid.
    """
    raise AssertionError


@hookspec
def salt_methods() -> Iterable[Component]:
    """Ways to train: what a batch's loss is, and which modules learn.

    Config: a `MethodConfig` (``needs``, ``schedules``, ``counts``, ``passes``, ``without_effect``). ``needs`` names
    kinds: who needs "teacher" gets one or several, as the recipe says.
    Build: ``build(config, *, parts: contracts.Parts) -> contracts.Method``.
    """
    raise AssertionError


@hookspec
def salt_kinds() -> Iterable[Kind]:
    """Further kinds of components; every plugin may then define ``salt_<kind>s``.

    A recipe that names such a component is checked, completed by the schema and written out like any other.
    A method whose ``needs`` names the kind finds what was built in ``Parts.others``; anybody else builds it with
    `salt_toolkit.assemble.build`.
    """
    raise AssertionError
