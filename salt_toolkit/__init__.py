"""salt_toolkit: distils video foundation models into small ViTs by masked latent regression."""

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
from salt_toolkit.errors import BadClip, CheckpointError, GeometryError, MissingArtifact, SaltError
from salt_toolkit.geometry import ClipSpec, Cost, Grid, MaskCounts, TokenSpec
from salt_toolkit.hookspecs import hookimpl
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
    "StreamSpec",
    "StudentConfig",
    "TeacherConfig",
    "TokenSpec",
    "hookimpl",
]
