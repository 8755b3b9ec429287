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

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Architecture:
        """Reads transformers' config.json of a VideoMAE."""
        return cls(
            dim=config["hidden_size"],
            depth=config["num_hidden_layers"],
            mlp_dim=config["intermediate_size"],
            frames=config["num_frames"],
            size=config["image_size"],
            patch=config["patch_size"],
            tubelet=config["tubelet_size"],
            final_norm=not config["use_mean_pooling"],
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
        raise self._not_here()

    def local_folder(self) -> Path | None:
        """The checkpoint's folder on this machine: the one named, or the hub's cache; None if there is none."""
        named = Path(self.checkpoint)
        if named.is_dir():
            return named
        if self.checkpoint.count("/") != 1:
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.checkpoint, "config.json")
        return Path(cached).parent if isinstance(cached, str) else None

    def missing(self) -> Sequence[MissingArtifact]:
        """The checkpoint, where it is neither a folder nor in the hub's cache."""
        return () if self.local_folder() is not None else [self._not_here()]

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
        block = block_parameters(made.dim, made.mlp_dim, qkv_bias=False) + 2 * made.dim
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
        try:
            return Architecture.of_config(found)
        except KeyError as error:
            raise GeometryError(
                f"{file} lacks the key {error}, so its grid is unknown; get the checkpoint anew"
            ) from None

    def _not_here(self) -> MissingArtifact:
        if self.checkpoint in HUB_IDS:
            fix = f"Download it once with `hf download {self.checkpoint}`, or name a local directory."
        else:
            fix = f"Name a directory in Hugging Face layout, or one of the hub's: {', '.join(HUB_IDS)}."
        return MissingArtifact(f"the checkpoint {self.checkpoint} is not on this machine", fix)
