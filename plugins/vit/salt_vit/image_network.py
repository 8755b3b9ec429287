"""timm's image models, cut down to the encoder that gives the latents of patches."""

from __future__ import annotations

from typing import Any, TypeAlias

import timm
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from salt_toolkit import SaltError

ImageModel: TypeAlias = VisionTransformer | Eva


def create(name: str, **changes: Any) -> ImageModel:
    """A model as published, with its own pooling and classifier; its weights are random.

    Args:
        name: In timm, with or without a tag.
        changes: Other arguments than the published ones.

    Raises:
        SaltError: The installed timm is older than the model.
    """
    if not timm.is_model(name):
        raise SaltError(f"the installed timm {timm.__version__} does not know {name}; update it: pip install -U timm")
    # A fixed size lets timm keep rotary positions instead of computing them for every batch.
    model = timm.create_model(name, dynamic_img_size=False, **changes)
    assert isinstance(model, ImageModel)  # as every model of the table
    return model


def cut_to_encoder(model: ImageModel, num_blocks: int) -> None:
    """Drops later blocks, pooling and classifier; the last norm, wherever it stood, becomes ``norm``."""
    norm = last_norm(model)
    model.prune_intermediate_layers([num_blocks - 1])
    model.norm = norm


def last_norm(model: ImageModel) -> nn.Module:
    """The norm after the last block; models that pool by the mean keep it behind the pooling."""
    return model.fc_norm if isinstance(model.norm, nn.Identity) else model.norm
