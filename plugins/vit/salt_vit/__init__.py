"""Vision transformers: timm's ViTs as students, and the narrow transformer predictor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_toolkit import ClipSpec, Component, TokenSpec, hookimpl
from salt_vit.config import TimmViTConfig, TransformerPredictorConfig

if TYPE_CHECKING:
    from salt_toolkit.contracts import Predictor, Student


def build_timm_vit(config: TimmViTConfig, *, clip: ClipSpec) -> Student:
    """Builds the student; see `salt_vit.student`."""
    from salt_vit.student import TimmViT

    return TimmViT(config, clip)


def build_transformer(config: TransformerPredictorConfig, *, student: TokenSpec, teacher: TokenSpec) -> Predictor:
    """Builds the predictor; see `salt_vit.predictor`."""
    from salt_vit.predictor import TransformerPredictor

    return TransformerPredictor(config, student, teacher)


@hookimpl
def salt_students() -> Iterable[Component]:
    """The ViT student."""
    yield Component(
        "timm_vit", TimmViTConfig, build_timm_vit, "Any plain ViT of timm, on tubelets, seeing visible tokens only."
    )


@hookimpl
def salt_predictors() -> Iterable[Component]:
    """The transformer predictor."""
    yield Component(
        "transformer", TransformerPredictorConfig, build_transformer, "V-JEPA's narrow transformer with mask tokens."
    )
