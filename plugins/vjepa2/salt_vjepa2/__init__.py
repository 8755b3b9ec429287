"""V-JEPA 2 as a teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_toolkit import ClipSpec, Component, hookimpl
from salt_vjepa2.config import VJEPA2Config

if TYPE_CHECKING:
    from salt_toolkit.contracts import Teacher


def build_vjepa2(config: VJEPA2Config, *, clip: ClipSpec) -> Teacher:
    """Loads the encoder; see `salt_vjepa2.teacher`."""
    from salt_vjepa2.teacher import VJEPA2Teacher

    return VJEPA2Teacher(config, clip)


@hookimpl
def salt_teachers() -> Iterable[Component]:
    """The one family."""
    yield Component("vjepa2", VJEPA2Config, build_vjepa2, "V-JEPA 2, L to g, on clips of any size; permissive weights.")
