"""VideoMAE as a teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_toolkit import ClipSpec, Component, hookimpl
from salt_videomae.config import VideoMAEConfig

if TYPE_CHECKING:
    from salt_toolkit.contracts import Teacher


def build_videomae(config: VideoMAEConfig, *, clip: ClipSpec) -> Teacher:
    """Loads the teacher; see `salt_videomae.teacher`."""
    from salt_videomae.teacher import VideoMAETeacher

    return VideoMAETeacher(config, clip).eval()


@hookimpl
def salt_teachers() -> Iterable[Component]:
    """VideoMAE."""
    yield Component(
        "videomae", VideoMAEConfig, build_videomae, "VideoMAE (v1) through transformers; non-commercial weights."
    )
