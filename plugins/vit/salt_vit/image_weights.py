"""Published weights into timm's image models: whole, in timm's layout or in one that timm can read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.models import eva, vision_transformer
from timm.models.eva import Eva
from torch import Tensor

from salt_toolkit import CheckpointError
from salt_toolkit.weights.headers import first_line
from salt_toolkit.weights.loading import load_whole, read_weights
from salt_toolkit.weights.locate import CheckpointFiles
from salt_vit.hub import fetch_weights
from salt_vit.image_config import ELSEWHERE, TimmImageConfig
from salt_vit.image_files import PROJECTION
from salt_vit.image_network import ImageModel, create


def loaded(config: TimmImageConfig) -> ImageModel:
    """The model with its weights, at its own size, with its pooling and its classifier.

    Raises:
        MissingArtifact: The weights are not here, and cannot be downloaded.
        CheckpointError: They are not the whole of the model.
    """
    files = _fetched(config)
    config.refuse_strangers(files)
    model = _unfilled(full_name(config))
    weights = _in_timms_layout(files.name, read_weights(files), model, config.architecture.name)
    if config.checkpoint is not None:  # a file of one's own may have a classifier of its own, or none
        model.reset_classifier(len(weights.get("head.weight", ())))
    load_whole(model, weights, what=f"timm's {config.architecture.name}", name=files.name)
    return model


def full_name(config: TimmImageConfig) -> str:
    """The model's name with the tag of its weights, which decides the classifier."""
    return config.published.name if config.published else config.model


def _fetched(config: TimmImageConfig) -> CheckpointFiles:
    files = config.files()
    if files is not None:
        return files
    if config.checkpoint is not None or config.published is None:
        raise config.not_here()
    name, repository = config.published.name, config.published.repository
    return CheckpointFiles(name, (fetch_weights(name, repository, ELSEWHERE),))


def _unfilled(name: str) -> ImageModel:
    """A model to be loaded: without numbers, which saves a giant's time, where the file brings all of them."""
    with torch.device("meta"):
        model = create(name)
    computed = dict(model.named_buffers()).keys() - model.state_dict().keys()
    return create(name) if computed else model


def _in_timms_layout(name: str, weights: dict[str, Tensor], model: ImageModel, model_name: str) -> Mapping[str, Tensor]:
    """The weights by timm's keys; timm's own filter translates the authors' layouts."""
    if weights.keys() == model.state_dict().keys():
        return weights
    read = _without_zero_biases(name, weights, model, model_name)
    try:
        if isinstance(model, Eva):
            translated = eva.checkpoint_filter_fn(dict(read), model)
        else:
            translated = vision_transformer.checkpoint_filter_fn(dict(read), model, adapt_layer_scale=True)
    except Exception as error:  # timm's filters meet unknown layouts with whatever comes first
        raise CheckpointError(
            f"{name} has a layout that timm cannot read as {model_name} ({type(error).__name__}: {first_line(error)}); "
            "name another file"
        ) from error
    # The filter would resample what does not fit; then the file is of another model.
    storages = {value.untyped_storage().data_ptr() for value in read.values()}
    for key in (PROJECTION, "pos_embed"):
        if key in translated and translated[key].untyped_storage().data_ptr() not in storages:
            raise CheckpointError(
                f"the {'patches' if key == PROJECTION else 'positions'} of {name} are not those of {model_name}; "
                "name another model, or another file"
            )
    return translated


def _without_zero_biases(
    name: str, weights: Mapping[str, Tensor], model: ImageModel, model_name: str
) -> dict[str, Tensor]:
    """DINOv3's authors keep biases of queries and values even where they are zero; keys never have any.

    timm has each model with and without them, and its filter would drop any bias that the model lacks.
    """
    kept = dict(weights)
    own = model.state_dict()
    for key in weights:
        if "storage_tokens" not in weights or not key.endswith("attn.qkv.bias"):
            continue
        if key.replace("qkv.bias", "q_bias") in own:
            continue
        queries, _, values = kept.pop(key).chunk(3)
        if queries.any() or values.any():
            raise CheckpointError(
                f"{name} has biases of queries and values ({key}), and {model_name} has none; "
                f"set model to {model_name}_qkvb"
            )
    return kept
