"""salt_toolkit: distils video foundation models into small ViTs by masked latent regression."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salt_toolkit.cards import KnownCheckpoint, ModelCard
    from salt_toolkit.component import (
        Component,
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
    from salt_toolkit.context import Inputs, MethodContext, Reads
    from salt_toolkit.errors import BadClip, CheckpointError, GeometryError, MissingArtifact, SaltError, SettingError
    from salt_toolkit.geometry import ClipSpec, Cost, Grid, MaskCounts, TokenSpec
    from salt_toolkit.hookspecs import hookimpl
    from salt_toolkit.kinds import Kind
    from salt_toolkit.streams import Encoding, SampleSpec, StreamSpec

__version__ = "0.1.0"

__all__ = [
    "BadClip",
    "CheckpointError",
    "ClipSpec",
    "Component",
    "Config",
    "Cost",
    "DatasetConfig",
    "Encoding",
    "GeometryError",
    "Grid",
    "Inputs",
    "Kind",
    "KnownCheckpoint",
    "MaskCounts",
    "MaskerConfig",
    "MethodConfig",
    "MethodContext",
    "MissingArtifact",
    "ModelCard",
    "ObjectiveConfig",
    "PredictorConfig",
    "Reads",
    "SaltError",
    "SampleSpec",
    "ScheduleConfig",
    "SettingError",
    "StreamSpec",
    "StudentConfig",
    "TeacherConfig",
    "TokenSpec",
    "hookimpl",
]

_HOMES = {
    "BadClip": "errors",
    "CheckpointError": "errors",
    "ClipSpec": "geometry",
    "Component": "component",
    "Config": "component",
    "Cost": "geometry",
    "DatasetConfig": "component",
    "Encoding": "streams",
    "GeometryError": "errors",
    "Grid": "geometry",
    "Inputs": "context",
    "Kind": "kinds",
    "KnownCheckpoint": "cards",
    "MaskCounts": "geometry",
    "MaskerConfig": "component",
    "MethodConfig": "component",
    "MethodContext": "context",
    "MissingArtifact": "errors",
    "ModelCard": "cards",
    "ObjectiveConfig": "component",
    "PredictorConfig": "component",
    "Reads": "context",
    "SaltError": "errors",
    "SampleSpec": "streams",
    "ScheduleConfig": "component",
    "SettingError": "errors",
    "StreamSpec": "streams",
    "StudentConfig": "component",
    "TeacherConfig": "component",
    "TokenSpec": "geometry",
    "hookimpl": "hookspecs",
}
"""The modules of the names above. Each is imported when it is asked for: `salt --help` needs none of them."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
