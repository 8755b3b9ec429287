"""The VideoMAE teacher: transformers' encoder, loaded whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import VideoMAEModel
from transformers.utils import logging

from salt_toolkit import ClipSpec, MissingArtifact, SaltError
from salt_toolkit.contracts import ClipBatch, Teacher
from salt_toolkit.tokens import IMAGENET_MEAN, IMAGENET_STD
from salt_videomae.config import HUB_IDS, VideoMAEConfig

# What published files hold besides the encoder: the pixel decoder of pre-training (with its mask
# token and positions), and the classifier of fine-tuning.
_NOT_ENCODER = re.compile(
    r"(videomae\.)?(decoder\.|encoder_to_decoder\.|mask_token$|position_embeddings$|fc_norm\.|classifier\.)"
)


class VideoMAETeacher(Teacher):
    """Dense latents of a VideoMAE encoder that sees every token."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VideoMAEConfig, clip: ClipSpec) -> None:
        super().__init__()
        self.token_spec = config.token_spec(clip)
        self.norm = config.norm
        self.encoder = load_encoder(config).requires_grad_(False)
        # transformers' image processor defaults to 0.5; VideoMAE was trained with ImageNet's figures.
        shape = (1, 1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(shape), persistent=False)

    @torch.no_grad()
    def forward(self, batch: ClipBatch) -> Float[Tensor, "batch token dim"]:
        """Encodes whole clips: after the final norm for pre-trained files, the last block's output else."""
        pixels = (batch.clip.transpose(1, 2).float() / 255 - self.mean) / self.std
        latents = self.encoder(pixels).last_hidden_state.float()
        return functional.layer_norm(latents, latents.shape[-1:], eps=1e-6) if self.norm == "layer" else latents


def load_encoder(config: VideoMAEConfig) -> VideoMAEModel:
    """Loads the encoder from a folder, the hub's cache, or the hub.

    transformers 5.6 to 5.17 left the biases of queries and values at zero, with no more than a
    notice; whatever the version, a weight that is not found in the file is an error here.

    Raises:
        MissingArtifact: There is no such checkpoint.
        SaltError: The file lacks weights of the encoder, or holds others.
    """
    source = config.local_folder() if config.weights_are_here() else _hub_id(config)
    try:
        with _quiet_transformers():
            encoder, info = VideoMAEModel.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues] - a pair
                str(source), output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise MissingArtifact(
            f"the checkpoint {config.checkpoint} cannot be loaded: {_first_line(error)}",
            f"Name a directory in Hugging Face layout, or one of the hub's: {', '.join(HUB_IDS)}.",
        ) from error
    _refuse_partial(config.checkpoint, info)
    return encoder


def _hub_id(config: VideoMAEConfig) -> str:
    """The checkpoint as a repository that can be reached.

    One question first: a download without a connection tries again for half a minute.
    """
    if Path(config.checkpoint).is_dir() or not config.is_hub_id():
        raise config.not_here()
    try:
        HfApi().model_info(config.checkpoint, timeout=10)
    except Exception as error:  # whatever the hub's client raises; it changes its HTTP library now and then
        raise config.not_here(_first_line(error)) from error
    return config.checkpoint


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bar and its table of a decoder's keys; `_refuse_partial` judges the keys."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _refuse_partial(checkpoint: str, info: dict[str, Any]) -> None:
    unexpected = [key for key in info["unexpected_keys"] if not _NOT_ENCODER.match(key)]
    wrong = {
        "lacks": sorted(info["missing_keys"]),
        "has unknown": sorted(unexpected),
        "has another shape for": sorted(str(entry) for entry in info["mismatched_keys"]),
    }
    found = [f"{what} {_listed(keys)}" for what, keys in wrong.items() if keys]
    if found:
        raise SaltError(
            f"{checkpoint} is not a whole VideoMAE encoder: it {'; it '.join(found)}. "
            "Nothing is left at random; get the checkpoint anew, or use transformers 5.18 or later "
            "(5.6 to 5.17 lose the biases q_bias and v_bias)"
        )


def _listed(keys: list[str], limit: int = 6) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return f"{len(keys)} weights ({', '.join(keys[:limit])}{more})"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
