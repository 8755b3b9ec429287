"""Configs of the ViT student and of the transformer predictor; arithmetic only, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from salt_toolkit import (
    ClipSpec,
    Cost,
    Grid,
    MaskCounts,
    MissingArtifact,
    ModelCard,
    PredictorConfig,
    StudentConfig,
    TokenSpec,
)
from salt_toolkit.flops import (
    block_activations,
    block_flops,
    block_parameters,
    linear_flops,
    linear_parameters,
)
from salt_vit.hub import cached_weights, missing_weights
from salt_vit.image_models import architectures, published_weights

CHANNELS = 3
FROM_SCRATCH = "set student.pretrained = false"
"""What to do without pre-trained weights."""


@cache
def model_table() -> dict[str, dict[str, Any]]:
    """What timm's plain ViTs are made of; written by `make_model_table`."""
    return json.loads(Path(__file__).with_name("vit_models.json").read_text(encoding="utf-8"))


class TimmViTConfig(StudentConfig):
    """A timm ViT whose patch embedding sees tubelets."""

    model: str = Field(
        description="Name of a plain ViT in timm, such as vit_small_patch16_224; with pretrained = true also with "
        "the tag of its weights, such as vit_base_patch16_224.mae."
    )
    tubelet: int = Field(2, ge=1, description="Video frames in one token.")
    pretrained: bool = Field(
        False, description="Start from timm's image weights, inflated over time, instead of random ones."
    )
    dim: int | None = Field(None, ge=9, description="Width in numbers; absent: the model's own.")
    depth: int | None = Field(None, ge=1, description="Blocks; absent: the model's own.")
    heads: int | None = Field(None, ge=1, description="Attention heads; absent: the model's own.")
    patch: int | None = Field(None, ge=1, description="Height and width of a token in pixels; absent: the model's own.")
    drop_path: float = Field(0.0, ge=0, lt=1, description="Share of the last block's updates dropped in training.")
    grad_checkpointing: bool = Field(
        False, description="Compute activations twice instead of keeping them: less memory, a third slower."
    )
    _is_structure: bool = PrivateAttr(default=False)

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        name, dot, tag = model.partition(".")
        if name not in model_table():
            near = get_close_matches(name, model_table(), n=3)
            nearest = f"the nearest names are {', '.join(near)}; " if near else ""
            raise ValueError(
                f"found {model!r}, which is not one of timm's {len(model_table())} plain ViTs; {nearest}"
                "models with rotary positions (EVA, DINOv3), hybrids and Swins are not plain ViTs"
            )
        tags = model_table()[name]["weights"]
        if dot and tag not in tags:
            raise ValueError(f"found weights {tag!r} of {name}, and timm has {', '.join(tags) or 'none'}")
        return model

    @model_validator(mode="after")
    def _sizes_fit(self) -> TimmViTConfig:
        changed = [name for name in ("dim", "depth", "heads", "patch") if getattr(self, name) is not None]
        if self.pretrained and changed:
            raise ValueError(
                f"pretrained = true takes the model as it is, but {', '.join(changed)} would change it; "
                "remove them, or set pretrained = false"
            )
        if self.pretrained and not self._row["weights"]:
            raise ValueError(f"the hub holds no weights of {self.model}; set pretrained = false, or name another model")
        if not self.pretrained and "." in self.model:
            name = self.model.partition(".")[0]
            raise ValueError(
                f"{self.model} names weights, which pretrained = false does not load; "
                f'set pretrained = true, or model = "{name}"'
            )
        if {"dim", "depth", "heads"} & set(changed) and not self._row["plain"]:
            raise ValueError(
                f"the blocks of {self.model} are not plain, so dim, depth and heads cannot be changed; "
                "use a model such as vit_tiny_patch16_224 for that"
            )
        check_heads(self.sizes["dim"], self.sizes["heads"])
        return self

    @property
    def _row(self) -> dict[str, Any]:
        return model_table()[self.model.partition(".")[0]]

    @property
    def weights(self) -> tuple[str, str]:
        """Full name (in timm) of the pre-trained weights, and their repository on the hub.

        Where the recipe names no tag, they are those that timm itself takes.
        """
        name, _, tag = self.model.partition(".")
        repositories = self._row["weights"]
        tag = tag or next(iter(repositories))
        return f"{name}.{tag}", repositories[tag]

    @property
    def timm_name(self) -> str:
        """The model's name in timm; the tag of weights that it starts from decides how pixels are normalised."""
        return self.weights[0] if self.pretrained else self.model

    @property
    def loads_weights(self) -> bool:
        """Whether building it takes pre-trained weights."""
        return self.pretrained and not self._is_structure

    def cached_weights(self) -> Path | None:
        """The file of the pre-trained weights in the hub's cache on this machine; None if it is not there."""
        return cached_weights(self.weights[1])

    def missing(self) -> Sequence[MissingArtifact]:
        """The pre-trained weights, where the recipe wants them and the hub's cache has none."""
        if not self.loads_weights or self.cached_weights() is not None:
            return ()
        return [missing_weights(*self.weights, FROM_SCRATCH)]

    def card(self) -> ModelCard | None:
        """Licence and labels of the pre-trained weights."""
        if not self.pretrained:
            return None
        name, _, tag = self.weights[0].partition(".")
        if name not in architectures():
            return ModelCard()  # a student that cannot be an image teacher, such as RADIO's
        return published_weights(name)[tag].card

    def identity(self) -> Mapping[str, Any]:
        """What decides its tokens: model (with the tag that timm takes where none is named), tubelets and sizes."""
        name = self.weights[0] if self._row["weights"] else self.model
        return {"model": name, "tubelet": self.tubelet, **self.sizes}

    def structure(self, num_layers: int | None = None) -> TimmViTConfig:
        """The same model and normalisation, with random weights; see `StudentConfig`."""
        copy = self.model_copy(update={} if num_layers is None else {"depth": num_layers})
        copy._is_structure = True
        return copy

    def teachable_layers(self) -> int:
        """All its blocks."""
        return self.sizes["depth"]

    @property
    def sizes(self) -> dict[str, int]:
        """dim, depth, heads and patch of the student, after the recipe's changes."""
        return {name: getattr(self, name) or self._row[name] for name in ("dim", "depth", "heads", "patch")}

    def token_spec(self, clip: ClipSpec) -> TokenSpec:
        """One token for each tubelet of ``tubelet`` frames x patch x patch pixels."""
        sizes = self.sizes
        return TokenSpec(Grid.of(clip, tubelet=self.tubelet, patch=sizes["patch"]), sizes["dim"])

    def cost(self, clip: ClipSpec, visible: int) -> Cost:
        """Counts embedding and blocks, both over the visible tokens."""
        sizes, row = self.sizes, self._row
        dim, depth, tokens = sizes["dim"], sizes["depth"], self.token_spec(clip).grid.num_tokens
        tubelet_numbers = CHANNELS * self.tubelet * sizes["patch"] ** 2
        changed = dim != row["dim"]
        mlp_dim = 4 * dim if changed else row["mlp_dim"]
        block = block_parameters(dim, mlp_dim) if changed else row["block_parameters"]
        weights = 12 * dim**2 if changed else row["block_weights"]
        pairs = 4 * dim if changed else row["attention_flops"]
        norms = 2 * dim if changed else row["norm_parameters"]
        embedding = linear_flops(visible, tubelet_numbers, dim)
        one_block = 2 * visible * weights + visible**2 * pairs
        kept = block_activations(visible, dim, mlp_dim)
        return Cost(
            parameters=linear_parameters(tubelet_numbers, dim) + tokens * dim + depth * block + norms,
            forward_flops=embedding + depth * one_block,
            input_flops=embedding,
            activations=visible * dim + (kept + depth * visible * dim if self.grad_checkpointing else depth * kept),
        )


class TransformerPredictorConfig(PredictorConfig):
    """A narrow transformer over visible tokens and mask tokens."""

    dim: int = Field(384, ge=9, description="Width in numbers.")
    depth: int = Field(12, ge=1, description="Blocks.")
    heads: int = Field(6, ge=1, description="Attention heads; they divide dim.")
    mlp_ratio: float = Field(4.0, gt=0, description="Width of the MLPs over dim.")
    grad_checkpointing: bool = Field(
        False, description="Compute activations twice instead of keeping them: less memory, a third slower."
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerPredictorConfig:
        check_heads(self.dim, self.heads)
        return self

    @model_validator(mode="after")
    def _mlps_have_a_width(self) -> TransformerPredictorConfig:
        if self.mlp_dim < 1:
            raise ValueError(
                f"mlp_ratio = {self.mlp_ratio} leaves MLPs of no width at dim = {self.dim}; "
                f"choose at least 1 / {self.dim}; 4 is usual"
            )
        return self

    @property
    def mlp_dim(self) -> int:
        """Width of the MLPs, in numbers."""
        return int(self.dim * self.mlp_ratio)

    def cost(self, student: TokenSpec, teacher: TokenSpec, counts: MaskCounts) -> Cost:
        """Counts all visible and target tokens in every block, and in the last one what the targets need."""
        tokens = counts.visible + counts.target
        block = block_flops(tokens, self.dim, self.mlp_dim)
        # Visible tokens are asked for no query, no projection and no MLP, and attend to nothing.
        saved = 2 * linear_flops(counts.visible, self.dim, self.dim + self.mlp_dim) + (
            4 * counts.visible * tokens * self.dim
        )
        ends = linear_flops(counts.visible, student.dim, self.dim) + linear_flops(counts.target, self.dim, teacher.dim)
        kept = block_activations(tokens, self.dim, self.mlp_dim)
        return Cost(
            parameters=linear_parameters(student.dim, self.dim)
            + self.dim  # the mask token
            + self.depth * block_parameters(self.dim, self.mlp_dim)
            + 2 * self.dim  # the last norm
            + linear_parameters(self.dim, teacher.dim),
            forward_flops=ends + self.depth * block - saved,
            activations=kept + self.depth * tokens * self.dim if self.grad_checkpointing else self.depth * kept,
        )


def check_heads(dim: int, heads: int) -> None:
    """Refuses heads that do not divide the width, with the nearest ones that do.

    Raises:
        ValueError: ``dim`` is not a multiple of ``heads``.
    """
    if dim % heads:
        divisors = [number for number in range(1, dim + 1) if dim % number == 0]
        near = sorted(sorted(divisors, key=lambda number: abs(number - heads))[:2])
        raise ValueError(
            f"dim = {dim} is not a multiple of heads = {heads}; choose heads = {' or '.join(map(str, near))}"
        )
