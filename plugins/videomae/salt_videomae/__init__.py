"""VideoMAE and VideoMAEv2 as teachers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_toolkit import ClipSpec, Component, hookimpl
from salt_videomae.config import VideoMAE2Config, VideoMAEConfig

if TYPE_CHECKING:
    from salt_toolkit.contracts import Teacher


def build_videomae(config: VideoMAEConfig | VideoMAE2Config, *, clip: ClipSpec) -> Teacher:
    """Loads either generation; see `salt_videomae.teacher`."""
    from salt_videomae.teacher import VideoMAETeacher

    return VideoMAETeacher(config, clip)


@hookimpl
def salt_teachers() -> Iterable[Component]:
    """Both generations of VideoMAE."""
    yield Component("videomae", VideoMAEConfig, build_videomae, "VideoMAE (v1), S to H; non-commercial weights.")
    yield Component("videomae2", VideoMAE2Config, build_videomae, "VideoMAEv2, S to giant; non-commercial weights.")
