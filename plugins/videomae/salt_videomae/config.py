"""Configs of the VideoMAE and VideoMAEv2 teachers; they find out what a checkpoint is without loading it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from salt_toolkit import (
    CheckpointError,
    ClipSpec,
    GeometryError,
    KnownCheckpoint,
    MissingArtifact,
    ModelCard,
    SettingError,
)
from salt_toolkit.teaching.config import EncoderConfig, EncoderSpec
from salt_toolkit.weights.locate import CheckpointFiles, find_checkpoint, not_here
from salt_toolkit.weights.whole import require_whole
from salt_videomae.architecture import SIZES, Architecture, from_shapes
from salt_videomae.catalog import DATASETS, DATASETS2, FILE, LICENCE, VIDEOMAE, VIDEOMAE2, Published, hub_ids
from salt_videomae.layouts import Layout, joined_projections, layout_of
from salt_videomae.settings import from_transformers, from_videomae2


class _VideoMAEConfig(EncoderConfig, ABC):
    """What both generations share: one architecture, several layouts of files."""

    revision: ClassVar[int | None] = 1
    movable: ClassVar[tuple[str, ...]] = ("checkpoint",)

    published: ClassVar[tuple[Published, ...]]
    datasets: ClassVar[Mapping[int, str]]
    hint: ClassVar[str]

    heads: int | None = Field(
        None, ge=1, description="Attention heads; absent: the published size's, or what config.json says."
    )

    model: Literal["small", "base", "large", "huge", "giant"] | None = Field(
        None,
        description="What the checkpoint is; absent: read from it. With it `salt check` can count before a .pth is on "
        "this machine, and a file of another one is refused.",
    )
    checkpoint: str = Field(min_length=1)

    def files(self) -> CheckpointFiles | None:
        """The checkpoint on this machine; None where it is not."""
        return find_checkpoint(self.checkpoint)

    def architecture(self) -> Architecture:
        """What the checkpoint is: from its files, or by heart for published ones.

        Raises:
            MissingArtifact: Neither is to be had here.
            CheckpointError: The files are not what they should be.
            GeometryError: The recipe's heads do not divide its width.
        """
        files = self.files()
        if files is not None:
            return self._read(files)[1]
        self.refuse_other_names()
        entry = self._published()
        if entry is not None:
            return self._agreed(entry.architecture)
        if self.model is not None:
            return self._agreed(SIZES[self.model])
        raise self.not_here()

    def layout(self, files: CheckpointFiles) -> Layout:
        """How the files name their weights."""
        return self._read(files)[0]

    def _read(self, files: CheckpointFiles) -> tuple[Layout, Architecture]:
        shapes = _shapes(files.name, tuple((file, file.stat().st_mtime_ns) for file in files.weights))
        base = self.described(files.name, files.config) if files.config is not None else None
        made = from_shapes(files.name, shapes, base=base)
        layout = layout_of(shapes)
        assert layout is not None  # from_shapes refuses those without
        self.refuse_strangers(layout, made)
        agreed = self._agreed(made)
        native = layout.native_keys(files.name, shapes)
        whole = joined_projections(native, lambda query, key, value: (query[0] + key[0] + value[0], *query[1:]))
        require_whole(whole, made.weight_shapes(), what=made.label, name=files.name)
        return layout, agreed

    def _agreed(self, made: Architecture) -> Architecture:
        """What was found, with the recipe's heads, if it is what the recipe says."""
        if self.model is not None and (made.dim, made.depth) != (SIZES[self.model].dim, SIZES[self.model].depth):
            raise CheckpointError(f'{self.checkpoint} holds {made.label}, and the recipe says model = "{self.model}"')
        heads = self.heads or made.heads
        if not heads:
            raise CheckpointError(
                f"{self.checkpoint} holds {made.label}, which is none of the published sizes, and no shape tells how "
                "many attention heads it has; set heads"
            )
        if made.dim % heads:
            raise GeometryError(
                f"heads = {heads} does not divide the width of {made.dim} of {self.checkpoint}; leave heads out, or "
                "choose a divisor"
            )
        return replace(made, heads=heads)

    def _published(self) -> Published | None:
        """The catalogue's entry of that name; a file that stands for any path has none."""
        return next((entry for entry in self.published if entry.name == self.checkpoint != FILE), None)

    @abstractmethod
    def described(self, name: str, config: Mapping[str, Any]) -> Architecture:
        """What a config.json says."""

    @abstractmethod
    def refuse_strangers(self, layout: Layout, made: Architecture) -> None:
        """Refuses files of the other generation."""

    def refuse_other_names(self) -> None:
        """Refuses hub ids of the other generation, before anything is downloaded."""
        others = VIDEOMAE if self.published is VIDEOMAE2 else VIDEOMAE2
        if self.checkpoint in hub_ids(others):
            raise CheckpointError(self.other_generation("its name says so"))

    def other_generation(self, evidence: str) -> str:
        """The sentence for a file of the other generation."""
        other, use = ("VideoMAE (v1)", "videomae") if self.published is VIDEOMAE2 else ("VideoMAEv2", "videomae2")
        return f'{self.checkpoint} is a checkpoint of {other}, as {evidence}; set use = "{use}"'

    def encoder_spec(self, clip: ClipSpec) -> EncoderSpec:
        """Its own clip, whatever the recipe's: its positions fit no other."""
        made = self.architecture()
        return EncoderSpec(
            architecture=made.described(),
            frames=made.frames,
            size=made.size,
            grid=made.grid,
            dim=made.dim,
            depth=made.depth,
            own_norm=made.own_norm is not None,
            # The norm behind the mean of all tokens was never meant for single ones.
            own_norm_is_default=made.own_norm == "norm",
            around=made.around,
            block=made.block,
        )

    def weight_files(self) -> Sequence[Path]:
        """The checkpoint's files."""
        files = None if self.weights == "random" else self.files()
        return files.weights if files else ()

    def missing(self) -> Sequence[MissingArtifact]:
        """The checkpoint, where it is not on this machine."""
        try:
            if self.weights == "random":
                self.architecture()
            elif self.files() is None:
                self.refuse_other_names()
                return [self.not_here()]
        except MissingArtifact as missing:
            return [missing]
        except (CheckpointError, GeometryError):
            return ()  # it is here, and `architecture` says what is wrong with it
        return ()

    def not_here(self, reason: str = "") -> MissingArtifact:
        """The error for a checkpoint that is not on this machine."""
        return not_here(self.checkpoint, hub_ids(self.published), reason, self.hint)

    def card(self) -> ModelCard | None:
        """What its files show; by its name where they are not here, or show nothing; None for random weights."""
        if self.weights == "random":
            return None
        entry = self._published()
        try:
            made = self.architecture()
        except (MissingArtifact, CheckpointError, GeometryError):
            return ModelCard(LICENCE, entry.labels if entry else "unknown")
        if made.classes:
            return ModelCard(LICENCE, self.datasets.get(made.classes, "unknown"))
        if entry is not None and entry.own_norm == made.own_norm:
            return ModelCard(LICENCE, entry.labels)
        return ModelCard(LICENCE, "none" if made.own_norm == "norm" else "unknown")

    @classmethod
    def known_checkpoints(cls) -> Sequence[KnownCheckpoint]:
        """The published ones."""
        return [entry.known for entry in cls.published]


class VideoMAEConfig(_VideoMAEConfig):
    """A VideoMAE (v1) encoder."""

    published: ClassVar[tuple[Published, ...]] = VIDEOMAE
    datasets: ClassVar[Mapping[int, str]] = DATASETS
    hint: ClassVar[str] = (
        "The pre-trained Huge is not on the hub: get the authors' checkpoint (MODEL_ZOO.md of MCG-NJU/VideoMAE) and "
        'set checkpoint = "/path/to/checkpoint.pth".'
    )

    checkpoint: str = Field(
        min_length=1,
        description="The authors' .pth file, a directory in Hugging Face layout (config.json and weights), or a hub "
        "id such as MCG-NJU/videomae-base.",
    )

    def described(self, name: str, config: Mapping[str, Any]) -> Architecture:
        """Reads transformers' config.json."""
        if "model_config" in config or "VideoMAEv2" in str(config.get("model_type")):
            raise CheckpointError(self.other_generation("its config.json says"))
        return from_transformers(name, config)

    def refuse_strangers(self, layout: Layout, made: Architecture) -> None:
        """Refuses VideoMAEv2's files, as far as they can be told apart."""
        if layout.name == "wrapped":
            raise CheckpointError(self.other_generation("its keys show, which begin with model."))
        if made.classes == 710:
            raise CheckpointError(self.other_generation("its classifier of Kinetics-710 shows"))
        if made.dim == SIZES["giant"].dim:
            raise CheckpointError(self.other_generation("its width of 1408 shows, the giant's"))

    @field_validator("model")
    @classmethod
    def _no_giant(cls, model: str | None) -> str | None:
        if model == "giant":
            raise SettingError('VideoMAE (v1) has no giant; choose model = "huge", or set use = "videomae2"')
        return model


class VideoMAE2Config(_VideoMAEConfig):
    """A VideoMAEv2 encoder."""

    published: ClassVar[tuple[Published, ...]] = VIDEOMAE2
    datasets: ClassVar[Mapping[int, str]] = DATASETS2
    hint: ClassVar[str] = "The .pth files are linked in docs/MODEL_ZOO.md of OpenGVLab/VideoMAEv2."

    checkpoint: str = Field(
        min_length=1,
        description="The authors' .pth file, a directory with config.json and weights, or a hub id such as "
        "OpenGVLab/VideoMAEv2-Base.",
    )

    def described(self, name: str, config: Mapping[str, Any]) -> Architecture:
        """Reads the hub's config.json."""
        if config.get("model_type") == "videomae":
            raise CheckpointError(self.other_generation("its config.json says"))
        return from_videomae2(name, config)

    def refuse_strangers(self, layout: Layout, made: Architecture) -> None:
        """Refuses VideoMAE's files, as far as they can be told apart, and giants that are none."""
        if layout.name == "transformers":
            raise CheckpointError(self.other_generation("its keys show, which are transformers'"))
        if made.dim == SIZES["giant"].dim and made.patch != SIZES["giant"].patch:
            raise CheckpointError(
                f"{self.checkpoint} has the giant's width of 1408 and patches of {made.patch} pixels; the giant's are "
                "14: download the checkpoint again"
            )


@lru_cache(maxsize=8)
def _shapes(name: str, files: tuple[tuple[Path, int], ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's weights, read once for each state of its files."""
    return CheckpointFiles(name, tuple(file for file, _ in files)).shapes()
