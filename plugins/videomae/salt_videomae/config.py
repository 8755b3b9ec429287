"""Config of the VideoMAE teacher; finds out what a checkpoint is without loading it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from salt_toolkit import ClipSpec, Cost, GeometryError, Grid, MissingArtifact, TeacherConfig, TokenSpec
from salt_toolkit.flops import block_flops, block_parameters, linear_flops, linear_parameters

CHANNELS = 3


@dataclass(frozen=True)
class Architecture:
    """What decides a VideoMAE's grid, width and cost; published defaults."""

    dim: int
    depth: int
    mlp_dim: int
    frames: int = 16
    size: int = 224
    patch: int = 16
    tubelet: int = 2
    final_norm: bool = True
    qv_bias: bool = True

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Architecture:
        """Reads transformers' config.json of a VideoMAE; a key that is absent means what it means there."""
        return cls(
            dim=config.get("hidden_size", 768),
            depth=config.get("num_hidden_layers", 12),
            mlp_dim=config.get("intermediate_size", 3072),
            frames=config.get("num_frames", 16),
            size=_side(config.get("image_size", 224)),
            patch=_side(config.get("patch_size", 16)),
            tubelet=config.get("tubelet_size", 2),
            final_norm=not config.get("use_mean_pooling", True),
            qv_bias=config.get("qkv_bias", config.get("qv_bias", True)),  # transformers renamed it
        )


_SIZES = {
    "small": Architecture(384, 12, 1536),
    "base": Architecture(768, 12, 3072),
    "large": Architecture(1024, 24, 4096),
    "huge": Architecture(1280, 32, 5120),
}
_PRETRAINED = ("base", "base-short", "base-ssv2", "base-short-ssv2", "large")
_FINETUNED = (
    *(f"{size}-finetuned-kinetics" for size in ("small", "base", "base-short", "large", "huge")),
    *(f"{size}-finetuned-ssv2" for size in ("small", "base", "base-short")),
)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

HUB_IDS = tuple(f"MCG-NJU/videomae-{name}" for name in (*_PRETRAINED, *_FINETUNED))
"""The VideoMAE repositories of the hub; there is no pre-trained Huge among them."""


class VideoMAEConfig(TeacherConfig):
    """A VideoMAE (v1) encoder through transformers."""

    checkpoint: str = Field(
        description="A directory in Hugging Face layout (config.json and weights), or a hub id such as "
        "MCG-NJU/videomae-base."
    )
    norm: Literal["none", "layer"] = Field(
        "layer",
        description="What is done to the encoder's output: nothing, or a LayerNorm over each latent without weights.",
    )

    def architecture(self) -> Architecture:
        """What the checkpoint is, from its config.json or, for published ids, by heart.

        Raises:
            MissingArtifact: Neither is to be had here.
            GeometryError: The config.json is not a VideoMAE's.
        """
        folder = self.local_folder()
        if folder is not None:
            return self._read(folder / "config.json")
        if self.checkpoint in HUB_IDS:
            name = self.checkpoint.removeprefix("MCG-NJU/videomae-")
            size = _SIZES[name.split("-")[0]]
            return Architecture(size.dim, size.depth, size.mlp_dim, final_norm="finetuned" not in name)
        raise self.not_here()

    def local_folder(self) -> Path | None:
        """The checkpoint's folder on this machine: the one named, or the hub's cache; None if there is none."""
        named = Path(self.checkpoint)
        if named.is_dir():
            return named
        if not self.is_hub_id():
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.checkpoint, "config.json")
        return Path(cached).parent if isinstance(cached, str) else None

    def is_hub_id(self) -> bool:
        """Whether the checkpoint could be a repository of the hub; ``./x`` and ``/x`` are paths."""
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(self.checkpoint)
        except HFValidationError:
            return False
        return "/" in self.checkpoint

    def weights_are_here(self) -> bool:
        """Whether the checkpoint's folder on this machine holds weights besides its config.json."""
        folder = self.local_folder()
        return folder is not None and any((folder / name).is_file() for name in _WEIGHTS)

    def missing(self) -> Sequence[MissingArtifact]:
        """The checkpoint, where neither a folder nor the hub's cache holds its weights."""
        return () if self.weights_are_here() else [self.not_here()]

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """The checkpoint's grid; its positions fit clips of one size only."""
        made = self.architecture()
        if (clip.frames, clip.size) != (made.frames, made.size):
            raise GeometryError(
                f"{self.checkpoint} takes clips of {made.frames} frames of {made.size} pixels, and this recipe's clips "
                f"have {clip.frames} frames of {clip.size}; set clip.frames and clip.size to the checkpoint's"
            )
        return TokenSpec(Grid.of(clip, tubelet=made.tubelet, patch=made.patch), made.dim)

    def cost(self, clip: ClipSpec) -> Cost:
        """The whole encoder over all tokens."""
        made, tokens = self.architecture(), self.token_spec(clip).grid.num_tokens
        tubelet_numbers = CHANNELS * made.tubelet * made.patch**2
        # VideoMAE has biases for queries and values, and none for keys.
        biases = 2 * made.dim if made.qv_bias else 0
        block = block_parameters(made.dim, made.mlp_dim, qkv_bias=False) + biases
        embedding = linear_flops(tokens, tubelet_numbers, made.dim)
        return Cost(
            parameters=linear_parameters(tubelet_numbers, made.dim)
            + made.depth * block
            + (2 * made.dim if made.final_norm else 0),
            forward_flops=embedding + made.depth * block_flops(tokens, made.dim, made.mlp_dim),
            input_flops=embedding,
        )

    def _read(self, file: Path) -> Architecture:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MissingArtifact(
                f"the directory {file.parent} has no config.json, so it is no checkpoint in Hugging Face layout",
                "Name a directory made by save_pretrained, or a hub id.",
            ) from None
        except (OSError, json.JSONDecodeError) as error:
            raise GeometryError(f"{file} cannot be read: {error}; get the checkpoint anew") from error
        if not isinstance(found, dict) or found.get("model_type") != "videomae":
            kind = found.get("model_type") if isinstance(found, dict) else None
            raise GeometryError(f"{file} describes a model of type {kind!r}, not a 'videomae'; name another checkpoint")
        return Architecture.of_config(found)

    def not_here(self, reason: str = "") -> MissingArtifact:
        """The error that says that the checkpoint is not on this machine, and why it cannot be had."""
        what = f"the checkpoint {self.checkpoint} is not on this machine"
        if Path(self.checkpoint).is_dir():
            what = f"the directory {self.checkpoint} has no weights ({_WEIGHTS[0]})"
        if self.checkpoint in HUB_IDS:
            fix = f"Download it once with `hf download {self.checkpoint}`, or name a local directory."
        else:
            fix = f"Name a directory in Hugging Face layout, or one of the hub's: {', '.join(HUB_IDS)}."
        return MissingArtifact(what + (f", and cannot be downloaded: {reason.rstrip('.')}" if reason else ""), fix)


def _side(size: int | list[int]) -> int:
    """The side of a square that a config.json gives as one number, or as height and width."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise GeometryError(f"the checkpoint's pictures or patches of {size} pixels are not square; name another one")
    return sides.pop()
