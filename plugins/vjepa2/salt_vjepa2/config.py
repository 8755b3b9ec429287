"""Config of the V-JEPA 2 teacher; it finds out what a checkpoint is without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from salt_toolkit import CheckpointError, ClipSpec, GeometryError, Grid, KnownCheckpoint, MissingArtifact, ModelCard
from salt_toolkit.teaching.config import EncoderConfig, EncoderSpec
from salt_toolkit.weights.locate import CheckpointFiles, find_checkpoint, not_here
from salt_vjepa2.architecture import CLASSIFIER_PREFIX, Architecture, from_config, require_described
from salt_vjepa2.catalog import PUBLISHED, Published

HUB_IDS = tuple(entry.name for entry in PUBLISHED)


class VJEPA2Config(EncoderConfig):
    """A V-JEPA 2 encoder."""

    revision: ClassVar[int | None] = 1
    movable: ClassVar[tuple[str, ...]] = ("checkpoint",)

    checkpoint: str = Field(
        description="A directory in Hugging Face layout (config.json and weights), or a hub id such as "
        "facebook/vjepa2-vitl-fpc64-256."
    )
    size: int | None = Field(
        None, ge=1, description="Height and width in pixels that clips are resized to; absent: the recipe's own."
    )

    def files(self) -> CheckpointFiles | None:
        """The checkpoint on this machine; None where it is not."""
        return find_checkpoint(self.checkpoint)

    def architecture(self) -> Architecture:
        """What the checkpoint is: from its files, or by heart for published ones.

        Raises:
            MissingArtifact: Neither is to be had here.
            CheckpointError: The files are not what they should be.
        """
        files = self.files()
        if files is None:
            entry = self._published()
            if entry is None:
                raise self.not_here()
            return entry.architecture
        if files.config is None:
            raise CheckpointError(
                f"{files.name} is a lone file, and what a V-JEPA 2 is stands in the config.json beside its weights; "
                "name a directory that holds both, or a hub id"
            )
        made = from_config(files.name, files.config)
        require_described(files.name, made, files.shapes())
        return made

    def encoder_spec(self, clip: ClipSpec) -> EncoderSpec:
        """The recipe's clip, in the size that is set: rotary positions fit any."""
        made = self.architecture()
        if self.size is not None and self.size % made.patch:
            raise GeometryError(
                f"size = {self.size} is not a multiple of the patch of {made.patch} pixels of {self.checkpoint}; "
                f"choose {max(1, self.size // made.patch) * made.patch}"
            )
        seen = clip if self.size is None else clip.model_copy(update={"size": self.size})
        grid = Grid.of(seen, tubelet=made.tubelet, patch=made.patch)
        return EncoderSpec(
            architecture=made.described(),
            frames=seen.frames,
            size=seen.size,
            grid=grid,
            dim=made.dim,
            depth=made.depth,
            own_norm=True,
            own_norm_is_default=True,
            around=made.around(grid),
            block=made.block(grid),
        )

    def weight_files(self) -> Sequence[Path]:
        """The checkpoint's files."""
        files = None if self.weights == "random" else self.files()
        return files.weights if files else ()

    def missing(self) -> Sequence[MissingArtifact]:
        """The checkpoint, where it is not on this machine; random weights of a published one need none."""
        known_by_heart = self.weights == "random" and self._published() is not None
        try:
            return () if known_by_heart or self.files() is not None else [self.not_here()]
        except CheckpointError:
            return ()  # it is here, and `architecture` says what is wrong with it

    def not_here(self, reason: str = "") -> MissingArtifact:
        """The error for a checkpoint that is not on this machine."""
        return not_here(self.checkpoint, HUB_IDS, reason)

    def card(self) -> ModelCard | None:
        """By its name if it is a published one, else by what lies beside the encoder; None for random weights."""
        if self.weights == "random":
            return None
        entry = self._published()
        if entry is not None:
            return entry.card
        try:
            files = self.files()
            shapes = files.shapes() if files else {}
        except CheckpointError:
            shapes = {}
        # Pre-training leaves a predictor; whoever trained a classifier may have trained the encoder with it.
        pretrained = any(key.startswith("predictor.") for key in shapes)
        classified = any(key.startswith(CLASSIFIER_PREFIX) for key in shapes)
        return ModelCard(labels="none" if pretrained and not classified else "unknown")

    @classmethod
    def known_checkpoints(cls) -> Sequence[KnownCheckpoint]:
        """The published ones."""
        return [entry.known for entry in PUBLISHED]

    def _published(self) -> Published | None:
        return next((entry for entry in PUBLISHED if entry.name == self.checkpoint), None)
