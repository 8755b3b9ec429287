"""Teachers that need no download: pixels, and the student of an earlier run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_teachers.config import PixelsConfig, RunConfig
from salt_toolkit import ClipSpec, Component, hookimpl

if TYPE_CHECKING:
    from salt_toolkit.contracts import Teacher


def build_pixels(config: PixelsConfig, *, clip: ClipSpec) -> Teacher:
    """Builds the pixel teacher; see `salt_teachers.pixels`."""
    from salt_teachers.pixels import PixelTeacher

    return PixelTeacher(config, clip).eval()


def build_run(config: RunConfig, *, clip: ClipSpec) -> Teacher:
    """Loads an earlier run's student; see `salt_teachers.earlier_run`."""
    from salt_teachers.earlier_run import EarlierRun

    return EarlierRun(config, clip).eval()


@hookimpl
def salt_teachers() -> Iterable[Component]:
    """The pixel teacher, and earlier runs."""
    yield Component("pixels", PixelsConfig, build_pixels, "The clip's own normalised pixels: stage 1 of SALT.")
    yield Component("run", RunConfig, build_run, "The student of an earlier run of this toolkit, frozen.")
