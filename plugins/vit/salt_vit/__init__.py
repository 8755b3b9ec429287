"""Vision transformers: timm's ViTs as students, its image models as teachers, and the transformer predictor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from salt_toolkit import ClipSpec, Component, TokenSpec, hookimpl
from salt_vit.config import TimmViTConfig, TransformerPredictorConfig
from salt_vit.image_config import DinoConfig, TimmImageConfig

if TYPE_CHECKING:
    from salt_toolkit.contracts import Predictor, Student, Teacher


def build_timm_image(config: TimmImageConfig, *, clip: ClipSpec) -> Teacher:
    """Loads an image model; see `salt_vit.image_teacher`."""
    from salt_vit.image_teacher import ImageTeacher

    return ImageTeacher(config, clip)


def build_dino(config: DinoConfig, *, clip: ClipSpec) -> Teacher:
    """Loads a DINO model, which is an image model like any other."""
    return build_timm_image(config, clip=clip)


def build_timm_vit(config: TimmViTConfig, *, clip: ClipSpec) -> Student:
    """Builds the student; see `salt_vit.student`."""
    from salt_vit.student import TimmViT

    return TimmViT(config, clip)


def build_transformer(config: TransformerPredictorConfig, *, student: TokenSpec, teacher: TokenSpec) -> Predictor:
    """Builds the predictor; see `salt_vit.predictor`."""
    from salt_vit.predictor import TransformerPredictor

    return TransformerPredictor(config, student, teacher)


@hookimpl
def salt_teachers() -> Iterable[Component]:
    """Image models, frame by frame."""
    yield Component(
        "timm_image",
        TimmImageConfig,
        build_timm_image,
        "Any image ViT or EVA of timm (CLIP, SigLIP, PE, MAE), by frame.",
    )
    yield Component("dino", DinoConfig, build_dino, "DINO, DINOv2 (with or without registers) and DINOv3, by frame.")


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
