"""Configs of the image teachers; they answer from a table and from the headers of files, without torch or timm."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from salt_toolkit import (
    CheckpointError,
    ClipSpec,
    GeometryError,
    Grid,
    KnownCheckpoint,
    MissingArtifact,
    ModelCard,
    SettingError,
)
from salt_toolkit.teaching.config import EncoderConfig, EncoderSpec
from salt_toolkit.weights.locate import CheckpointFiles, find_checkpoint
from salt_vit.hub import cached_weights, missing_weights
from salt_vit.image_catalog import REPRESENTATIVE, Offer, all_models, dino_models
from salt_vit.image_files import refuse_strangers
from salt_vit.image_models import (
    ImageArchitecture,
    ImageWeights,
    Pixels,
    architectures,
    known,
    published_weights,
    usual_pixels,
)
from salt_vit.image_pictures import left_open, stated_by

ELSEWHERE = "name a file in checkpoint"
"""What to do without the hub's weights."""

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
"""Of files with weights; a path that is not here and ends in another way may be a directory."""


class TimmImageConfig(EncoderConfig):
    """A frozen image backbone of timm, applied to every frame on its own."""

    revision: ClassVar[int | None] = 1
    movable: ClassVar[tuple[str, ...]] = ("checkpoint",)

    model: str = Field(
        description="Name of a ViT or EVA in timm, such as vit_base_patch16_siglip_224; with the tag of its weights, "
        "such as .webli, or with timm's own choice."
    )
    checkpoint: str | None = Field(
        None,
        description="A file with the weights (timm's layout, or the authors' where timm can read it), or a directory "
        "with config.json and model.safetensors; absent: those of the tag, from the hub.",
    )
    size: int | None = Field(
        None, ge=1, description="Height and width that frames are resized to for it, in pixels; absent: the clip's."
    )
    prefix: Literal["drop", "class", "all"] = Field(
        "drop",
        description="What becomes of a frame's tokens that are no patches. drop: nothing. class: the class token's "
        "numbers are appended to those of every patch of the frame. all: so are the registers'.",
    )

    @classmethod
    def offer(cls) -> Offer:
        """The models that recipes may name, with the tags of their weights."""
        return all_models()

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        name, dot, tag = model.partition(".")
        tags = cls.offer().get(name)
        if tags is None:
            raise SettingError(cls._unknown(name))
        if dot and tag not in tags:
            raise SettingError(f"found weights {tag!r} of {name}, and there are {', '.join(tags) or 'none'}")
        instead = published_weights(name)[tag].instead if dot else None
        if instead:
            raise SettingError(
                f"the weights {model} were trained with QuickGELU, and {name} computes another GELU; set model to "
                f"{instead}, which takes the same file"
            )
        return model

    @classmethod
    def _unknown(cls, name: str) -> str:
        near = get_close_matches(name, cls.offer(), n=3)
        nearest = f"the nearest names are {', '.join(near)}; " if near else ""
        return (
            f"found {name!r}, which is not one of the {len(cls.offer())} image models with patch tokens that salt "
            f"knows of timm; {nearest}Swins, hybrids with convolutions, C-RADIO and Sapiens are not among them"
        )

    @model_validator(mode="after")
    def _settings_fit(self) -> TimmImageConfig:
        made = self.architecture
        if self.prefix == "class" and not made.class_token:
            message = f'prefix = "class", and {made.name} has no class token; set prefix = "drop"'
            raise SettingError(message, fields=["prefix", "model"])
        if self.prefix == "all" and not made.prefix:
            message = f'prefix = "all", and {made.name} has tokens of patches alone; set prefix = "drop"'
            raise SettingError(message, fields=["prefix", "model"])
        if self.size is not None and self.size % made.patch:
            message = f"size = {self.size} is not a multiple of the patch of {_near(self.size, made)}"
            raise SettingError(message, fields=["size", "model"])
        if self.weights == "random" and self.checkpoint is not None:
            message = 'weights = "random" reads no checkpoint; remove one of the two'
            raise SettingError(message, fields=["weights", "checkpoint"])
        if self.weights == "checkpoint" and self.checkpoint is None and self.published is None:
            message = f"the hub holds no weights of {made.name}; name a file in checkpoint, or another model"
            raise SettingError(message, fields=["model", "weights", "checkpoint"])
        question = self._left_open()
        if question:
            raise SettingError(question, fields=["model", "checkpoint"])
        return self

    def _left_open(self) -> str | None:
        """What nobody says of the pictures that a file of one's own was trained with; None where all is said."""
        if self.checkpoint is None or "." in self.model:
            return None
        try:
            files = self.files()
            if files is None and not self.checkpoint.endswith(ENDINGS):
                return None  # what is not here may be a directory that says it
            stated = stated_by(files, self.model)
        except CheckpointError:
            return None  # `encoder_spec` says what is wrong with it
        return left_open(self.model, self.checkpoint, self.offer()[self.model], stated)

    @property
    def architecture(self) -> ImageArchitecture:
        """What the model is made of."""
        return architectures()[self.model.partition(".")[0]]

    @property
    def published(self) -> ImageWeights | None:
        """The hub's weights that the recipe means; None where the hub has none."""
        name, _, tag = self.model.partition(".")
        tags = [tag] if tag else [each for each in self.offer()[name] if not published_weights(name)[each].instead]
        return published_weights(name)[tags[0]] if tags else None

    def files(self) -> CheckpointFiles | None:
        """The weights on this machine; None where they are not.

        Raises:
            CheckpointError: A directory without config.json or without weights.
        """
        if self.checkpoint is not None:
            return find_checkpoint(self.checkpoint) if _is_here(self.checkpoint) else None
        assert self.published is not None
        file = cached_weights(self.published.repository)
        return CheckpointFiles(self.published.name, (file,)) if file else None

    def refuse_strangers(self, files: CheckpointFiles) -> None:
        """Refuses files of another model, as far as their shapes show it; see `image_files`."""
        refuse_strangers(files, self.architecture, self.offer())

    def encoder_spec(self, clip: ClipSpec) -> EncoderSpec:
        """Every frame of the clip as it is, in a grid of the model's patches."""
        made = self.architecture
        size = self.size or clip.size
        if size % made.patch:
            raise GeometryError(
                f"clip.size = {size} is not a multiple of {made.name}'s patch of {_near(size, made)} as the teacher's "
                "size, and frames are resized for it"
            )
        files = None if self.weights == "random" else self.files()
        if files is not None:
            self.refuse_strangers(files)
        mean, std = self._pixels(files)
        return EncoderSpec(
            architecture={"timm": made.name},
            frames=clip.frames,
            size=size,
            grid=Grid(clip.frames, made.side(size), made.side(size)),
            dim=made.dim,
            depth=made.depth,
            own_norm=made.norm is not None,
            # The norm behind the mean of all tokens was never meant for single ones.
            own_norm_is_default=made.norm == "norm",
            around=made.around(size, frames=clip.frames),
            block=made.block(size, frames=clip.frames),
            mean=mean,
            std=std,
            beside={"drop": 0, "class": 1, "all": made.prefix}[self.prefix],
        )

    def _pixels(self, files: CheckpointFiles | None) -> Pixels:
        """What a directory says of itself, or the tag's, or else the model's usual mean and deviation."""
        stated = stated_by(files, self.architecture.name).pixels
        return stated or (self.published.pixels if self.published else usual_pixels(self.architecture.name))

    def weight_files(self) -> Sequence[Path]:
        """The file with the weights, or several."""
        files = None if self.weights == "random" else self.files()
        return files.weights if files else ()

    def missing(self) -> Sequence[MissingArtifact]:
        """The weights, where they are not on this machine."""
        if self.weights == "random":
            return ()
        try:
            return () if self.files() is not None else [self.not_here()]
        except CheckpointError:
            return ()  # something is here, and `encoder_spec` says what is wrong with it

    def not_here(self) -> MissingArtifact:
        """The error for weights that are not on this machine."""
        if self.checkpoint is not None:
            return MissingArtifact(
                f"the checkpoint {self.checkpoint} does not exist",
                "Name a file (.safetensors, .pth) or a directory with config.json and model.safetensors, or remove "
                "checkpoint to take the hub's weights.",
            )
        assert self.published is not None
        return missing_weights(self.published.name, self.published.repository, ELSEWHERE)

    def card(self) -> ModelCard | None:
        """The tag's; of a file whose tag the recipe does not name, nothing is known."""
        if self.weights == "random":
            return None
        if self.published is None or (self.checkpoint is not None and "." not in self.model):
            return ModelCard()
        return self.published.card

    @classmethod
    def known_checkpoints(cls) -> Sequence[KnownCheckpoint]:
        """The best known of some four hundred."""
        return [known(name) for name in REPRESENTATIVE]


class DinoConfig(TimmImageConfig):
    """A DINO, DINOv2 or DINOv3 backbone, applied to every frame on its own."""

    model: str = Field(
        "vit_base_patch14_reg4_dinov2.lvd142m",
        description="Name of a DINO, DINOv2 (also with registers: reg4) or DINOv3 in timm, with or without the tag of "
        "its weights, such as vit_small_patch16_dinov3.lvd1689m or vit_small_patch16_224.dino.",
    )

    @classmethod
    def offer(cls) -> Offer:
        """Those of all models, and those of their tags, that are DINO's."""
        return dino_models()

    @classmethod
    def _unknown(cls, name: str) -> str:
        if name in all_models():
            lead = f'found {name!r}, which has no DINO weights; set use = "timm_image" for it, or'
        else:
            near = get_close_matches(name, cls.offer(), n=2)
            lead = f"found {name!r}, and the nearest names are {', '.join(near)};" if near else f"found {name!r};"
        return f"{lead} choose one of {', '.join(cls.offer())}"

    @classmethod
    def known_checkpoints(cls) -> Sequence[KnownCheckpoint]:
        """All of them."""
        return [known(f"{name}.{tag}") for name, tags in cls.offer().items() for tag in tags]


def _is_here(name: str) -> bool:
    """Whether a path exists; it is never taken for a hub id."""
    try:
        return Path(name).expanduser().exists()
    except PermissionError:
        return True  # `find_checkpoint` says it in a sentence
    except (OSError, RuntimeError):  # too long for a path, or in the home of somebody who has none
        return False


def _near(size: int, made: ImageArchitecture) -> str:
    below = size // made.patch * made.patch
    choices = [str(choice) for choice in (below, below + made.patch) if choice]
    return f"{made.patch} pixels; choose {' or '.join(choices)}"
